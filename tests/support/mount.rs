//! Mounts for tests: made by the command, undone whatever happens, and never waited for without end.
#![allow(dead_code, unreachable_pub, reason = "each test binary includes it and uses a part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// The command under test.
pub const ASHLAR: &str = env!("CARGO_BIN_EXE_ashlar");

/// What is mounted now, and by which test's thread.
static MOUNTS: Mutex<Vec<(ThreadId, PathBuf, Pid)>> = Mutex::new(Vec::new());

/// Whether this machine lets us mount; says aloud why not.
pub fn can_mount(test: &str) -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "this test mounts, which needs root here"
    } else if fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
        "there is no /dev/fuse"
    } else {
        return true;
    };
    eprintln!("skipped: {test}: {why}");
    false
}

/// Runs a test that must end in time; if it does not, the servers it started are killed, which frees whoever waits for them.
pub fn limited(test: &str, seconds: u64, body: impl FnOnce() + Send + 'static) {
    if !can_mount(test) {
        return;
    }
    let (done, wait) = mpsc::channel();
    let worker = thread::spawn(move || {
        body();
        done.send(()).unwrap();
    });
    match wait.recv_timeout(Duration::from_secs(seconds)) {
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let mounts = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
            for (owner, point, server) in mounts.iter() {
                if *owner == worker.thread().id() {
                    rustix::process::kill_process(*server, Signal::KILL).ok();
                    rustix::mount::unmount(point, UnmountFlags::DETACH).ok();
                }
            }
            drop(mounts);
            panic!("{test} took more than {seconds} s");
        }
        // The test's own panic is the one to see.
        _ => worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// An image with the directory it was made from.
pub struct Image {
    pub directory: TempDir,
    pub source: PathBuf,
    pub path: PathBuf,
    pub digest: String,
}

impl Image {
    /// Makes a tree with `fill` and packs it.
    pub fn build(extra: &[&str], fill: impl FnOnce(&Path)) -> Image {
        let directory = tempfile::tempdir().unwrap();
        let (source, path) = (directory.path().join("tree"), directory.path().join("a.img"));
        fs::create_dir(&source).unwrap();
        fill(&source);
        let mut args = vec!["mkimage", "--quiet", "-z", "zstd,3"];
        args.extend(extra);
        args.extend([source.to_str().unwrap(), path.to_str().unwrap()]);
        let summary = ashlarfs_mkimage::run(args).unwrap();
        Image { directory, source, path, digest: summary.root_digest.clone() }
    }

    /// A directory to mount on, beside the image.
    pub fn mountpoint(&self, name: &str) -> PathBuf {
        let mountpoint = self.directory.path().join(name);
        fs::create_dir_all(&mountpoint).unwrap();
        mountpoint
    }

    /// Mounts with `-o options`.
    pub fn mount(&self, options: &str) -> Mount {
        let point = self.mountpoint("mnt");
        let options = format!("root_digest={},{options}", self.digest);
        let output = ashlar(&["mount", "-o", &options, self.path.to_str().unwrap(), text(&point)]);
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        Mount::found(point)
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs the command.
pub fn ashlar(args: &[&str]) -> Output {
    Command::new(ASHLAR).args(args).stdin(Stdio::null()).output().unwrap()
}

/// A mounted image; unmounted, and its server ended, when dropped.
pub struct Mount {
    pub point: PathBuf,
    pub server: Pid,
}

impl Mount {
    /// What is mounted on `point`.
    pub fn found(point: PathBuf) -> Mount {
        let pid = status(&point)["pid"].as_i64().unwrap();
        let server = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        MOUNTS.lock().unwrap().push((thread::current().id(), point.clone(), server));
        Mount { point, server }
    }

    /// The report of `ashlar status --json`.
    pub fn status(&self) -> serde_json::Value {
        status(&self.point)
    }

    /// Questions so far, by kind, without those that never were.
    pub fn upcalls(&self) -> BTreeMap<String, u64> {
        let status = self.status();
        let upcalls = status["upcalls"].as_object().unwrap();
        let counts = upcalls.iter().map(|(kind, count)| (kind.clone(), count.as_u64().unwrap()));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Questions that `body` caused, as `kind count`.
    pub fn cost(&self, body: impl FnOnce()) -> Vec<String> {
        let before = self.upcalls();
        body();
        let after = self.upcalls();
        let cost = after.into_iter().map(|(kind, count)| {
            let more = count - before.get(&kind).copied().unwrap_or(0);
            (kind, more)
        });
        cost.filter(|(_, more)| *more > 0).map(|(kind, more)| format!("{kind} {more}")).collect()
    }

    /// Whether the server lives.
    pub fn server_lives(&self) -> bool {
        rustix::process::test_kill_process(self.server).is_ok()
    }

    /// Waits for the server to end.
    pub fn server_ends(&self) -> bool {
        within(Duration::from_secs(10), || !self.server_lives())
    }

    /// Unmounts as a person would, who tries again: what another test starts at this moment has our open files until it is a program.
    pub fn umount(&self) {
        let mut output = None;
        let is_done = within(Duration::from_secs(5), || {
            let last = Command::new("umount").arg(&self.point).output().unwrap();
            output.insert(last).status.success()
        });
        assert!(is_done, "{output:?}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        MOUNTS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(_, _, server)| *server != self.server);
        let unmounted = rustix::mount::unmount(&self.point, UnmountFlags::DETACH).is_ok();
        if unmounted && !within(Duration::from_secs(5), || !self.server_lives()) {
            rustix::process::kill_process(self.server, Signal::KILL).ok();
        }
    }
}

/// The report of a mount.
pub fn status(point: &Path) -> serde_json::Value {
    let output = ashlar(&["status", "--json", text(point)]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Whether something comes true in time.
pub fn within(time: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if is_true() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    is_true()
}

/// Whether something of ours is mounted on `point`.
pub fn is_mounted(point: &Path) -> bool {
    ashlar(&["status", text(point)]).status.success()
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
