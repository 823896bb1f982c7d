//! Does what somebody changed outlive a new image, and nothing else? /etc, seeds, state overlays, and what a hostile data
//! partition may hold.

#[path = "support/tree.rs"]
mod tree;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ashlarfs::fs::stack::Stack;
use ashlarfs::state::etc::{self, Against, Outcome, Prepared, Report, What};
use ashlarfs::state::prune::prune;
use ashlarfs::state::seed::{Seeded, fill, seed};
use ashlarfs::state::{make_directories, overlay, reset};
use ashlarfs::{Anchor, Digest, Error, Options, Result, Tree};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode};
use tree::{ashlar, assert_same, is_root, manifest, noise, pack, set_mode, set_time, set_xattr};

type Manifest = BTreeMap<Vec<u8>, String>;

/// In memory where that is to be had: writing everything down takes no time there.
fn workplace() -> tempfile::TempDir {
    match Path::new("/dev/shm") {
        shm if shm.is_dir() => tempfile::tempdir_in(shm).unwrap(),
        _ => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
    }
}

/// Makes files: `path` with that content, `path/` a directory, `path -> target` a symlink. All of the same time.
fn plant(dir: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        if let Some(path) = path.strip_suffix('/') {
            fs::create_dir_all(dir.join(path)).unwrap();
        } else if let Some(target) = content.strip_prefix("-> ") {
            symlink(target, dir.join(path)).unwrap();
        } else {
            fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
            fs::write(dir.join(path), content).unwrap();
        }
    }
}

/// A place with images in it, and a data partition's `state`.
struct Work {
    dir: tempfile::TempDir,
    images: u32,
}

impl Work {
    fn new() -> Self {
        let dir = workplace();
        fs::create_dir(dir.path().join("state")).unwrap();
        Work { dir, images: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An image of what `make` puts into a directory.
    fn image_of(&mut self, make: impl FnOnce(&Path)) -> Tree {
        self.images += 1;
        let source = self.path(&format!("source{}", self.images));
        fs::create_dir(&source).unwrap();
        make(&source);
        let image = self.path(&format!("image{}", self.images));
        let (image, digest) = pack(&source, &image, &[]);
        open(&image, &digest)
    }

    fn image(&mut self, files: &[(&str, &str)]) -> Tree {
        self.image_of(|dir| plant(dir, files))
    }

    /// The directory that image `nth` was made of.
    fn source(&self, nth: u32) -> PathBuf {
        self.path(&format!("source{nth}"))
    }

    /// As a boot does it, with the old image not to be had.
    fn prepare(&self, image: &Tree) -> Prepared {
        etc::prepare(&self.path("state"), image, &mut |_| Ok(None)).unwrap()
    }
}

fn open(image: &Path, digest: &str) -> Tree {
    ashlarfs::open(image, &Options::new(Anchor::RootDigest(digest.parse().unwrap()))).unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_first_boot_takes_the_image_s_and_the_next_one_leaves_it() {
    let mut work = Work::new();
    let image = work.image_of(|dir| {
        fs::create_dir(dir.join("etc")).unwrap();
        tree::fill(&dir.join("etc"));
        if !is_root() {
            fs::remove_file(dir.join("etc/secret")).unwrap();
        }
        fs::write(dir.join("etc/.updated"), "").unwrap();
        set_time(&dir.join("etc"), 1_000_000_002, 3);
    });
    let Prepared { directory, report } = work.prepare(&image);
    assert_eq!(report, Report::default());
    assert_eq!(directory, work.path("state").join(format!("etc.{}", image.root_digest())));
    let mut expected = manifest(&work.source(1).join("etc"));
    expected.remove(b".updated".as_slice()).unwrap();
    assert_same(&expected, &manifest(&directory));
    let last = work.path("state/etc.last");
    assert_eq!(read(&last), format!("{}\n", image.root_digest()));

    fs::write(directory.join("small"), "mine").unwrap();
    fs::write(directory.join(".updated"), "").unwrap();
    fs::create_dir(work.path("state/etc.0.tmp")).unwrap();
    let again = work.prepare(&image);
    assert_eq!((again.report.outcome, again.directory), (Outcome::Kept, directory.clone()));
    assert_eq!(read(directory.join("small")), "mine");
    assert!(directory.join(".updated").exists());
    assert!(!work.path("state/etc.0.tmp").exists());
    tree::open_up(&directory);
    tree::open_up(&work.source(1).join("etc"));
}

#[test]
fn an_image_without_etc_gets_an_empty_one() {
    let mut work = Work::new();
    for files in [[("usr/", "")], [("etc", "a file")]] {
        let image = work.image(&files);
        let made = work.prepare(&image).directory;
        assert_eq!(fs::read_dir(&made).unwrap().count(), 0);
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o7777, 0o755);
    }
}

/// Every rule once, by what is in the old image, what becomes of it, and what is in the new image.
#[test]
fn what_was_changed_stays_and_all_else_follows_the_image() {
    let mut work = Work::new();
    let old = work.image(&[
        ("etc/follows", "1"),
        ("etc/mine", "1"),
        ("etc/both", "1"),
        ("etc/agreed", "1"),
        ("etc/dropped", "1"),
        ("etc/dropped-mine", "1"),
        ("etc/deleted", "1"),
        ("etc/deleted.d/a", "1"),
        ("etc/link", "-> follows"),
        ("etc/link-mine", "-> follows"),
        ("etc/gone.d/a", "1"),
        ("etc/gone.d/b", "1"),
        ("etc/gone.d/c/d", "1"),
        ("etc/unused.d/a", "1"),
        ("etc/grows", "1"),
        ("etc/shrinks/a", "1"),
        ("etc/replaced.d/a", "1"),
        ("etc/replaced", "1"),
        (".d", ""),
    ]);
    let etc_old = work.prepare(&old).directory;
    let now = |name: &str, content: &str| {
        let path = etc_old.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    now("mine", "user");
    now("both", "user");
    now("agreed", "2");
    now("dropped-mine", "user");
    fs::remove_file(etc_old.join("deleted")).unwrap();
    fs::remove_dir_all(etc_old.join("deleted.d")).unwrap();
    fs::remove_file(etc_old.join("link-mine")).unwrap();
    symlink("mine", etc_old.join("link-mine")).unwrap();
    now("gone.d/b", "user");
    now("new", "user");
    now("new.d/deep/er", "user");
    now("also-new", "user");
    fs::create_dir(etc_old.join("empty.d")).unwrap();
    fs::remove_dir_all(etc_old.join("replaced.d")).unwrap();
    symlink("/elsewhere", etc_old.join("replaced.d")).unwrap();
    fs::remove_file(etc_old.join("replaced")).unwrap();
    now("replaced/by", "user");

    let new = work.image(&[
        ("etc/follows", "2"),
        ("etc/mine", "1"),
        ("etc/both", "2"),
        ("etc/agreed", "2"),
        ("etc/deleted", "2"),
        ("etc/deleted.d/a", "2"),
        ("etc/deleted.d/b", "2"),
        ("etc/link", "-> mine"),
        ("etc/link-mine", "-> follows"),
        ("etc/added", "2"),
        ("etc/added.d/a", "2"),
        ("etc/also-new", "2"),
        ("etc/grows/a", "2"),
        ("etc/shrinks", "2"),
        ("etc/replaced.d/a", "2"),
        ("etc/replaced", "2"),
    ]);
    let Prepared { directory, report } = work.prepare(&new);
    let expected: &[(&str, &str)] = &[
        ("follows", "2"),
        ("mine", "user"),
        ("both", "user"),
        ("agreed", "2"),
        ("dropped-mine", "user"),
        ("link", "-> mine"),
        ("link-mine", "-> mine"),
        ("gone.d/b", "user"),
        ("new", "user"),
        ("new.d/deep/er", "user"),
        ("also-new", "user"),
        ("empty.d/", ""),
        ("added", "2"),
        ("added.d/a", "2"),
        ("grows/a", "2"),
        ("shrinks", "2"),
        ("replaced.d", "-> /elsewhere"),
        ("replaced/by", "user"),
    ];
    let wanted = work.path("expected");
    fs::create_dir(&wanted).unwrap();
    plant(&wanted, expected);
    assert_same(&contents(&wanted), &contents(&directory));
    let kept = [
        "also-new",
        "both",
        "dropped-mine",
        "empty.d/",
        "gone.d/b",
        "link-mine",
        "mine",
        "new",
        "new.d/",
        "replaced/",
        "replaced.d",
    ];
    let mut found = report.kept_local.clone();
    found.sort();
    let mut kept: Vec<String> = kept.map(str::to_owned).into();
    kept.sort();
    assert_eq!(found, kept);
    assert_eq!(report.removed_local, ["deleted", "deleted.d"]);
    assert_eq!(report.both_changed, ["also-new", "both"]);
    assert_eq!(report.against, Some(Against::Record));
    assert_eq!(report.from, Some(old.root_digest()));
    assert!(report.conflicts.is_empty() && report.lost.is_empty() && report.skipped.is_empty());
    assert!(report.to_string().contains("11 kept, 2 removed, 0 in conflict"), "{report}");
}

/// A manifest without times and modes.
fn contents(dir: &Path) -> Manifest {
    let kept = |text: String| {
        let (mode, rest) = text.split_once(' ').unwrap();
        let after = rest.split_once("device 0").unwrap().1;
        format!("{} {after}", &mode[..mode.len() - 4])
    };
    manifest(dir).into_iter().map(|(path, text)| (path, kept(text))).collect()
}

#[test]
fn what_has_no_place_any_more_is_kept_beside_it() {
    let mut work = Work::new();
    let old = work.image(&[
        ("etc/file", "1"),
        ("etc/dir/same", "1"),
        ("etc/dir/changed", "1"),
        ("etc/dir/sub/same", "1"),
    ]);
    let etc_old = work.prepare(&old).directory;
    fs::write(etc_old.join("file"), "user").unwrap();
    fs::write(etc_old.join("file.ashlar-old"), "was here").unwrap();
    fs::write(etc_old.join("dir/changed"), "user").unwrap();
    plant(&etc_old, &[("fresh", "user"), ("fresh.d/a", "user"), ("link", "-> /")]);
    let new = work.image(&[
        ("etc/file/now", "2"),
        ("etc/dir", "2"),
        ("etc/fresh/now", "2"),
        ("etc/fresh.d", "2"),
        ("etc/link/now", "2"),
    ]);
    let Prepared { directory, report } = work.prepare(&new);
    let wanted = work.path("expected");
    fs::create_dir(&wanted).unwrap();
    let expected: &[(&str, &str)] = &[
        ("file/now", "2"),
        ("file.ashlar-old", "was here"),
        ("file.ashlar-old.2", "user"),
        ("dir", "2"),
        ("dir.ashlar-old/changed", "user"),
        ("fresh/now", "2"),
        ("fresh.ashlar-old", "user"),
        ("fresh.d", "2"),
        ("fresh.d.ashlar-old/a", "user"),
        ("link/now", "2"),
        ("link.ashlar-old", "-> /"),
    ];
    plant(&wanted, expected);
    assert_same(&contents(&wanted), &contents(&directory));
    let mut conflicts: Vec<_> = report
        .conflicts
        .iter()
        .map(|conflict| (conflict.path.as_str(), conflict.saved_as.as_str()))
        .collect();
    conflicts.sort_unstable();
    assert_eq!(
        conflicts,
        [
            ("dir", "dir.ashlar-old"),
            ("file", "file.ashlar-old.2"),
            ("fresh", "fresh.ashlar-old"),
            ("fresh.d", "fresh.d.ashlar-old"),
            ("link", "link.ashlar-old"),
        ]
    );
    assert!(report.warnings().iter().any(|line| line.contains("kept as file.ashlar-old.2")));

    // The next image finds nothing to quarrel about.
    let next = work.image(&[("etc/file/now", "3"), ("etc/dir", "3")]);
    let next = work.prepare(&next);
    assert!(next.report.conflicts.is_empty());
    assert_eq!(read(next.directory.join("dir")), "3");
    assert_eq!(read(next.directory.join("dir.ashlar-old/changed")), "user");
}

#[test]
fn an_unchanged_directory_makes_place_without_a_word() {
    let mut work = Work::new();
    let old = work.image(&[("etc/dir/sub/same", "1"), ("etc/dir/gone", "1")]);
    let etc_old = work.prepare(&old).directory;
    fs::remove_file(etc_old.join("dir/gone")).unwrap();
    let new = work.image(&[("etc/dir", "2")]);
    let Prepared { directory, report } = work.prepare(&new);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    assert!(report.conflicts.is_empty(), "{report:?}");
}

#[test]
fn a_mode_an_owner_an_acl_or_an_attribute_is_a_change_too() {
    let mut work = Work::new();
    let files = ["mode", "owner", "acl", "time", "plain"];
    let fill = |content: &'static str| {
        move |dir: &Path| {
            for name in files {
                plant(dir, &[(&format!("etc/{name}"), content)]);
                plant(dir, &[(&format!("etc/{name}.d/in"), content)]);
            }
        }
    };
    let old = work.image_of(fill("1"));
    let etc_old = work.prepare(&old).directory;
    for suffix in ["", ".d"] {
        let at = |name: &str| etc_old.join(format!("{name}{suffix}"));
        set_mode(&at("mode"), 0o700);
        if is_root() {
            std::os::unix::fs::chown(at("owner"), Some(1234), Some(5678)).unwrap();
        }
        // The owner of a directory must be able to enter it.
        let mut acl = tree::ACL.to_vec();
        acl[6] = 7;
        set_xattr(&at("acl"), "system.posix_acl_access", &acl);
        set_time(&at("time"), 1_000_000, 7);
    }
    // Labels are the system's own.
    if is_root() {
        set_xattr(&etc_old.join("plain"), "security.selinux", b"system_u:object_r:etc_t:s0\0");
    }
    let new = work.image_of(fill("22"));
    let Prepared { directory, report } = work.prepare(&new);
    assert_eq!(read(directory.join("plain")), "22");
    assert_eq!(read(directory.join("time")), "22");
    assert_eq!(read(directory.join("mode")), "1");
    assert_eq!(read(directory.join("acl")), "1");
    let all = manifest(&directory);
    let text = |name: &str| all[name.as_bytes()].as_str();
    for suffix in ["", ".d"] {
        assert!(text(&format!("mode{suffix}")).contains("700 "), "{all:?}");
        assert!(text(&format!("acl{suffix}")).contains("posix_acl_access"), "{all:?}");
        if is_root() {
            assert!(text(&format!("owner{suffix}")).contains(" 1234:5678 "));
        }
        assert!(!text(&format!("time{suffix}")).contains("mtime 1000000.000000007"));
    }
    for name in files {
        assert_eq!(read(directory.join(format!("{name}.d/in"))), "22");
    }
    assert!(report.lost.is_empty() && report.not_restored.is_empty(), "{report:?}");
    let changed = if is_root() { 6 } else { 4 };
    assert_eq!(report.kept_local.len(), changed, "{report:?}");
    assert!(report.kept_local.contains(&"mode.d/".to_owned()));
}

#[test]
fn going_back_finds_what_was_left_there() {
    let mut work = Work::new();
    let one = work.image(&[("etc/a", "1"), ("etc/b", "1")]);
    let two = work.image(&[("etc/a", "2"), ("etc/b", "2")]);
    let etc_one = work.prepare(&one).directory;
    fs::write(etc_one.join("a"), "mine").unwrap();
    let before = manifest(&etc_one);
    let etc_two = work.prepare(&two).directory;
    fs::write(etc_two.join("b"), "made under two").unwrap();
    assert_same(&before, &manifest(&etc_one));
    let back = work.prepare(&one);
    assert_eq!((back.directory, back.report.outcome), (etc_one.clone(), Outcome::Kept));
    assert_same(&before, &manifest(&etc_one));
    // What comes next is made from what was booted last.
    fs::write(etc_one.join("b"), "made after going back").unwrap();
    let three = work.image(&[("etc/a", "3"), ("etc/b", "3")]);
    let prepared = work.prepare(&three);
    assert_eq!(prepared.report.from, Some(one.root_digest()));
    assert_eq!(read(prepared.directory.join("a")), "mine");
    assert_eq!(read(prepared.directory.join("b")), "made after going back");
}

#[test]
fn without_a_record_the_old_image_is_asked_and_without_both_all_is_kept() {
    let mut work = Work::new();
    let one = work.image(&[("etc/a", "1"), ("etc/b", "1"), ("etc/c", "1"), ("etc/d", "1")]);
    let etc_one = work.prepare(&one).directory;
    let record = work.path("state").join(format!("etc.{}.pristine", one.root_digest()));
    assert!(read(&record).starts_with("ashlar etc 1\n"));
    fs::write(etc_one.join("a"), "mine").unwrap();
    fs::remove_file(etc_one.join("d")).unwrap();
    let two = work.image(&[("etc/a", "2"), ("etc/b", "2"), ("etc/d", "2")]);
    let whole = read(&record);
    let half = &whole[..whole.len() - 3];
    let unescaped = whole.replacen(" a\n", " \\xzz\n", 1);
    for damaged in ["", half, &unescaped, "ashlar etc 2\nend 0\n"] {
        fs::write(&record, damaged).unwrap();
        let image = work.path("image1");
        let digest = one.root_digest();
        let mut asked = Vec::new();
        let prepared = etc::prepare(&work.path("state"), &two, &mut |wanted| {
            asked.push(wanted);
            Ok(Some(open(&image, &digest.to_string())))
        });
        let Prepared { directory, report } = prepared.unwrap();
        assert_eq!((report.against, asked), (Some(Against::Image), vec![digest]), "{damaged}");
        assert_eq!(read(directory.join("a")), "mine");
        assert_eq!(read(directory.join("b")), "2");
        assert!(!directory.join("c").exists() && !directory.join("d").exists());
        fs::remove_dir_all(&directory).unwrap();
        fs::write(work.path("state/etc.last"), digest.to_string()).unwrap();
    }
    for answer in [false, true] {
        fs::remove_file(&record).ok();
        let prepared = etc::prepare(&work.path("state"), &two, &mut |_| {
            if answer { Err(Error::NotFound) } else { Ok(None) }
        });
        let Prepared { directory, report } = prepared.unwrap();
        assert_eq!(report.against, Some(Against::Nothing));
        let expected = [("a", "mine"), ("b", "1"), ("c", "1"), ("d", "2")];
        for (name, content) in expected {
            assert_eq!(read(directory.join(name)), content);
        }
        assert!(report.warnings()[0].contains("everything that differs"), "{report:?}");
        fs::remove_dir_all(&directory).unwrap();
        fs::write(work.path("state/etc.last"), one.root_digest().to_string()).unwrap();
    }
}

#[test]
fn a_lost_note_of_what_was_booted_last_is_no_loss() {
    let mut work = Work::new();
    let one = work.image(&[("etc/a", "1"), ("etc/b", "1")]);
    let etc_one = work.prepare(&one).directory;
    fs::write(etc_one.join("a"), "mine").unwrap();
    let mut content = 1;
    type Spoil = fn(&Path);
    let spoils: [Spoil; 4] = [
        |last| fs::remove_file(last).unwrap(),
        |last| fs::write(last, "zz").unwrap(),
        |last| {
            fs::remove_file(last).unwrap();
            symlink("/etc/hostname", last).unwrap();
        },
        |last| {
            fs::remove_file(last).unwrap();
            fs::create_dir(last).unwrap();
            fs::write(last.join("x"), "").unwrap();
        },
    ];
    for spoil in spoils {
        spoil(&work.path("state/etc.last"));
        content += 1;
        let image = work.image(&[("etc/a", "x"), ("etc/b", &content.to_string())]);
        let Prepared { directory, report } = work.prepare(&image);
        assert_eq!(report.outcome, Outcome::Merged);
        assert_eq!(read(directory.join("a")), "mine");
        assert_eq!(read(directory.join("b")), content.to_string());
        assert_eq!(read(work.path("state/etc.last")), format!("{}\n", image.root_digest()));
        // So that the newest is this one also where a clock has coarse ticks.
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nothing_is_read_or_written_behind_a_symlink() {
    let mut work = Work::new();
    let outside = work.path("outside");
    plant(&outside, &[("a", "outside"), ("sub/a", "outside"), ("secret", "outside")]);
    let before = manifest(&outside);
    let old = work.image(&[("etc/dir/a", "1"), ("etc/sub/sub/a", "1"), ("etc/file", "1")]);
    let etc_old = work.prepare(&old).directory;
    for name in ["dir", "sub"] {
        fs::remove_dir_all(etc_old.join(name)).unwrap();
        symlink(&outside, etc_old.join(name)).unwrap();
    }
    fs::remove_file(etc_old.join("file")).unwrap();
    symlink(outside.join("secret"), etc_old.join("file")).unwrap();
    symlink(&outside, etc_old.join("more")).unwrap();
    let new = work.image(&[
        ("etc/dir/a", "2"),
        ("etc/dir/b", "2"),
        ("etc/sub/sub/a", "2"),
        ("etc/file", "2"),
        ("etc/more/a", "2"),
    ]);
    let name = format!("etc.{}", new.root_digest());
    // And where it is to be made, something leads away.
    symlink(&outside, work.path(&format!("state/{name}"))).unwrap();
    symlink(&outside, work.path(&format!("state/{name}.tmp"))).unwrap();
    symlink(outside.join("secret"), work.path(&format!("state/{name}.pristine"))).unwrap();
    symlink(outside.join("secret"), work.path("state/etc.last.tmp")).unwrap();
    let Prepared { directory, report } = work.prepare(&new);
    assert_same(&before, &manifest(&outside));
    assert!(directory.symlink_metadata().unwrap().is_dir());
    assert_eq!(fs::read_link(directory.join("dir")).unwrap(), outside);
    assert_eq!(fs::read_link(directory.join("file")).unwrap(), outside.join("secret"));
    assert_eq!(read(directory.join("more/a")), "2");
    assert_eq!(report.conflicts.len(), 1);
    assert_eq!(fs::read_link(directory.join("more.ashlar-old")).unwrap(), outside);

    // The directory itself.
    let last = work.path("state").join(format!("etc.{}", new.root_digest()));
    fs::remove_dir_all(&last).unwrap();
    symlink(&outside, &last).unwrap();
    let next = work.image(&[("etc/a", "3")]);
    let prepared = work.prepare(&next);
    assert_eq!(read(prepared.directory.join("a")), "3");
    assert!(!prepared.directory.join("secret").exists());
    assert_same(&before, &manifest(&outside));
}

#[test]
fn hard_links_stay_and_special_files_stay_behind() {
    let mut work = Work::new();
    let fill = |content: &'static str| {
        move |dir: &Path| {
            plant(dir, &[("etc/a", content), ("etc/x/fifo.d/", "")]);
            fs::hard_link(dir.join("etc/a"), dir.join("etc/x/b")).unwrap();
            let fifo = dir.join("etc/x/fifo.d/shipped");
            rustix::fs::mknodat(CWD, fifo, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        }
    };
    let old = work.image_of(fill("1"));
    let etc_old = work.prepare(&old).directory;
    let links = |path: PathBuf| fs::metadata(path).unwrap().nlink();
    assert_eq!(links(etc_old.join("a")), 2);
    plant(&etc_old, &[("mine/a", "user")]);
    fs::hard_link(etc_old.join("mine/a"), etc_old.join("mine/b")).unwrap();
    fs::hard_link(etc_old.join("mine/a"), work.path("outside")).unwrap();
    let node = |name: &str, kind| {
        rustix::fs::mknodat(CWD, etc_old.join(name), kind, Mode::from_raw_mode(0o600), 0).unwrap();
    };
    node("pipe", FileType::Fifo);
    node("socket", FileType::Socket);
    let mut skipped = vec!["pipe", "socket"];
    if is_root() {
        let device = rustix::fs::makedev(1, 3);
        let mode = Mode::from_raw_mode(0o600);
        let path = etc_old.join("null");
        if rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, device).is_ok() {
            skipped.insert(0, "null");
        }
    }
    // A file of holes that nobody could read to its end.
    fs::File::create(etc_old.join("huge")).unwrap().set_len(1 << 42).unwrap();
    let new = work.image_of(fill("2"));
    let Prepared { directory, report } = work.prepare(&new);
    assert_eq!(read(directory.join("x/b")), "2");
    assert_eq!(links(directory.join("a")), 2);
    assert_eq!(links(directory.join("mine/a")), 2);
    let kind = fs::symlink_metadata(directory.join("x/fifo.d/shipped")).unwrap().mode();
    assert_eq!(kind & 0o170_777, 0o010_640);
    let found: Vec<_> = report.skipped.iter().map(|left| left.path.as_str()).collect();
    assert_eq!(found, skipped);
    assert!(!directory.join("pipe").exists() && !directory.join("null").exists());
    let huge = fs::metadata(directory.join("huge")).unwrap();
    assert_eq!((huge.len(), huge.blocks()), (1 << 42, 0));
    // One of two names changed: the other follows the image.
    fs::remove_file(directory.join("x/b")).unwrap();
    fs::write(directory.join("x/b"), "user").unwrap();
    let next = work.image_of(fill("3"));
    let made = work.prepare(&next).directory;
    assert_eq!((read(made.join("a")), read(made.join("x/b"))), ("3".into(), "user".into()));
    assert_eq!((links(made.join("a")), links(made.join("x/b"))), (1, 1));
}

#[test]
fn deep_trees_need_few_open_files() {
    let mut work = Work::new();
    let old = work.image(&[("etc/a", "1")]);
    let etc_old = work.prepare(&old).directory;
    // Deeper than any path can say.
    let mut here = rustix::fs::open(&etc_old, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, "d", rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    }
    rustix::fs::symlinkat("bottom", &here, "here").unwrap();
    let new = work.image(&[("etc/a", "2")]);
    let prepared = work.prepare(&new);
    assert_eq!(prepared.report.kept_local, ["d/"]);
    let mut here =
        rustix::fs::open(&prepared.directory, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..3000 {
        here = rustix::fs::openat(&here, "d", rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    }
    assert_eq!(rustix::fs::readlinkat(&here, "here", Vec::new()).unwrap().as_bytes(), b"bottom");
    let changes = etc::changes(&new, &prepared.directory).unwrap();
    assert_eq!(changes.len(), 3001);
    // All of it goes again.
    for name in ["etc", "other"] {
        fs::create_dir_all(work.path("data/overlay")).unwrap();
        let target = work.path(&format!("data/overlay/{name}"));
        let from = if name == "etc" { &prepared.directory } else { &etc_old };
        fs::rename(from, target).unwrap();
        let below = Path::new("overlay").join(name);
        overlay::clear(&work.path("data"), &below).unwrap();
    }
    assert_eq!(fs::read_dir(work.path("data/overlay")).unwrap().count(), 0);
}

/// Flips one bit in what is stored of a file's first block.
fn damage(image: &Path, tree: &Tree, path: &str) {
    use ashlarfs::fs::file::Place;
    let file = tree.file(tree.resolve(path.as_bytes()).unwrap()).unwrap();
    let (Place::Blocks { first: block, .. } | Place::Tail { block, .. }) =
        file.extents().next().unwrap().unwrap().place
    else {
        panic!("a hole")
    };
    let entry = tree.store().entry(block).unwrap();
    let mut bytes = fs::read(image).unwrap();
    bytes[usize::try_from(entry.offset).unwrap() + 5] ^= 1;
    fs::write(image, bytes).unwrap();
}

#[test]
fn a_damaged_image_is_an_error_and_changes_nothing() {
    let mut work = Work::new();
    let one = work.image(&[("etc/a", "1"), ("etc/b", "1")]);
    let etc_one = work.prepare(&one).directory;
    fs::write(etc_one.join("a"), "mine").unwrap();
    let two = work.image_of(|dir| {
        plant(dir, &[("etc/a", "2"), ("etc/b", "2")]);
        fs::write(dir.join("etc/c"), noise(1, 9000)).unwrap();
    });
    fs::copy(work.path("image2"), work.path("whole")).unwrap();
    damage(&work.path("image2"), &two, "etc/c");
    let two = open(&work.path("image2"), &two.root_digest().to_string());
    let before = manifest(&work.path("state"));
    let failed = etc::prepare(&work.path("state"), &two, &mut |_| Ok(None)).unwrap_err();
    assert!(failed.is_damage(), "{failed}");
    let mut after = manifest(&work.path("state"));
    // What was tried touched the directory's time.
    after.insert(Vec::new(), before[b"".as_slice()].clone());
    assert_same(&before, &after);

    // Elsewhere, where it does not stay, it is made as far as can be.
    let memory = work.path("memory");
    fs::create_dir(&memory).unwrap();
    let report =
        etc::prepare_elsewhere(&work.path("state"), &two, &mut |_| Ok(None), &memory).unwrap();
    assert_eq!((read(memory.join("a")), read(memory.join("b"))), ("mine".into(), "2".into()));
    assert!(!memory.join("c").exists());
    assert_eq!(report.lost.iter().map(|left| &left.path).collect::<Vec<_>>(), ["c"]);
    let mut after = manifest(&work.path("state"));
    after.insert(Vec::new(), before[b"".as_slice()].clone());
    assert_same(&before, &after);

    // Of an old one, only the damaged file counts as changed.
    let three = work.image_of(|dir| {
        plant(dir, &[("etc/a", "3")]);
        fs::write(dir.join("etc/c"), noise(2, 9000)).unwrap();
    });
    let state = work.path("other");
    fs::create_dir(&state).unwrap();
    let whole = open(&work.path("whole"), &two.root_digest().to_string());
    etc::prepare(&state, &whole, &mut |_| Ok(None)).unwrap();
    fs::remove_file(state.join(format!("etc.{}.pristine", whole.root_digest()))).unwrap();
    let image = work.path("image2");
    let prepared =
        etc::prepare(&state, &three, &mut |digest| Ok(Some(open(&image, &digest.to_string()))));
    let Prepared { directory, report } = prepared.unwrap();
    assert_eq!(read(directory.join("a")), "3");
    assert!(!directory.join("b").exists());
    assert_eq!(report.kept_local, ["c"]);
    assert_eq!(fs::read(directory.join("c")).unwrap(), noise(1, 9000));
}

#[test]
fn changes_are_listed() {
    let mut work = Work::new();
    let image = work.image(&[
        ("etc/a", "1"),
        ("etc/gone.d/a", "1"),
        ("etc/kind.d/a", "1"),
        ("etc/link", "-> a"),
        ("etc/same.d/a", "1"),
        ("etc/touched", "1"),
    ]);
    let etc_dir = work.prepare(&image).directory;
    assert_eq!(etc::changes(&image, &etc_dir).unwrap(), []);
    fs::write(etc_dir.join("a"), "2").unwrap();
    fs::remove_dir_all(etc_dir.join("gone.d")).unwrap();
    fs::remove_dir_all(etc_dir.join("kind.d")).unwrap();
    fs::write(etc_dir.join("kind.d"), "a file now").unwrap();
    set_mode(&etc_dir.join("same.d"), 0o700);
    set_time(&etc_dir.join("touched"), 5, 5);
    fs::write(etc_dir.join(".updated"), "").unwrap();
    fs::create_dir(etc_dir.join("new")).unwrap();
    fs::write(etc_dir.join(OsStr::from_bytes(b"new/\xff\n")), "").unwrap();
    let found = etc::changes(&image, &etc_dir).unwrap();
    let found: Vec<_> = found.iter().map(|change| (change.what, change.path.as_slice())).collect();
    let expected: &[(What, &[u8])] = &[
        (What::Modified, b"a"),
        (What::Removed, b"gone.d"),
        (What::Modified, b"kind.d"),
        (What::Added, b"new"),
        (What::Added, b"new/\xff\n"),
        (What::Modified, b"same.d"),
    ];
    assert_eq!(found, expected);

    let digest = image.root_digest().to_string();
    let image_path = work.path("image1");
    let [shown, image_path] = [&etc_dir, &image_path].map(|path| path.to_str().unwrap());
    let args = ["etc", "diff", "--root-digest", &digest, "--etc", shown, "--image", image_path];
    let ran = ashlar(args);
    assert_eq!(ran.text(), "M a\nD gone.d\nM kind.d\nA new\nA new/\\xff\\x0a\nM same.d\n");
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    let ran = ashlar(args.into_iter().chain(["--json"]));
    let lines: Vec<serde_json::Value> =
        ran.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[1], serde_json::json!({ "change": "removed", "path": "gone.d" }));
    let ran = ashlar(["etc", "diff", "--etc", "/nowhere/at/all", "--image", image_path]);
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("ashlar: error: /nowhere/at/all: "), "{}", ran.err);
    if !Path::new("/run/ashlar/boot.json").exists() {
        let ran = ashlar(["etc", "diff"]);
        assert_eq!(ran.status, 1);
        assert!(ran.err.contains("ashlar: hint: this system was not booted"), "{}", ran.err);
    }
}

#[test]
fn a_merge_can_be_looked_at_before_it_happens() {
    let mut work = Work::new();
    let one = work.image(&[("etc/a", "1"), ("etc/b", "1"), ("etc/c", "1")]);
    let two = work.image(&[("etc/a", "2"), ("etc/b", "2"), ("etc/c/d", "2")]);
    let etc_one = work.prepare(&one).directory;
    fs::write(etc_one.join("a"), "mine").unwrap();
    fs::write(etc_one.join("c"), "mine").unwrap();
    let out = work.path("out");
    let digests = [one.root_digest().to_string(), two.root_digest().to_string()];
    let images = [work.path("image1"), work.path("image2")];
    let mut args = vec!["etc", "merge", "--old", images[0].to_str().unwrap()];
    args.extend(["--new", images[1].to_str().unwrap(), "--current", etc_one.to_str().unwrap()]);
    args.extend(["--root-digest-old", &digests[0], "--root-digest-new", &digests[1]]);
    args.push(out.to_str().unwrap());
    let ran = ashlar(&args);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(ran.err.contains("ashlar: warning: c: "), "{}", ran.err);
    assert_same(&manifest(&work.prepare(&two).directory), &manifest(&out));
    let ran = ashlar(&args);
    assert_eq!(ran.status, 1, "it is there already");
    args.extend(["--json", "--old", images[0].to_str().unwrap()]);
    fs::remove_dir_all(&out).unwrap();
    let args: Vec<_> = args[..args.len() - 2].to_vec();
    let report: serde_json::Value = serde_json::from_slice(&ashlar(&args).out).unwrap();
    assert_eq!(report["kept_local"], serde_json::json!(["a"]));
    assert_eq!(report["conflicts"][0]["saved_as"], "c.ashlar-old");
}

#[test]
fn seeds_are_made_once() {
    let mut work = Work::new();
    let image = work.image_of(|dir| {
        fs::create_dir(dir.join("var")).unwrap();
        tree::fill(&dir.join("var"));
        if !is_root() {
            fs::remove_file(dir.join("var/secret")).unwrap();
            set_time(&dir.join("var"), 1_000_000_002, 3);
        }
        plant(dir, &[("etc/hostname", "ashlar"), ("run/", ""), ("lib/x/deep/a", "1")]);
        symlink("/etc", dir.join("etc-link")).unwrap();
        symlink("hostname", dir.join("etc/alias")).unwrap();
    });
    let data = work.path("data");
    fs::create_dir(&data).unwrap();
    let sow = |from: &str, to: &str| seed(&image, from.as_bytes(), &data, Path::new(to));
    // What a power cut left.
    plant(&data, &[(".var.seed/var/half", "x")]);
    assert!(matches!(sow("/var", "var").unwrap(), Seeded::Copied(summary) if summary.files > 5));
    assert_same(&manifest(&work.source(1).join("var")), &manifest(&data.join("var")));
    assert!(!data.join(".var.seed").exists());
    fs::remove_file(data.join("var/small")).unwrap();
    assert_eq!(sow("/var", "var").unwrap(), Seeded::Already);
    assert!(!data.join("var/small").exists());

    let hostname = "state/bind/etc/hostname";
    assert!(matches!(sow("etc/hostname", hostname).unwrap(), Seeded::Copied(_)));
    assert_eq!(read(data.join(hostname)), "ashlar");
    assert!(matches!(sow("/etc-link/hostname", "linked").unwrap(), Seeded::Copied(_)));
    assert_eq!(read(data.join("linked")), "ashlar");
    assert_eq!(sow("no/such/thing", "state/bind/none").unwrap(), Seeded::Absent);
    assert_eq!(fs::metadata(data.join("state/bind/none")).unwrap().mode(), 0o040_755);
    assert!(matches!(sow("lib/x", "x").unwrap(), Seeded::Copied(_)));
    assert_eq!(read(data.join("x/deep/a")), "1");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 4, "nothing half made is left");

    // Symlinks: in the image, in place of it, and on the way to it.
    assert!(sow("etc/alias", "alias").is_err());
    symlink("/", data.join("trap")).unwrap();
    assert!(sow("etc/hostname", "trap").unwrap_err().to_string().contains("is a symlink"));
    symlink(work.path("state"), data.join("away")).unwrap();
    assert!(sow("etc/hostname", "away/hostname").is_err());
    assert!(make_directories(&data, Path::new("away/more")).is_err());
    assert!(make_directories(&data, Path::new("../more")).is_err());
    assert_eq!(fs::read_dir(work.path("state")).unwrap().count(), 0);

    // A tmpfs that is filled.
    let fresh = work.path("fresh");
    fs::create_dir(&fresh).unwrap();
    fill(&image, b"var", &fresh).unwrap();
    assert_same(&manifest(&work.source(1).join("var")), &manifest(&fresh));
    fs::create_dir(work.path("none")).unwrap();
    assert_eq!(fill(&image, b"none", &work.path("none")).unwrap().files, 0);
    for dir in [data.join("var"), fresh, work.source(1).join("var")] {
        tree::open_up(&dir);
    }
}

#[test]
fn a_seed_of_a_damaged_image_is_none() {
    let mut work = Work::new();
    let image = work.image_of(|dir| {
        plant(dir, &[("var/a", "1")]);
        fs::write(dir.join("var/b"), noise(1, 9000)).unwrap();
    });
    damage(&work.path("image1"), &image, "var/b");
    let image = open(&work.path("image1"), &image.root_digest().to_string());
    let err = seed(&image, b"var", &work.path("state"), Path::new("var")).unwrap_err();
    assert!(err.to_string().contains("var/b: "), "{err}");
    assert_eq!(fs::read_dir(work.path("state")).unwrap().count(), 0);

    // In memory, all else is there.
    let fresh = work.path("fresh");
    fs::create_dir(&fresh).unwrap();
    let err = fill(&image, b"var", &fresh).unwrap_err();
    assert!(err.to_string().contains("var/b: "), "{err}");
    assert_eq!(read(fresh.join("a")), "1");
    assert_eq!(fs::read_dir(&fresh).unwrap().count(), 1);
}

#[test]
fn what_is_immutable_can_be_forgotten() {
    let work = Work::new();
    let data = work.path("data");
    plant(&data, &[("state/etc.x/resolv.conf", "mine"), ("state/etc.x/dir/a", "mine")]);
    let chattr = |how: &str, path: &str| {
        Command::new("chattr").arg(how).arg(data.join(path)).status().is_ok_and(|s| s.success())
    };
    if !is_root() || !chattr("+i", "state/etc.x/resolv.conf") || !chattr("+a", "state/etc.x/dir") {
        println!("skipped: nothing can be made immutable here");
        return;
    }
    reset::factory_reset(&data).unwrap();
    assert_eq!(fs::read_dir(data.join("state")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
}

#[test]
fn a_rollback_needs_no_room_on_the_disk() {
    let mut work = Work::new();
    let one = work.image(&[("etc/a", "1")]);
    let two = work.image(&[("etc/a", "2")]);
    let etc_one = work.prepare(&one).directory;
    fs::write(etc_one.join("mine"), "mine").unwrap();
    work.prepare(&two);
    // Nothing can be noted: there is a directory in the way that is not empty, and cannot be removed.
    let last = work.path("state/etc.last.tmp");
    fs::create_dir(&last).unwrap();
    let chattr = |how: &str| {
        Command::new("chattr").arg(how).arg(work.path("state")).status().is_ok_and(|s| s.success())
    };
    if !is_root() || !chattr("+i") {
        println!("skipped: nothing can be made immutable here");
        return;
    }
    let prepared = etc::prepare(&work.path("state"), &one, &mut |_| Ok(None));
    assert!(chattr("-i"));
    assert_eq!(read(prepared.unwrap().directory.join("mine")), "mine");
}

#[test]
fn the_image_wins_in_a_state_overlay_and_additions_stay() {
    let mut work = Work::new();
    let one = work.image(&[("opt/app/bin", "1"), ("opt/app/lib/a", "1"), ("opt/app/conf", "1")]);
    let two = work.image(&[
        ("opt/app/bin", "2"),
        ("opt/app/lib/a", "2"),
        ("opt/taken", "2"),
        ("opt/was-mine/a", "2"),
        ("opt/white", "2"),
    ]);
    let upper = work.path("upper");
    let files: &[(&str, &str)] = &[
        ("app/bin", "patched"),
        ("app/lib/a", "patched"),
        ("app/lib/mine", "mine"),
        ("app/conf", "edited, and gone from the next image"),
        ("app/data/base", "mine"),
        ("taken/by/a/directory", "mine"),
        ("was-mine", "a file"),
        ("other/a", "mine"),
        ("link", "-> /"),
    ];
    fs::create_dir(&upper).unwrap();
    plant(&upper, files);
    set_mode(&upper.join("app"), 0o700);
    let first = prune(&upper, Stack(&[&one]), b"/opt").unwrap();
    assert!(!first.fitted);
    assert_eq!(first.removed.len(), 3);
    plant(&upper, &[("app/bin", "patched again")]);
    assert!(prune(&upper, Stack(&[&one]), b"/opt").unwrap().fitted);
    assert_eq!(read(upper.join("app/bin")), "patched again");
    if is_root() {
        // A whiteout, and a directory that hides the image's.
        let white = upper.join("white");
        rustix::fs::mknodat(CWD, white, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        set_xattr(&upper.join("app/lib"), "trusted.overlay.opaque", b"y");
    }
    let mut report = prune(&upper, Stack(&[&two]), b"opt").unwrap();
    report.removed.sort();
    let mut removed = vec!["app/bin", "taken", "was-mine"];
    if is_root() {
        removed = vec!["app/bin", "app/lib", "taken", "was-mine", "white"];
    }
    assert_eq!(report.removed, removed);
    let left: Vec<_> = manifest(&upper)
        .into_iter()
        .filter(|(_, text)| !text.starts_with("40"))
        .map(|(path, _)| String::from_utf8(path).unwrap())
        .collect();
    let mut expected = vec!["app/data/base", "app/lib/mine", "link", "other/a"];
    if is_root() {
        expected.remove(1);
    }
    assert_eq!(left, expected);
    assert_eq!(fs::metadata(upper.join("app")).unwrap().mode() & 0o777, 0o755);
    assert!(prune(&upper, Stack(&[&two]), b"opt").unwrap().fitted);
    // Where the image has nothing, everything is state.
    let three = work.image(&[("usr/", "")]);
    assert_eq!(prune(&upper, Stack(&[&three]), b"opt").unwrap().removed, [""; 0]);
    symlink(&upper, work.path("trap")).unwrap();
    assert!(prune(&work.path("trap"), Stack(&[&one]), b"opt").is_err());
}

/// What a child of [`a_pruned_overlay_shows_the_new_image`] does, where it may mount.
#[test]
#[ignore = "a part of another test"]
fn child_with_an_overlay() {
    let Some(dir) = std::env::var_os("ASHLAR_TEST_OVERLAY").map(PathBuf::from) else { return };
    let two = open(&dir.join("image2"), &read(dir.join("digest")));
    let sh = |script: &str| {
        let ran = Command::new("sh").args(["-ec", script]).current_dir(&dir).status().unwrap();
        assert!(ran.success(), "{script}");
    };
    let mount = |nth: u32| {
        sh(&format!(
            "mount -t overlay o -o lowerdir=source{nth}/opt,upperdir=data/upper,workdir=data/work,xino=off,index=off,\
             metacopy=off,redirect_dir=nofollow,nfs_export=off view"
        ));
    };
    mount(1);
    sh("cd view; echo patched >app/bin; rm app/conf; rm -r app/lib; mkdir app/lib; echo mine >app/lib/mine
        mkdir mine app/data; echo mine >mine/a; echo mine >app/data/a; chmod 700 app; rm -r old; touch keep");
    sh("umount view");
    assert!(!prune(&dir.join("data/upper"), Stack(&[&two]), b"opt").unwrap().fitted);
    mount(2);
    let mut expected = contents(&dir.join("source2/opt"));
    plant(&dir, &[("added/mine/a", "mine\n"), ("added/app/data/a", "mine\n"), ("added/keep", "")]);
    expected.extend(contents(&dir.join("added")));
    let mut found = contents(&dir.join("view"));
    // The directory itself carries the mark of the image.
    for all in [&mut expected, &mut found] {
        all.remove(b"".as_slice()).unwrap();
    }
    assert_same(&expected, &found);
    assert_eq!(fs::metadata(dir.join("view/app")).unwrap().mode() & 0o777, 0o755);
    sh("umount view");
    println!("spoken: overlaid");
}

#[test]
fn a_pruned_overlay_shows_the_new_image() {
    let mut work = Work::new();
    let one: &[(&str, &str)] =
        &[("opt/app/bin", "1"), ("opt/app/conf", "1"), ("opt/app/lib/a", "1"), ("opt/old/a", "1")];
    work.image(one);
    // The image comes to have a directory that was made on the machine before.
    let two: &[(&str, &str)] = &[
        ("opt/app/bin", "2"),
        ("opt/app/conf", "2"),
        ("opt/app/lib/a", "2"),
        ("opt/old/a", "2"),
        ("opt/mine/theirs", "2"),
    ];
    let two = work.image(two);
    fs::write(work.path("digest"), two.root_digest().to_string()).unwrap();
    fs::create_dir(work.path("view")).unwrap();
    fs::create_dir(work.path("data")).unwrap();
    let script = format!(
        "mount -t tmpfs none {dir}/data && mkdir {dir}/data/upper {dir}/data/work || exit 99
        exec {test} --exact child_with_an_overlay --include-ignored --nocapture",
        dir = work.path("").display(),
        test = std::env::current_exe().unwrap().display(),
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-c", &script]).env("ASHLAR_TEST_OVERLAY", work.path(""));
    if !is_root() {
        println!("skipped: only root may mount an overlay as a boot does");
        return;
    }
    let ran = unshare.output().unwrap();
    if ran.status.code() == Some(99) {
        println!("skipped: no file system can be mounted here");
        return;
    }
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(said.contains("spoken: overlaid"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn a_persistent_overlay_keeps_one_backup() {
    let work = Work::new();
    let data = work.path("data");
    let root = Path::new("state/overlay/root");
    fs::create_dir(&data).unwrap();
    assert!(!overlay::set_aside(&data, root).unwrap());
    for nth in ["1", "2", "3"] {
        plant(&data, &[("state/overlay/root/upper/a", nth)]);
        assert!(overlay::set_aside(&data, root).unwrap());
        assert_eq!(read(data.join("state/overlay/root.bak/upper/a")), nth);
        assert_eq!(fs::read_dir(data.join("state/overlay")).unwrap().count(), 1);
        // A boot that failed leaves an overlay with nothing in it: that is no backup.
        fs::create_dir_all(data.join(root).join("upper")).unwrap();
        fs::create_dir_all(data.join(root).join("work").join("work")).unwrap();
        assert!(!overlay::set_aside(&data, root).unwrap());
        assert_eq!(read(data.join("state/overlay/root.bak/upper/a")), nth);
    }
    plant(&data, &[("state/overlay/root/upper/a", "4")]);
    overlay::clear(&data, root).unwrap();
    overlay::clear(&data, root).unwrap();
    assert_eq!(fs::read_dir(data.join("state/overlay")).unwrap().count(), 1);
    assert_eq!(read(data.join("state/overlay/root.bak/upper/a")), "3");
}

/// A tree as a few choices: what is at each of a handful of names, so that they often meet.
#[derive(Debug, Clone)]
enum Choice {
    File(u8, bool),
    Link(u8),
    Dir(BTreeMap<u8, Choice>),
}

fn choice() -> impl Strategy<Value = Choice> {
    let leaf = prop_oneof![
        (0..4_u8, any::<bool>()).prop_map(|(content, closed)| Choice::File(content, closed)),
        (0..2_u8).prop_map(Choice::Link),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop::collection::btree_map(0..5_u8, inner, 0..5).prop_map(Choice::Dir)
    })
}

fn choices() -> impl Strategy<Value = BTreeMap<u8, Choice>> {
    prop::collection::btree_map(0..6_u8, choice(), 0..6)
}

/// Makes it, each thing with a time that hangs on `when`; contents carry `by`.
fn grow(dir: &Path, choices: &BTreeMap<u8, Choice>, by: &str, when: u64) {
    for (name, choice) in choices {
        let path = dir.join(format!("n{name}"));
        match choice {
            Choice::File(content, closed) => {
                fs::write(&path, format!("{by}{content}")).unwrap();
                set_mode(&path, if *closed { 0o600 } else { 0o644 });
                set_time(&path, when + u64::from(*content), 0);
            }
            Choice::Link(target) => symlink(format!("{by}{target}"), &path).unwrap(),
            Choice::Dir(inner) => {
                fs::create_dir(&path).unwrap();
                grow(&path, inner, by, when);
                set_time(&path, when, 0);
            }
        }
    }
}

/// Without the times of symlinks, which nothing sets here.
fn settled(dir: &Path) -> Manifest {
    let mut found = manifest(dir);
    for text in found.values_mut().filter(|text| text.starts_with("120")) {
        let (before, after) = text.split_once("mtime").unwrap();
        *text = format!("{before}{}", after.split_once("device").unwrap().1);
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn who_changed_nothing_changes_nothing(one in choices(), two in choices()) {
        let mut work = Work::new();
        let make = |choices: &BTreeMap<u8, Choice>, when| {
            let choices = choices.clone();
            move |dir: &Path| {
                fs::create_dir(dir.join("etc")).unwrap();
                grow(&dir.join("etc"), &choices, "", when);
                set_time(&dir.join("etc"), when, 0);
            }
        };
        let old = work.image_of(make(&one, 1000));
        let new = work.image_of(make(&two, 2000));
        let [etc_old, etc_new] = [1, 2].map(|nth| work.source(nth).join("etc"));
        // Nobody changed anything: it is the new image's.
        let report = etc::merge(&old, &etc_old, &new, &work.path("a")).unwrap();
        assert_same(&settled(&etc_new), &settled(&work.path("a")));
        prop_assert!(report.kept_local.is_empty() && report.conflicts.is_empty());
        prop_assert!(report.removed_local.is_empty());
        // The image changed nothing: it is as it was.
        let report = etc::merge(&old, &etc_new, &old, &work.path("b")).unwrap();
        assert_same(&settled(&etc_new), &settled(&work.path("b")));
        prop_assert!(report.conflicts.is_empty() && report.both_changed.is_empty());
        // Both made the same of it.
        let report = etc::merge(&old, &etc_new, &new, &work.path("c")).unwrap();
        assert_same(&settled(&etc_new), &settled(&work.path("c")));
        prop_assert!(report.conflicts.is_empty() && report.both_changed.is_empty());
    }

    #[test]
    fn nothing_that_somebody_made_is_lost(one in choices(), two in choices(), three in choices()) {
        let mut work = Work::new();
        let make = |choices: &BTreeMap<u8, Choice>, by: &'static str| {
            let choices = choices.clone();
            move |dir: &Path| {
                fs::create_dir(dir.join("etc")).unwrap();
                grow(&dir.join("etc"), &choices, by, 1000);
            }
        };
        let old = work.image_of(make(&one, "old"));
        let new = work.image_of(make(&two, "new"));
        let state = work.path("state");
        let current = work.prepare(&old).directory;
        fs::remove_dir_all(&current).unwrap();
        fs::create_dir(&current).unwrap();
        grow(&current, &three, "mine", 1000);
        let made = work.prepare(&new).directory;
        let leaves = |dir: &Path| {
            let mut leaves: Vec<(Vec<u8>, String)> = contents(dir)
                .into_iter()
                .filter(|(_, text)| text.contains("mine") || text.contains("size"))
                .map(|(path, text)| {
                    let path = String::from_utf8(path).unwrap().replace(".ashlar-old", "");
                    (path.into_bytes(), text)
                })
                .collect();
            leaves.sort();
            leaves
        };
        let there = leaves(&made);
        for leaf in leaves(&current) {
            prop_assert!(there.contains(&leaf), "{:?} of {:?}", leaf, there);
        }
        // And what is done is done.
        let before = manifest(&state);
        etc::prepare(&state, &new, &mut |_| -> Result<_> { panic!() }).unwrap();
        assert_same(&before, &manifest(&state));
    }
}

/// What a child of [`a_killed_boot_is_made_good_by_the_next`] does: one boot after the other, as fast as it can be killed.
#[test]
#[ignore = "a part of another test"]
fn child_that_boots() {
    let Some(dir) = std::env::var_os("ASHLAR_TEST_STATE").map(PathBuf::from) else { return };
    boot(&dir);
}

fn boot(dir: &Path) {
    let digest = read(dir.join("digest"));
    let image = open(&dir.join("image2"), &digest);
    let data = dir.join("data");
    seed(&image, b"var", &data, Path::new("var")).unwrap();
    etc::prepare(&data.join("state"), &image, &mut |_: Digest| Ok(None)).unwrap();
}

#[test]
fn a_killed_boot_is_made_good_by_the_next() {
    let mut work = Work::new();
    let fill = |content: &'static str| {
        move |dir: &Path| {
            for nth in 0..60 {
                plant(dir, &[(&format!("etc/d{}/f{nth}", nth % 7), content)]);
                fs::write(dir.join(format!("etc/d{}/f{nth}.big", nth % 7)), noise(nth, 9000))
                    .unwrap();
                plant(dir, &[(&format!("var/d{}/f{nth}", nth % 7), content)]);
            }
        }
    };
    let one = work.image_of(fill("1"));
    let two = work.image_of(fill("2"));
    fs::write(work.path("digest"), two.root_digest().to_string()).unwrap();
    fs::create_dir_all(work.path("pristine/state")).unwrap();
    let made = etc::prepare(&work.path("pristine/state"), &one, &mut |_| Ok(None)).unwrap();
    for nth in 0..20 {
        fs::write(made.directory.join(format!("d{}/f{nth}", nth % 7)), "mine").unwrap();
    }
    let forget = || {
        fs::remove_dir_all(work.path("data")).ok();
        let copied =
            Command::new("cp").arg("-a").args([work.path("pristine"), work.path("data")]).status();
        assert!(copied.unwrap().success());
    };
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_boots", "--include-ignored", "--test-threads=1"])
            .env("ASHLAR_TEST_STATE", work.path(""))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    forget();
    let began = Instant::now();
    assert!(start().wait().unwrap().success());
    let whole = began.elapsed();
    let expected = contents(&work.path("data"));
    let mut cut = 0;
    let began = Instant::now();
    // Kills fall evenly on the time that it takes; a busy machine does fewer of them.
    for nth in 0..200_u32 {
        if began.elapsed() > Duration::from_secs(20) {
            break;
        }
        forget();
        let mut child = start();
        std::thread::sleep(whole.mul_f64(f64::from(nth * 37 % 200) / 200.0));
        child.kill().unwrap();
        child.wait().unwrap();
        let half = contents(&work.path("data"));
        cut += u32::from(half != expected);
        boot(work.path("").as_path());
        assert_same(&expected, &contents(&work.path("data")));
    }
    assert!(cut > 3, "only {cut} were cut off");
}

/// What a child of [`a_full_disk_leaves_what_was_there`] does, with a small file system mounted where it works.
#[test]
#[ignore = "a part of another test"]
fn child_with_a_full_disk() {
    let Some(dir) = std::env::var_os("ASHLAR_TEST_FULL").map(PathBuf::from) else { return };
    let image = open(&dir.join("image2"), &read(dir.join("digest")));
    let state = dir.join("mnt/state");
    let before = contents(&state);
    let failed = etc::prepare(&state, &image, &mut |_| Ok(None)).unwrap_err();
    let Error::Io { source, .. } = &failed else { panic!("{failed}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull, "{failed}");
    assert_same(&before, &contents(&state));
    let failed = seed(&image, b"etc", &dir.join("mnt"), Path::new("var")).unwrap_err();
    assert!(failed.to_string().contains("nothing more can be written"), "{failed}");
    assert_eq!(fs::read_dir(dir.join("mnt")).unwrap().count(), 1);
    println!("spoken: full");
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let mut work = Work::new();
    let small = work.image(&[("etc/a", "1")]);
    let big = work.image_of(|dir| {
        fs::create_dir(dir.join("etc")).unwrap();
        for nth in 0..40 {
            fs::write(dir.join(format!("etc/{nth}")), noise(nth, 100_000)).unwrap();
        }
    });
    fs::write(work.path("digest"), big.root_digest().to_string()).unwrap();
    fs::create_dir(work.path("before")).unwrap();
    etc::prepare(&work.path("before"), &small, &mut |_| Ok(None)).unwrap();
    fs::create_dir(work.path("mnt")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=2m,mode=755 none {dir}/mnt || exit 99
        cp -a {dir}/before {dir}/mnt/state
        exec {test} --exact child_with_a_full_disk --include-ignored --nocapture",
        dir = work.path("").display(),
        test = std::env::current_exe().unwrap().display(),
    );
    let mut unshare = Command::new("unshare");
    unshare.args([if is_root() { "-m" } else { "-rm" }, "sh", "-c", &script]);
    let ran = unshare.env("ASHLAR_TEST_FULL", work.path("")).output();
    let Some(ran) = ran.ok().filter(|ran| ran.status.code() != Some(99)) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(said.contains("spoken: full"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
}

/// What a child of [`a_long_attribute_is_no_full_disk`] does, where a file system takes only short ones.
#[test]
#[ignore = "a part of another test"]
fn child_with_short_attributes() {
    let Some(dir) = std::env::var_os("ASHLAR_TEST_SHORT").map(PathBuf::from) else { return };
    let image = open(&dir.join("image1"), &read(dir.join("digest")));
    let Prepared { directory, report } =
        etc::prepare(&dir.join("mnt"), &image, &mut |_| Ok(None)).unwrap();
    assert_eq!(read(directory.join("a")), "1");
    let left: Vec<_> = report.not_restored.iter().map(|left| left.path.as_str()).collect();
    assert_eq!(left, ["a"]);
    println!("spoken: short");
}

#[test]
fn a_long_attribute_is_no_full_disk() {
    let mut work = Work::new();
    let image = work.image_of(|dir| {
        plant(dir, &[("etc/a", "1"), ("etc/b", "2")]);
        set_xattr(&dir.join("etc/a"), "user.long", &[7; 40_000]);
        set_xattr(&dir.join("etc/b"), "user.short", &[7; 40]);
    });
    fs::write(work.path("digest"), image.root_digest().to_string()).unwrap();
    fs::create_dir(work.path("mnt")).unwrap();
    // A tmpfs takes inodes and attributes from one store of a KiB an inode, and says that it is full.
    let script = format!(
        "mount -t tmpfs -o size=4m,nr_inodes=30,mode=755 none {dir}/mnt || exit 99
        exec {test} --exact child_with_short_attributes --include-ignored --nocapture",
        dir = work.path("").display(),
        test = std::env::current_exe().unwrap().display(),
    );
    let mut unshare = Command::new("unshare");
    unshare.args([if is_root() { "-m" } else { "-rm" }, "sh", "-c", &script]);
    let ran = unshare.env("ASHLAR_TEST_SHORT", work.path("")).output();
    let Some(ran) = ran.ok().filter(|ran| ran.status.code() != Some(99)) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(said.contains("spoken: short"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn an_extension_wins_in_a_state_overlay_too() {
    let mut work = Work::new();
    let root = work.image(&[("opt/app/bin", "1"), ("usr/", "")]);
    let old = work.image(&[("opt/extra/conf", "1")]);
    let new = work.image(&[("opt/extra/conf", "2")]);
    let upper = work.path("upper");
    let files = [("extra/conf", "mine"), ("extra/own", "mine"), ("app/own", "mine")];
    plant(&upper, &files);
    // Without the extension, all of it is an addition.
    assert_eq!(prune(&upper, Stack(&[&root]), b"opt").unwrap().removed, [""; 0]);
    assert_eq!(prune(&upper, Stack(&[&root, &old]), b"opt").unwrap().removed, ["extra/conf"]);
    plant(&upper, &files);
    assert!(prune(&upper, Stack(&[&root, &old]), b"opt").unwrap().fitted);
    // Left out for once, and back.
    assert!(prune(&upper, Stack(&[&root]), b"opt").unwrap().fitted);
    assert!(prune(&upper, Stack(&[&root, &old]), b"opt").unwrap().fitted);
    assert_eq!(prune(&upper, Stack(&[&root, &new]), b"opt").unwrap().removed, ["extra/conf"]);
    assert!(!prune(&upper, Stack(&[&new, &root]), b"opt").unwrap().fitted);
    assert_eq!(read(upper.join("extra/own")) + &read(upper.join("app/own")), "minemine");
}

#[test]
fn a_stack_of_images_is_what_overlayfs_makes_of_it() {
    let mut work = Work::new();
    let top = work.image_of(|dir| {
        plant(dir, &[("usr/bin/tool", "top"), ("etc", "a file"), ("opaque/mine", "top")]);
        symlink("/data/real", dir.join("usr/link")).unwrap();
        if is_root() {
            let white = dir.join("white");
            rustix::fs::mknodat(CWD, white, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
            set_xattr(&dir.join("opaque"), "trusted.overlay.opaque", b"y");
        }
    });
    let base = work.image(&[
        ("usr/bin/tool", "base"),
        ("usr/bin/other", "base"),
        ("bin", "-> usr/bin"),
        ("etc/passwd", "base"),
        ("data/real", "base"),
        ("opaque/theirs", "base"),
        ("white", "base"),
    ]);
    let trees = [&top, &base];
    let stack = Stack(&trees);
    let content = |path: &str| {
        let (node, found) = stack.resolve_following(path.as_bytes()).ok()?;
        let mut text = vec![0; 20];
        let len = node.top.tree.read_at(node.top.index, 0, &mut text).ok()?;
        text.truncate(len);
        Some(format!("{} {}", String::from_utf8(found).unwrap(), String::from_utf8(text).unwrap()))
    };
    // Through a link of the lower into a directory of both.
    assert_eq!(content("/bin/tool").unwrap(), "usr/bin/tool top");
    assert_eq!(content("bin/other").unwrap(), "usr/bin/other base");
    assert_eq!(content("/usr/link").unwrap(), "data/real base");
    assert_eq!(content("usr/bin/../../etc").unwrap(), "etc a file");
    assert_eq!(content("etc/passwd"), None);
    assert_eq!(content("opaque/mine").unwrap(), "opaque/mine top");
    if is_root() {
        assert_eq!(content("opaque/theirs"), None);
        assert!(matches!(stack.resolve_following(b"white"), Err(Error::NotFound)));
        // By itself, a tree has what it has.
        assert!(top.resolve_following(b"white").is_ok());
    }
}
