//! Is each fault an error that says what to do, and does the machine boot what it would have booted? The faults that
//! `src/update/tests.rs` cannot make: disks that are full or broken, and what the command says to people.
#![cfg(feature = "net")]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/server.rs"]
mod server;
#[path = "support/tree.rs"]
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use ashlarfs::update::failed::Failed;
use ashlarfs::update::install::{Installed, install};
use ashlarfs::update::origin::FileOrigin;
use ashlarfs::update::place::Place;
use ashlarfs::update::wish::{Step, Wish};
use ashlarfs::{Anchor, Method, Options, image, verify};
use disk::Disk;
use serde_json::Value;
use server::{Answer, Server};
use tempfile::TempDir;
use tree::{Ran, ashlar, command, noise, pack};

/// Three images, of which each has most of the one before, and the key that signed them.
struct Images {
    directory: TempDir,
    digests: [String; 3],
}

static IMAGES: LazyLock<Images> = LazyLock::new(|| {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for key in ["key", "other"] {
        ashlar(["key", "generate", "--no-password", &path(key)]).text();
    }
    let source = directory.path().join("source");
    fs::create_dir(&source).unwrap();
    let digests = [1, 2, 3].map(|version| {
        for file in 0..20 {
            let seed = if file < 14 { file } else { file + version * 100 };
            fs::write(source.join(file.to_string()), noise(seed, 100_000)).unwrap();
        }
        let image = PathBuf::from(path(&format!("{version}.img")));
        let version = version.to_string();
        let extra =
            ["-b", "4K", "-z", "none", "--image-version", &version, "--sign-key", &path("key")];
        pack(&source, &image, &extra).1
    });
    Images { directory, digests }
});

fn path(name: &str) -> PathBuf {
    IMAGES.directory.path().join(name)
}

fn text(name: &str) -> String {
    path(name).to_str().unwrap().to_owned()
}

fn len(name: &str) -> u64 {
    fs::metadata(path(name)).unwrap().len()
}

fn digest(version: usize) -> &'static str {
    &IMAGES.digests[version - 1]
}

/// A data partition.
struct Machine {
    data: PathBuf,
    /// Where it is, if it is on no disk of its own.
    _directory: Option<TempDir>,
}

impl Machine {
    /// One that has the first image as its default.
    fn new() -> Machine {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let data = directory.path().to_owned();
        Machine { _directory: Some(directory), ..Machine::at(data) }
    }

    fn at(data: PathBuf) -> Machine {
        let machine = Machine { data, _directory: None };
        machine.does("install", &["--no-trial", "--key", &text("key.pub"), &text("1.img")]);
        machine
    }

    fn on(disk: &Disk) -> Machine {
        Machine::at(disk.path())
    }

    fn run(&self, what: &str, args: &[&str]) -> Ran {
        ashlar(["update", "--data", self.data.to_str().unwrap(), what].iter().chain(args))
    }

    fn does(&self, what: &str, args: &[&str]) -> Ran {
        let ran = self.run(what, args);
        assert_eq!(ran.status, 0, "{what} {args:?}: {}", ran.err);
        ran
    }

    /// It says what went wrong and what to do, in a line each; and the machine boots the image that it had.
    fn refuses(&self, what: &str, args: &[&str], says: &str, hint: &str) {
        let ran = self.run(what, args);
        println!("{what}: {}", ran.err);
        assert_eq!(ran.status, 1, "{what} {args:?}: {}", ran.err);
        let mut lines = ran.err.lines().filter(|line| !line.contains("WARN"));
        let (error, told) = (lines.next().unwrap(), lines.next().unwrap_or_default());
        assert!(error.starts_with("ashlar: ") && error.contains(says), "{error}");
        assert!(told.starts_with("ashlar: hint: ") && told.contains(hint), "{error}: {told}");
        assert_eq!(lines.next(), None, "{}", ran.err);
    }

    fn install(&self, version: usize) -> Ran {
        let (key, image) = (text("key.pub"), text(&format!("{version}.img")));
        self.run("install", &["--key", &key, "--json", &image])
    }

    fn installs(&self, version: usize) -> Value {
        let ran = self.install(version);
        assert_eq!(ran.status, 0, "{}", ran.err);
        self.is_next(version);
        serde_json::from_slice(&ran.out).unwrap()
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&self.does("status", &["--json"]).out).unwrap()
    }

    fn image(&self, version: usize) -> PathBuf {
        self.data.join("images").join(format!("{}.img", digest(version)))
    }

    /// The image with a version is what is booted next, and whole.
    fn is_next(&self, version: usize) {
        assert_eq!(self.status()["next"], digest(version));
        assert!(is_whole(&self.image(version), digest(version)));
    }

    fn has_no_parts(&self) {
        let place = Place::new(&self.data).unwrap();
        assert_eq!(place.parts().unwrap(), Vec::<PathBuf>::new());
    }

    /// Installs without the command, so that something can be done in the middle.
    fn install_with(
        &self,
        version: usize,
        progress: &(dyn Fn(Step) + Sync),
    ) -> Result<Installed, Failed> {
        let anchor = Anchor::RootDigest(digest(version).parse().unwrap());
        let wish = Wish { progress: &|step, _, _| progress(step), ..Wish::new(&anchor) };
        let origin = FileOrigin::open(&path(&format!("{version}.img")))?;
        install(&Place::new(&self.data)?, &origin, &wish)
    }
}

fn is_whole(path: &Path, digest: &str) -> bool {
    let source = image::open(path, Method::Pread).unwrap();
    let options = Options::new(Anchor::RootDigest(digest.parse().unwrap()));
    verify::verify_source(source, &options, &verify::Options::default()).is_clean()
}

const NO_JOURNAL: [&str; 4] = ["mkfs.ext4", "-q", "-O", "^has_journal"];
/// Without extents, so without a way to make room beforehand.
const NO_FALLOCATE: [&str; 4] =
    ["mkfs.ext4", "-q", "-O", "^has_journal,^extent,^64bit,^metadata_csum"];

/// However little is free: nothing changed, or the new image is next.
#[test]
fn whatever_is_free_it_is_enough_or_nothing_changes() {
    let Some(disk) = Disk::new("update_faults::free", 3 * len("1.img"), &[]) else { return };
    let machine = Machine::on(&disk);
    // Both records are there.
    machine.installs(2);
    machine.does("rollback", &["--to", digest(1)]);
    machine.does("gc", &[]);
    let page = 4096;
    let need = len("2.img").next_multiple_of(page);
    let (mut refused, mut installed) = (0, 0);
    let steps = (0..12)
        .map(|step| need / 12 * step)
        .chain((0..12).map(|pages| need + pages * page - 6 * page));
    for left in steps {
        let left = left / page * page;
        let filler = disk.fill(left);
        assert_eq!(disk.free(), left);
        let ran = machine.install(2);
        if ran.status == 0 {
            installed += 1;
            machine.is_next(2);
            assert!(left >= need, "{left} bytes were free, and it needs {need}");
        } else {
            refused += 1;
            assert!(left < need + 2 * page, "{left} bytes are free: {}", ran.err);
            assert!(ran.err.contains("bytes, ") || ran.err.contains("No space"), "{}", ran.err);
            assert!(ran.err.contains("ashlar: hint: "), "{}", ran.err);
            machine.is_next(1);
            machine.has_no_parts();
        }
        fs::remove_file(filler).unwrap();
        machine.does("rollback", &["--to", digest(1)]);
        machine.does("gc", &[]);
    }
    println!("{refused} refused, {installed} installed");
    assert!(refused > 12 && installed > 3);
}

/// The room is not there beforehand, and somebody else takes it while an image comes.
#[test]
fn a_disk_that_becomes_full_meanwhile_is_told_and_what_came_is_kept() {
    let Some(disk) = Disk::new("update_faults::becomes_full", 16 << 20, &NO_FALLOCATE) else {
        return;
    };
    let machine = Machine::on(&disk);
    let file = fs::read(path("3.img")).unwrap();
    let filler = disk.path().join("filler");
    let is_filled = Arc::new(AtomicBool::new(false));
    let server = Server::start({
        let (filler, is_filled) = (filler.clone(), Arc::clone(&is_filled));
        move |question| {
            // Behind superblock, end and tables: blocks. Some of them have room.
            if question.number > 2 && !is_filled.swap(true, Ordering::SeqCst) {
                disk::fill(&filler, 800_000);
            }
            Answer::good(question, &file, "\"one\"")
        }
    });
    let url = server.url("/3.img");
    // A machine with nothing to copy blocks from fetches all.
    fs::remove_file(machine.image(1)).unwrap();
    let args = ["--connections", "1", "--json", "--key", &text("key.pub"), &url];
    let ran = machine.run("install", &args);
    println!("{}", ran.err);
    assert!(is_filled.load(Ordering::SeqCst), "it was never filled");
    assert_eq!(ran.status, 1, "{}", ran.err);
    assert!(ran.err.contains("No space left on device"), "{}", ran.err);
    assert!(ran.err.contains("hint: ") && ran.err.contains("goes on"), "{}", ran.err);
    fs::remove_file(filler).unwrap();
    let ran = machine.does("install", &args);
    let installed: Value = serde_json::from_slice(&ran.out).unwrap();
    assert!(installed["bytes_resumed"].as_u64().unwrap() > 0, "{installed}");
    machine.is_next(3);
}

/// What is read back is not what was written: the disk has other bytes, or none.
#[test]
fn a_disk_that_loses_what_it_wrote_is_found_out() {
    for is_cut in [false, true] {
        let Some(disk) = Disk::new("update_faults::loses", 64 << 20, &NO_JOURNAL) else { return };
        let machine = Machine::on(&disk);
        let done = AtomicBool::new(false);
        let damage = |step: Step| {
            if step != Step::Writing || done.swap(true, Ordering::SeqCst) {
                return;
            }
            rustix::fs::syncfs(fs::File::open(&machine.data).unwrap()).unwrap();
            let backing = fs::File::options().read(true).write(true).open(disk.backing()).unwrap();
            let raw = fs::read(disk.backing()).unwrap();
            // A file that no other image has.
            let wanted = &noise(19 + 200, 100_000)[..4096];
            let at = raw
                .chunks(4096)
                .position(|block| block.windows(64).any(|it| it == &wanted[..64]))
                .unwrap();
            let at = at as u64 * 4096;
            if is_cut {
                backing.set_len(at).unwrap();
            } else {
                std::os::unix::fs::FileExt::write_all_at(&backing, &[7; 20_000], at).unwrap();
            }
        };
        let failed = machine.install_with(2, &damage).unwrap_err();
        println!("{failed}, hint: {:?}", failed.hint);
        assert!(done.load(Ordering::SeqCst));
        assert!(failed.hint.as_ref().unwrap().contains("disk may be failing"), "{failed}");
        assert!(failed.message.contains("disk"), "{failed}");
        assert!(!machine.image(2).exists());
        assert_eq!(machine.status()["next"], digest(1));
        if !is_cut {
            machine.has_no_parts();
            machine.installs(2);
        }
    }
}

#[test]
fn records_that_nobody_may_write_are_told() {
    let Some(disk) = Disk::new("update_faults::immutable", 64 << 20, &NO_JOURNAL) else { return };
    let machine = Machine::on(&disk);
    machine.installs(2);
    machine.does("rollback", &["--to", digest(1)]);
    let records = ["boot.a", "boot.b"].map(|name| machine.data.join("state").join(name));
    let mark = |flag: &str| disk::run(Command::new("chattr").arg(flag).args(&records));
    if let Err(why) = mark("+i") {
        eprintln!("skipped: update_faults::immutable: {why}");
        return;
    }
    let key = text("key.pub");
    for version in ["2.img", "3.img"] {
        let args = ["--key", &key, &text(version)];
        machine.refuses("install", &args, "cannot write boot record", "chattr -i");
        machine.is_next(1);
    }
    machine.refuses("rollback", &["--to", digest(2)], "cannot write boot record", "chattr -i");
    mark("-i").unwrap();
    assert_eq!(machine.installs(3)["was_here"], true);

    // A partition that is not writable at all.
    disk.remount("ro");
    let args = ["--key", &key, &text("2.img")];
    machine.refuses("install", &args, "Read-only file system", "remount,rw");
    machine.refuses("gc", &[], "Read-only file system", "remount,rw");
    disk.remount("rw");
    machine.is_next(3);
}

/// A record that is to be made where there is no room for its file.
#[test]
fn a_record_for_which_there_is_no_room_is_told() {
    let Some(disk) = Disk::new("update_faults::no_room", 3 * len("1.img"), &[]) else { return };
    let machine = Machine::on(&disk);
    machine.does("install", &["--key", &text("key.pub"), &text("2.img")]);
    machine.does("rollback", &["--to", digest(1)]);
    let other = machine.data.join("state").join("boot.b");
    let sound = fs::read(&other).unwrap();
    fs::remove_file(&other).unwrap();
    let next = machine.status()["next"].as_str().unwrap().to_owned();
    let to = if next == digest(1) { 2 } else { 1 };
    let filler = disk.fill(0);
    machine.refuses(
        "rollback",
        &["--to", digest(to)],
        "cannot write boot record",
        "`ashlar update gc`",
    );
    assert_eq!(machine.status()["next"], next.as_str());
    fs::remove_file(filler).unwrap();
    machine.does("rollback", &["--to", digest(to)]);
    machine.is_next(to);
    assert_eq!(fs::read(&other).unwrap().len(), sound.len());
}

#[test]
fn damaged_records_are_shown_and_written_anew() {
    let machine = Machine::new();
    machine.installs(2);
    let records = ["boot.a", "boot.b"].map(|name| machine.data.join("state").join(name));
    let shown = |machine: &Machine| machine.does("status", &[]).text().to_owned();
    assert_eq!(machine.status()["records"], "good");
    // One of two: what the other says counts, and the next change makes it good again.
    for record in &records {
        let sound = fs::read(record).unwrap();
        let mut raw = sound.clone();
        raw[0x30] ^= 1;
        fs::write(record, raw).unwrap();
        assert_eq!(machine.status()["records"], "damaged");
        assert!(shown(&machine).contains("one of two is damaged"));
        let next = machine.status()["next"].as_str().unwrap().to_owned();
        assert!([digest(1), digest(2)].contains(&next.as_str()));
        machine.does("gc", &[]);
        assert!(machine.data.join("images").join(format!("{next}.img")).exists());
        fs::write(record, sound).unwrap();
    }
    machine.installs(2);
    // Both: nothing is removed, whatever is missing is not guessed, and an installation writes a new one.
    for record in &records {
        fs::write(record, noise(9, 512)).unwrap();
    }
    assert_eq!(machine.status()["records"], "lost");
    assert!(shown(&machine).contains("both are damaged"));
    machine.refuses("gc", &[], "what is needed is not known", "rollback --to");
    machine.refuses("rollback", &[], "no other image", "--to");
    machine.installs(2);
    assert!(machine.image(1).exists());
    machine.does("rollback", &["--to", digest(1)]);
    machine.is_next(1);
    assert_eq!(machine.status()["records"], "good");
}

#[test]
fn images_that_are_gone_are_said_to_be() {
    let machine = Machine::new();
    machine.installs(2);
    fs::remove_file(machine.image(2)).unwrap();
    assert!(machine.does("status", &[]).text().contains("which is not there"));
    assert_eq!(machine.status()["next"], digest(2));
    machine.does("gc", &[]);
    machine.refuses("rollback", &["--to", digest(3)], "there is no image", "`ashlar update list`");
    let installed = machine.installs(2);
    assert_eq!(installed["was_here"], false);
    // The one that would be gone back to.
    fs::remove_file(machine.image(1)).unwrap();
    machine.refuses("rollback", &[], "there is no image", "`ashlar update list`");
    machine.is_next(2);
    machine.installs(3);
}

#[test]
fn wrong_images_are_refused_with_a_hint() {
    let machine = Machine::new();
    machine.does("install", &["--no-trial", "--key", &text("key.pub"), &text("2.img")]);
    let key = text("key.pub");
    let old = ["--key", &key, &text("1.img")];
    machine.refuses(
        "install",
        &old,
        "version 1, which is older than version 2",
        "--allow-downgrade",
    );
    let other = ["--key", &text("other.pub"), &text("3.img")];
    machine.refuses("install", &other, "signature", "check the key");
    let wrong = ["--root-digest", digest(2), &text("3.img")];
    machine.refuses("install", &wrong, "superblock", "check the digest");
    let none = ["--key", &key, &text("key")];
    machine.refuses("install", &none, "image", "mkimage");
    let cut = path("cut.img");
    fs::write(&cut, &fs::read(path("3.img")).unwrap()[..1_000_000]).unwrap();
    machine.refuses("install", &["--key", &key, cut.to_str().unwrap()], "cut.img", "");
    machine.has_no_parts();
    machine.is_next(2);
    assert!(!machine.image(3).exists());
    machine.does("install", &["--allow-downgrade", "--key", &key, &text("1.img")]);
    machine.is_next(1);
}

/// A web server with the files of a directory.
fn serve(files: Vec<(&'static str, Vec<u8>)>) -> Server {
    Server::start(move |question| {
        match files.iter().find(|(name, _)| question.path.strip_prefix('/') == Some(name)) {
            Some((name, file)) => Answer::good(question, file, &format!("\"{name}\"")),
            None => Answer::status(404),
        }
    })
}

/// The manifest of an image, and its signature.
fn manifest(image: &str) -> [Vec<u8>; 2] {
    let output = tempfile::tempdir_in(IMAGES.directory.path()).unwrap();
    let latest = output.path().join("latest");
    let args = ["update", "manifest", "--name", "test", "--key", &text("key"), "-o"];
    let ran = ashlar(args.iter().copied().chain([latest.to_str().unwrap(), &text(image)]));
    assert_eq!(ran.status, 0, "{}", ran.err);
    ["latest", "latest.minisig"].map(|name| fs::read(output.path().join(name)).unwrap())
}

#[test]
fn an_old_manifest_brings_nothing_back() {
    let machine = Machine::new();
    machine.does("install", &["--no-trial", "--key", &text("key.pub"), &text("2.img")]);
    let image = |name: &str| fs::read(path(name)).unwrap();
    let with = |[text, signature]: [Vec<u8>; 2], files: &[&'static str]| {
        let mut all = vec![("latest", text), ("latest.minisig", signature)];
        all.extend(files.iter().map(|name| (*name, image(name))));
        serve(all)
    };
    let key = text("key.pub");
    let replay = with(manifest("1.img"), &["1.img", "3.img"]);
    let url = replay.url("/latest");
    let args = ["--key", &key, &url];
    machine.refuses(
        "install",
        &args,
        "version 1, which is older than version 2",
        "--allow-downgrade",
    );
    let found = machine.does("check", &["--json", "--key", &key, &url]);
    let found: Value = serde_json::from_slice(&found.out).unwrap();
    assert_eq!((&found["is_old"], &found["update_available"]), (&true.into(), &false.into()));
    // Another text under the same signature, and the signature of another key.
    let [new, signature] = manifest("3.img");
    let mixed = with([new.clone(), manifest("1.img")[1].clone()], &["3.img"]);
    let args = ["--key", &key, &mixed.url("/latest")];
    machine.refuses("install", &args, "by a known key", "check the key");
    let unsigned = serve(vec![("latest", new.clone()), ("3.img", image("3.img"))]);
    let args = ["--key", &key, &unsigned.url("/latest")];
    machine.refuses("install", &args, "not signed", ".minisig");
    // What is at the address is not what the manifest names, though it is authentic.
    let other = serve(vec![
        ("latest", new.clone()),
        ("latest.minisig", signature.clone()),
        ("3.img", image("2.img")),
    ]);
    let url = other.url("/latest");
    for [option, who] in [["--key", key.as_str()], ["--root-digest", digest(3)]] {
        machine.refuses("install", &[option, who, &url], "the manifest names", "run it again");
    }
    machine.is_next(2);
    machine.has_no_parts();
    let right = with([new, signature], &["3.img"]);
    machine.does("install", &["--key", &key, &right.url("/latest")]);
    machine.is_next(3);
}

#[test]
fn of_two_at_once_the_first_one_ends_and_the_second_one_says_so() {
    let machine = Machine::new();
    let file = fs::read(path("2.img")).unwrap();
    // Answers but the first few wait until the second run was there.
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let server = Server::start({
        let gate = Arc::clone(&gate);
        move |question| {
            if question.number > 1 {
                drop(gate.lock());
            }
            Answer::good(question, &file, "\"one\"")
        }
    });
    let url = server.url("/2.img");
    let key = text("key.pub");
    let mut first = command();
    first.arg("update").arg("--data").arg(&machine.data);
    let mut first = first.args(["install", "--quiet", "--key", &key, &url]).spawn().unwrap();
    while server.questions().len() < 3 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let args = ["--key", &key, &text("3.img")];
    machine.refuses("install", &args, "another update is at work", "fuser -v");
    machine.refuses("gc", &[], "another update is at work", "fuser -v");
    machine.refuses("rollback", &[], "another update is at work", "fuser -v");
    // Who only reads does not wait.
    machine.is_next(1);
    drop(held);
    assert!(first.wait().unwrap().success());
    machine.is_next(2);
    machine.installs(3);
}
