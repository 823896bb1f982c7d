//! Does `diff` tell what is different between two images, and what an update would download?

#[path = "support/tree.rs"]
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tree::{Ran, ashlar, noise, pack, set_mode, set_time, set_xattr};

fn work() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Builds an image named `name` of what `fill` makes. All times are the same but those that it sets.
fn image(work: &Path, name: &str, extra: &[&str], fill: impl FnOnce(&Path)) -> (PathBuf, String) {
    let source = work.join(format!("{name}.d"));
    fs::create_dir(&source).unwrap();
    fill(&source);
    pack(&source, &work.join(name), extra)
}

fn diff(options: &[&str], a: &(PathBuf, String), b: &(PathBuf, String)) -> Ran {
    let mut args = vec!["diff", "--root-digest-a", &a.1, "--root-digest-b", &b.1];
    args.extend(options);
    args.extend([a.0.to_str().unwrap(), b.0.to_str().unwrap()]);
    ashlar(args)
}

fn base(dir: &Path) {
    for name in ["d", "d.x", "gone", "became"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::write(dir.join("d/same"), noise(1, 50_000)).unwrap();
    fs::write(dir.join("d/one-byte"), noise(2, 50_000)).unwrap();
    fs::write(dir.join("d/tail"), noise(3, 4096 + 17)).unwrap();
    fs::write(dir.join("d/longer"), noise(4, 100)).unwrap();
    fs::write(dir.join("d/touched"), "x").unwrap();
    fs::write(dir.join("d/mode"), "x").unwrap();
    fs::write(dir.join("d/xattr"), "x").unwrap();
    fs::write(dir.join("d/zeros"), [0; 9000]).unwrap();
    fs::write(dir.join("gone/file"), "x").unwrap();
    std::os::unix::fs::symlink("a", dir.join("link")).unwrap();
    settle(dir);
}

/// One time for all that is not a symlink.
fn settle(dir: &Path) {
    let mut stack = vec![dir.to_owned()];
    while let Some(path) = stack.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            stack.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        if meta.is_file() || meta.is_dir() {
            set_time(&path, 1_600_000_000, 0);
        }
    }
    let time = rustix::fs::Timespec { tv_sec: 1_600_000_000, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, dir.join("link"), &times, flags).unwrap();
}

fn changed(dir: &Path) {
    base(dir);
    let mut bytes = noise(2, 50_000);
    bytes[30_000] ^= 1;
    fs::write(dir.join("d/one-byte"), bytes).unwrap();
    let mut bytes = noise(3, 4096 + 17);
    bytes[4096 + 16] ^= 1;
    fs::write(dir.join("d/tail"), bytes).unwrap();
    fs::write(dir.join("d/longer"), noise(4, 101)).unwrap();
    set_mode(&dir.join("d/mode"), 0o4711);
    set_xattr(&dir.join("d/xattr"), "user.a", b"b");
    fs::remove_dir_all(dir.join("gone")).unwrap();
    fs::remove_dir(dir.join("became")).unwrap();
    fs::write(dir.join("became"), "").unwrap();
    fs::remove_file(dir.join("link")).unwrap();
    std::os::unix::fs::symlink("b\u{1b}[2J", dir.join("link")).unwrap();
    fs::write(dir.join("d.x/new"), "").unwrap();
    settle(dir);
    set_time(&dir.join("d/touched"), 1_600_000_000, 1);
}

#[test]
fn every_difference_is_told() {
    let work = work();
    let a = image(work.path(), "a", &[], base);
    let b = image(work.path(), "b", &[], changed);
    let ran = diff(&[], &a, &b);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    let lines: Vec<&str> = ran.text().lines().collect();
    assert_eq!(
        &lines[..lines.len() - 1],
        [
            "~ became/: type drwxr-xr-x -> -rw-r--r--",
            "~ d/longer: size 100 -> 101, content",
            "~ d/mode: mode 0644 -> 4711",
            "~ d/one-byte: content",
            "~ d/tail: content",
            "~ d/touched: mtime",
            "~ d/xattr: xattrs",
            "+ d.x/new",
            "- gone/",
            "- gone/file",
            "~ link: target a -> b\\x1b[2J",
            "1 added, 2 removed, 8 changed",
        ]
    );
    assert!(lines.last().unwrap().starts_with("an update downloads "), "{lines:?}");

    let json = diff(&["--json", "--exit-code"], &a, &b);
    assert_eq!(json.status, 1);
    let objects: Vec<Value> =
        json.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 12);
    assert_eq!(objects[1]["aspects"], serde_json::json!(["size", "content"]));
    assert_eq!(objects[1]["a"]["size"], 100);
    assert_eq!(objects[7]["file"]["path"], "d.x/new");
    assert_eq!(objects[11]["summary"]["changed"], 8);
    // The blocks with a changed byte, shared tails, and metadata; nowhere near all of it.
    let download = &objects[11]["download"];
    let (bytes, total) =
        (download["bytes"].as_u64().unwrap(), download["total_bytes"].as_u64().unwrap());
    assert_eq!(total, fs::metadata(&b.0).unwrap().len());
    assert!(bytes < total / 2, "{bytes} of {total}");
    assert_eq!(
        bytes,
        download["block_bytes"].as_u64().unwrap() + download["table_bytes"].as_u64().unwrap()
    );
    let only = diff(&["--json", "--bytes"], &a, &b);
    assert_eq!(&serde_json::from_str::<Value>(only.text()).unwrap()["download"], download);
}

#[test]
fn the_same_tree_stored_otherwise_is_the_same() {
    let work = work();
    let a = image(work.path(), "a", &[], base);
    let b = image(work.path(), "b", &["-b", "16K", "-z", "none"], base);
    for (a, b) in [(&a, &b), (&b, &a), (&a, &a)] {
        let ran = diff(&["--exit-code"], a, b);
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{}", ran.text());
        assert!(ran.text().starts_with("0 added, 0 removed, 0 changed\n"), "{}", ran.text());
    }
    assert!(diff(&["--bytes"], &a, &a).text().starts_with("an update downloads 0 bytes (0 B)"));
}

#[test]
fn trouble_is_not_a_difference() {
    let work = work();
    let a = image(work.path(), "a", &[], base);
    let missing = (work.path().join("nowhere"), a.1.clone());
    assert_eq!(diff(&[], &a, &missing).status, 1);
    assert_eq!(diff(&["--exit-code"], &a, &missing).status, 2);
    let wrong = (a.0.clone(), "1".repeat(64));
    let ran = diff(&["--exit-code"], &wrong, &a);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains(a.0.to_str().unwrap()), "{}", ran.err);
}
