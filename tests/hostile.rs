//! Does anything that an enemy or a dying disk gives us do harm? More than 1,300 images are damaged or sealed by an enemy, by
//! rules, always the same; each is refused, or read with verified bytes only. And every target of `tests/fuzz` is fed with its
//! corpus, and with what grows from it, on stable Rust: `tests/fuzz/run` is the command for a night.
//!
//! `ASHLAR_FUZZ_SECONDS` says how long to feed (a fixed number of inputs if not given), `ASHLAR_SEED` where to start,
//! `ASHLAR_FUZZ_INPUT=TARGET:FILE` feeds that file alone.

#[path = "support/cases.rs"]
mod cases;
#[path = "support/grown.rs"]
mod grown;
#[path = "support/image.rs"]
mod image;
#[path = "support/mount.rs"]
mod mount;
#[path = "support/seal.rs"]
mod seal;
#[path = "fuzz/src/targets/mod.rs"]
#[allow(dead_code, reason = "the targets' programs use the rest")]
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ashlarfs::format::index::InodeIndex;
use ashlarfs::format::inode::Kind;
use ashlarfs::{Anchor, Options};
use grown::{Hostile, Random};
use targets::Target;
use targets::examine::examine;
use targets::images::{SMALL, judge_damaged, judge_sealed};

/// Images that there must be at least.
const IMAGES_MIN: usize = 1_300;
/// Images that are mounted, too.
const SAMPLE: usize = 24;
/// Longest time that one input may take on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(30);

/// One test at work. What it leaves is removed.
struct Alone(#[expect(dead_code, reason = "held, not looked at")] MutexGuard<'static, ()>);

impl Drop for Alone {
    fn drop(&mut self) {
        targets::updates::sweep();
    }
}

/// Memory is counted for the whole process, so that one test is at work at a time.
fn alone() -> Alone {
    static ALONE: Mutex<()> = Mutex::new(());
    Alone(ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Says something that is seen although the test passes: what `eprintln` says is not.
fn tell(text: &str) {
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

#[test]
fn hostile_images_are_refused_or_read_true() {
    let _alone = alone();
    let images = grown::all();
    let mut names = BTreeSet::new();
    for image in &images {
        assert!(names.insert(&image.name), "{} is made twice", image.name);
    }
    assert!(images.len() >= IMAGES_MIN, "{} images, {IMAGES_MIN} are wanted", images.len());
    let (next, clean, slowest) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new((0, "")));
    let wrong = Mutex::new(Vec::new());
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(image) = images.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let Ok(is_clean) = catch_unwind(AssertUnwindSafe(|| judged(image))) else {
                        wrong.lock().unwrap().push(image.name.as_str());
                        continue;
                    };
                    clean.fetch_add(is_clean.into(), Ordering::Relaxed);
                    let took = started.elapsed();
                    assert!(took < TIME_MAX, "{} took {took:?}", image.name);
                    let mut slowest = slowest.lock().unwrap();
                    *slowest = (*slowest).max((took.as_millis(), &image.name));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} cannot be stood:\n{}", wrong.len(), wrong.join("\n"));
    let (count, clean) = (images.len(), clean.into_inner());
    let (millis, name) = slowest.into_inner().unwrap();
    tell(&format!(
        "hostile images: {count}, of which {} are refused or read in part and {clean} keep all rules; {} s, the slowest ({name}) {millis} ms",
        count - clean,
        started.elapsed().as_secs()
    ));
    // Were all of them refused, nothing behind the door would have been tried.
    assert!(clean > count / 50 && clean < count / 2, "{clean} of {count} keep all rules");
}

/// Looks at one image; returns whether nothing is wrong with it.
fn judged(image: &Hostile) -> bool {
    match image.make() {
        (bytes, _) if image.is_damaged => {
            judge_damaged(&bytes);
            false
        }
        (bytes, Anchor::RootDigest(root)) => judge_sealed(&bytes, root),
        (bytes, anchor) => examine(&bytes, &Options::new(anchor)).is_clean,
    }
}

/// A sample goes through the kernel: whoever reads gets right bytes or an error, and the server lives on.
#[test]
fn mounted_hostile_images_do_no_harm() {
    mount::limited("mounted_hostile_images_do_no_harm", 300, || {
        let _alone = alone();
        let images = grown::all();
        let truth = truth();
        let directory = tempfile::tempdir().unwrap();
        let (path, point) = (directory.path().join("a.img"), directory.path().join("mnt"));
        fs::create_dir(&point).unwrap();
        let mut mounted = 0;
        for image in images.iter().step_by(images.len().div_ceil(SAMPLE)) {
            let (bytes, Anchor::RootDigest(root)) = image.make() else { continue };
            fs::write(&path, bytes).unwrap();
            let options = format!("root_digest={root}");
            let (path, at) = (path.to_str().unwrap(), point.to_str().unwrap());
            let output = mount::ashlar(&["mount", "-o", &options, path, at]);
            if !output.status.success() {
                let told = String::from_utf8_lossy(&output.stderr);
                assert!(told.contains("error"), "{}: {told}", image.name);
                assert!(!told.contains("panicked"), "{}: {told}", image.name);
                continue;
            }
            mounted += 1;
            let mount = mount::Mount::found(point.clone());
            let truth = image.is_damaged.then_some(&truth);
            read_all(&point, truth, &image.name);
            assert!(mount.server_lives(), "{}: the server is gone", image.name);
            mount.umount();
            assert!(mount.server_ends(), "{}: the server stays", image.name);
        }
        assert!(mounted > SAMPLE / 8, "{mounted} of {SAMPLE} could be mounted");
        tell(&format!("hostile images: {mounted} of a sample of {SAMPLE} were mounted and read"));
    });
}

/// The content of all files of the sound image.
fn truth() -> BTreeMap<PathBuf, Vec<u8>> {
    let tree = image::open(SMALL.bytes.clone(), SMALL.root).unwrap();
    let mut truth = BTreeMap::new();
    for (path, visit) in tree.walk(InodeIndex::ROOT) {
        let visit = visit.unwrap();
        if visit.inode.kind == Kind::File {
            let mut content = vec![0; usize::try_from(visit.inode.size).unwrap()];
            tree.read_at(visit.index, 0, &mut content).unwrap();
            truth.insert(PathBuf::from(String::from_utf8(path).unwrap()), content);
        }
    }
    truth
}

/// Reads through the kernel what can be read, within bounds.
fn read_all(point: &Path, truth: Option<&BTreeMap<PathBuf, Vec<u8>>>, name: &str) {
    let (mut stack, mut left) = (vec![point.to_owned()], 3_000);
    let mut buf = vec![0; 100_000];
    while let Some(path) = stack.pop() {
        left -= 1;
        assert!(left > 0, "{name}: the tree has no end");
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            // No directory of the sound image has a hundred names.
            let entries = fs::read_dir(&path).into_iter().flatten().flatten().take(100);
            // The kernel allows no longer path, and refuses it without a question.
            stack.extend(
                entries.map(|entry| entry.path()).filter(|path| path.as_os_str().len() < 4000),
            );
        } else if metadata.is_symlink() {
            fs::read_link(&path).ok();
        } else if metadata.is_file() {
            let Ok(mut file) = fs::File::open(&path) else { continue };
            let came = file.read(&mut buf).unwrap_or(0);
            if let Some(truth) = truth {
                let below = path.strip_prefix(point).unwrap();
                assert!(
                    truth[below].starts_with(&buf[..came]),
                    "{name}: wrong bytes in {}",
                    below.display()
                );
            }
            if file.seek(SeekFrom::Start(metadata.len().saturating_sub(5000))).is_ok() {
                let at_the_end = file.read(&mut buf).unwrap_or(0);
                assert!(at_the_end <= buf.len());
            }
        }
    }
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name);
    let mut files: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// What is fed at the moment, for whoever waits for it in vain.
type Now = Arc<Mutex<Option<(Instant, String, Vec<u8>)>>>;

/// Ends everything when one input takes too long, and tells which.
fn watch(now: Now) {
    std::thread::spawn(move || {
        while Arc::strong_count(&now) > 1 {
            std::thread::sleep(Duration::from_millis(500));
            if let Some((since, name, input)) = &*now.lock().unwrap_or_else(PoisonError::into_inner)
                && since.elapsed() > TIME_MAX
            {
                tell(&format!("{name} does not end{}", reproducer(name, input)));
                std::process::abort();
            }
        }
    });
}

/// Keeps an input, and says how to feed it again.
fn reproducer(name: &str, input: &[u8]) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{name}"));
    fs::write(&path, input).unwrap();
    let path = path.display();
    format!(
        ": ASHLAR_FUZZ_INPUT={name}:{path} cargo test --test hostile -- --nocapture every_target"
    )
}

fn feed(target: &'static Target, input: &[u8], now: &Now) {
    let set = |value| *now.lock().unwrap_or_else(PoisonError::into_inner) = value;
    set(Some((Instant::now(), target.name.to_owned(), input.to_owned())));
    let fed = catch_unwind(AssertUnwindSafe(|| target.feed(input)));
    set(None);
    if let Err(panic) = fed {
        tell(&format!("{} cannot stand this{}", target.name, reproducer(target.name, input)));
        resume_unwind(panic);
    }
}

#[test]
fn every_target_stands_its_corpus_and_what_grows_from_it() {
    let _alone = alone();
    let now = Now::default();
    watch(Arc::clone(&now));
    if let Ok(text) = std::env::var("ASHLAR_FUZZ_INPUT") {
        let (name, path) = text.split_once(':').expect("TARGET:FILE");
        feed(Target::find(name), &fs::read(path).unwrap(), &now);
        return;
    }
    let seed: u64 = std::env::var("ASHLAR_SEED").map_or(1, |text| text.parse().unwrap());
    let seconds: Option<f64> =
        std::env::var("ASHLAR_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let (mut kept, mut fed) = (0, 0);
    for target in targets::ALL {
        let mut inputs: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, raw)| raw).collect();
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        kept += inputs.len();
        inputs.extend((target.seeds)());
        for input in &inputs {
            feed(target, input, &now);
        }
        let share = seconds.map(|seconds| seconds / targets::ALL.len() as f64);
        let end = share.map(|share| Instant::now() + Duration::from_secs_f64(share));
        let mut random = Random(seed);
        for nth in 0_u32.. {
            let is_over = end.map_or(nth == 60, |end| Instant::now() > end);
            if is_over {
                break;
            }
            let input = grown::mutated(&inputs, target.len_max, &mut random);
            feed(target, &input, &now);
            fed += 1;
        }
    }
    tell(&format!(
        "{} targets were fed {kept} inputs of the corpus and {fed} that grew from it (ASHLAR_SEED={seed})",
        targets::ALL.len()
    ));
}

/// The limits are limits: what takes too much memory is seen.
#[test]
fn what_takes_too_much_is_seen() {
    let _alone = alone();
    let taken = targets::heap::peak(|| drop(std::hint::black_box(vec![0_u8; 3 << 20])));
    // A test that has just ended may free a little meanwhile.
    assert!(((3 << 20) - (64 << 10)..4 << 20).contains(&taken), "{taken}");
    let greedy: fn(&[u8]) = |input| drop(std::hint::black_box(vec![0_u8; input.len() << 20]));
    let target = targets::target("greedy", "", 8, 2 << 20, greedy, Vec::new);
    target.feed(&[0]);
    assert!(catch_unwind(AssertUnwindSafe(|| target.feed(&[0; 4]))).is_err());
}

/// Each target has its program for libFuzzer and its corpus, and the corpus is small.
#[test]
fn every_target_has_a_program_and_a_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let names = |directory: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz.join(directory)).unwrap();
        entries.map(|it| it.unwrap().file_name().to_str().unwrap().to_owned()).collect()
    };
    let wanted: BTreeSet<String> =
        targets::ALL.iter().map(|target| target.name.to_owned()).collect();
    let programs = wanted.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names("fuzz_targets"), programs);
    assert_eq!(names("corpus"), wanted);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let mut total = 0;
    for target in targets::ALL {
        let program =
            fs::read_to_string(fuzz.join(format!("fuzz_targets/{}.rs", target.name))).unwrap();
        assert!(program.contains(&format!("feed(\"{}\", input)", target.name)), "{program}");
        assert!(manifest.contains(&format!("name = \"{}\"\n", target.name)), "{}", target.name);
        for (path, raw) in corpus(target) {
            assert!(raw.len() <= target.len_max, "{} is too long", path.display());
            total += raw.len();
        }
    }
    assert!(total < 700 << 10, "the corpus has {total} bytes");
}

/// `cargo test --test hostile -- --ignored write_seeds` adds the targets' own seeds to the corpus; `tests/fuzz/run --adopt`
/// makes it small afterwards.
#[test]
#[ignore = "writes into the corpus"]
fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for target in targets::ALL {
        let directory = corpus.join(target.name);
        fs::create_dir_all(&directory).unwrap();
        for seed in (target.seeds)() {
            let name = &blake3::hash(&seed).to_hex()[..16];
            fs::write(directory.join(name), &seed[..seed.len().min(target.len_max)]).unwrap();
        }
    }
}
