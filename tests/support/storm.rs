//! Many who use a mount at once, hold every answer against the directory it was made from, and keep the time.
#![allow(dead_code, unreachable_pub, reason = "each test binary includes it and uses a part")]

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What was asked of the server, and when.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    pub begun: Instant,
    pub ended: Instant,
}

/// What is known of all of them.
#[derive(Debug, Default)]
pub struct Log {
    pub done: Mutex<Vec<Done>>,
    pub count: AtomicU64,
    pub failures: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// The storm, until it is ended.
pub struct Storm {
    pub log: Arc<Log>,
    threads: Vec<JoinHandle<()>>,
}

/// Bytes of a read that asks the server each time, whatever the kernel has: `O_DIRECT` in this size and at its multiples.
const DIRECT_LEN: usize = 4096;

/// A tree for a storm: small files in directories, a few large ones, and a program to start.
pub fn fill(tree: &Path) {
    for nth in 0..240_u64 {
        let directory = tree.join(format!("d{}", nth % 12));
        fs::create_dir_all(&directory).unwrap();
        let len = usize::try_from(blake3_number(nth) % 90_000).unwrap();
        fs::write(directory.join(format!("f{nth}")), noise(nth, len)).unwrap();
    }
    for nth in 0..4_u64 {
        fs::write(tree.join(format!("large{nth}")), noise(1000 + nth, 3_000_000)).unwrap();
    }
    fs::copy("/bin/true", tree.join("program")).unwrap();
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn blake3_number(seed: u64) -> u64 {
    u64::from_le_bytes(noise(seed ^ 0x5eed, 8).try_into().unwrap())
}

impl Storm {
    /// Lets it loose on `mount`, whose files must be those of `source`. With `dropping`, the kernel is made to forget all the while.
    pub fn begin(mount: &Path, source: &Path, dropping: bool) -> Storm {
        let log = Arc::new(Log::default());
        let files = Arc::new(files(source));
        let kinds: [fn(&Site, u64) -> Result<(), String>; 6] = [read, map, start, list, look, ask];
        let mut threads = Vec::new();
        for (nth, kind) in kinds.into_iter().cycle().take(9).enumerate() {
            let site = Site {
                mount: mount.to_owned(),
                source: source.to_owned(),
                files: Arc::clone(&files),
            };
            let log = Arc::clone(&log);
            threads.push(thread::spawn(move || work(&site, &log, kind, nth as u64, nth % 6 == 5)));
        }
        if dropping {
            let log = Arc::clone(&log);
            threads.push(thread::spawn(move || {
                while !log.stop.load(Ordering::Relaxed) {
                    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
                    thread::sleep(Duration::from_millis(15));
                }
            }));
        }
        Storm { log, threads }
    }

    /// Ends it; what went wrong.
    pub fn end(self) -> Vec<String> {
        self.log.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut self.log.failures.lock().unwrap())
    }
}

impl Log {
    /// How long whoever asks the server waited for it from then on: with the question of that moment, which may have been
    /// answered before, or with the one after it.
    pub fn stall(&self, at: Instant) -> Duration {
        let done = self.done.lock().unwrap();
        let after = done.iter().skip(done.partition_point(|it| it.ended < at));
        after.take(2).map(|it| it.ended - it.begun.max(at)).max().unwrap_or_default()
    }
}

struct Site {
    mount: PathBuf,
    source: PathBuf,
    files: Arc<Vec<PathBuf>>,
}

impl Site {
    fn pick(&self, number: u64) -> &Path {
        &self.files[usize::try_from(number).unwrap() % self.files.len()]
    }
}

fn files(source: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![source.to_owned()];
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
            } else {
                found.push(path.strip_prefix(source).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn work(
    site: &Site,
    log: &Log,
    kind: fn(&Site, u64) -> Result<(), String>,
    seed: u64,
    is_direct: bool,
) {
    let mut number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while !log.stop.load(Ordering::Relaxed) {
        number = blake3_number(number);
        let begun = Instant::now();
        if let Err(why) = kind(site, number) {
            log.failures.lock().unwrap().push(why);
        }
        let ended = Instant::now();
        log.count.fetch_add(1, Ordering::Relaxed);
        if is_direct {
            log.done.lock().unwrap().push(Done { begun, ended });
        }
    }
}

/// A piece of a large file, always from the server.
fn ask(site: &Site, number: u64) -> Result<(), String> {
    let path = format!("large{}", number % 4);
    let expected = fs::File::open(site.source.join(&path)).unwrap();
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let opened = File::options().read(true).custom_flags(flags).open(site.mount.join(&path));
    let file = told("open", Path::new(&path), opened)?;
    let offset = (number >> 8) % 700 * DIRECT_LEN as u64;
    let mut space = vec![0; 2 * DIRECT_LEN];
    let at = space.as_ptr().align_offset(DIRECT_LEN);
    let content = &mut space[at..at + DIRECT_LEN];
    told("direct read", Path::new(&path), file.read_exact_at(content, offset))?;
    let mut wanted = vec![0; DIRECT_LEN];
    expected.read_exact_at(&mut wanted, offset).unwrap();
    if content == wanted { Ok(()) } else { Err(format!("wrong bytes at {offset} of {path}")) }
}

fn told<T>(what: &str, path: &Path, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|err| format!("{what} of {}: {err}", path.display()))
}

/// A piece of a file, or all of it.
fn read(site: &Site, number: u64) -> Result<(), String> {
    let path = site.pick(number);
    let expected = fs::read(site.source.join(path)).unwrap();
    let file = told("open", path, File::open(site.mount.join(path)))?;
    let from = usize::try_from(number >> 32).unwrap() % expected.len().max(1);
    let len = if number.is_multiple_of(3) {
        expected.len() - from
    } else {
        5000.min(expected.len() - from)
    };
    let mut content = vec![0; len];
    told("read", path, file.read_exact_at(&mut content, from as u64))?;
    if content == expected[from..from + len] {
        Ok(())
    } else {
        Err(format!("wrong bytes in {}", path.display()))
    }
}

/// Pages of a file through a map: what cannot be had is no error there, but the end by SIGBUS. So another process does it.
fn map(site: &Site, number: u64) -> Result<(), String> {
    let path = site.pick(number);
    let (one, other) = (site.mount.join(path), site.source.join(path));
    // cmp maps nothing; a program that is started is mapped, and so is what python3 maps.
    let script = "import mmap,sys\na,b=[open(p,'rb') for p in sys.argv[1:]]\nx=b.read()\n\
                  sys.exit(0 if not x or mmap.mmap(a.fileno(),0,prot=mmap.PROT_READ)[:]==x else 3)";
    let output = Command::new("python3").args(["-c", script]).arg(&one).arg(&other).output();
    let output = output.map_err(|err| format!("python3: {err}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("map of {}: {output:?}", path.display()))
    }
}

/// A program.
fn start(site: &Site, _: u64) -> Result<(), String> {
    let path = site.mount.join("program");
    let status = Command::new(&path).stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = told("exec", &path, status)?;
    if status.success() { Ok(()) } else { Err(format!("the program: {status}")) }
}

fn names(directory: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().as_bytes().to_vec());
    }
    names.sort();
    Ok(names)
}

/// Names in a directory.
fn list(site: &Site, number: u64) -> Result<(), String> {
    let parent = site.pick(number).parent().unwrap();
    let found = told("list", parent, names(&site.mount.join(parent)))?;
    let expected = names(&site.source.join(parent)).unwrap();
    if found == expected { Ok(()) } else { Err(format!("wrong names in {}", parent.display())) }
}

/// Attributes.
fn look(site: &Site, number: u64) -> Result<(), String> {
    let path = site.pick(number);
    let found = told("stat", path, fs::symlink_metadata(site.mount.join(path)))?;
    let expected = fs::symlink_metadata(site.source.join(path)).unwrap();
    let of = |it: &fs::Metadata| (it.len(), it.mode(), it.uid(), it.mtime());
    if of(&found) == of(&expected) {
        Ok(())
    } else {
        Err(format!("wrong attributes of {}", path.display()))
    }
}

/// Median, 99th percentile and maximum, in milliseconds.
pub fn summary(mut stalls: Vec<Duration>) -> (u128, u128, u128) {
    stalls.sort();
    let at =
        |percent: usize| stalls[(stalls.len() * percent / 100).min(stalls.len() - 1)].as_millis();
    (at(50), at(99), at(100))
}
