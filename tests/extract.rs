//! Does a tree come out of an image as it went in, and nothing outside of where it was to go?

#[path = "support/tree.rs"]
mod tree;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tree::{Ran, ashlar, assert_same, manifest, noise, pack};

/// A directory to work in, with an image in it of a tree that has everything.
struct Work {
    dir: tempfile::TempDir,
    image: PathBuf,
    root_digest: String,
}

impl Drop for Work {
    fn drop(&mut self) {
        for name in ["source", "out"] {
            tree::open_up(&self.dir.path().join(name));
        }
    }
}

impl Work {
    fn new() -> Self {
        let work = Self::of(tree::fill);
        // An ordinary user cannot read what nobody may, and so cannot pack it.
        assert!(work.path("source/small").exists());
        work
    }

    fn of(fill: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fill(&source);
        if !tree::is_root() && source.join("secret").exists() {
            fs::remove_file(source.join("secret")).unwrap();
            tree::set_time(&source, 1_000_000_002, 3);
        }
        let (image, root_digest) = pack(&source, &dir.path().join("image"), &[]);
        Work { dir, image, root_digest }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn extract(&self, args: &[&str]) -> Ran {
        let mut all = vec!["extract", "--root-digest", &self.root_digest];
        all.extend(args);
        let out = self.path("out");
        all.extend([self.image.to_str().unwrap(), out.to_str().unwrap()]);
        ashlar(all)
    }
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    for workers in ["1", "5"] {
        let work = Work::new();
        let ran = work.extract(&["-j", workers]);
        assert_eq!((ran.status, ran.out.len()), (0, 0), "{}", ran.err);
        assert!(ran.err.starts_with("extracted 1"), "{}", ran.err);
        assert_same(&manifest(&work.path("source")), &manifest(&work.path("out")));
        let sparse = fs::metadata(work.path("out/sparse")).unwrap();
        assert!(sparse.blocks() * 512 < 100_000, "{} blocks", sparse.blocks());
    }
}

#[test]
fn quiet_says_nothing() {
    let work = Work::of(|dir| fs::write(dir.join("file"), "x").unwrap());
    let ran = work.extract(&["--quiet"]);
    assert_eq!((ran.status, ran.out.len(), ran.err.as_str()), (0, 0, ""));
}

#[test]
fn what_is_there_is_only_replaced_by_force() {
    let work = Work::new();
    let out = work.path("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "kept").unwrap();
    let ran = work.extract(&[]);
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("ashlar: error: cannot extract into"), "{}", ran.err);
    assert!(ran.err.contains("ashlar: hint: ") && ran.err.contains("--force"), "{}", ran.err);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);

    // Everything in the way is of another kind than in the image, or leads outside.
    let outside = work.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("tool"), "not yours").unwrap();
    fs::write(outside.join("small"), "not yours").unwrap();
    symlink(&outside, out.join("bin")).unwrap();
    fs::hard_link(outside.join("small"), out.join("small")).unwrap();
    symlink(outside.join("small"), out.join("text")).unwrap();
    symlink(outside.join("new"), out.join("exact")).unwrap();
    symlink(&outside, out.join("sbin")).unwrap();
    fs::write(out.join("deep"), "a file").unwrap();
    fs::write(out.join("pipe"), "a file").unwrap();
    fs::write(out.join("absolute"), "a file").unwrap();
    fs::create_dir(out.join("inherit")).unwrap();
    fs::write(out.join("inherit/mine"), "kept").unwrap();
    tree::set_xattr(&out.join("inherit"), "system.posix_acl_access", tree::ACL);
    let before = manifest(&outside);
    let ran = work.extract(&["--force"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    let mut found = manifest(&out);
    assert!(found.remove(b"mine".as_slice()).is_some());
    assert!(found.remove(b"inherit/mine".as_slice()).is_some());
    assert_same(&manifest(&work.path("source")), &found);
    let mut after = manifest(&outside);
    assert_eq!(fs::read(outside.join("small")).unwrap(), b"not yours");
    // One name of it was in the way.
    let links = |text: &str| text.replace("links 2", "links 1");
    for text in after.values_mut() {
        *text = links(text);
    }
    assert_same(&before.into_iter().map(|(path, text)| (path, links(&text))).collect(), &after);

    // And once more, over itself.
    let ran = work.extract(&["--force"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    fs::remove_file(out.join("mine")).unwrap();
    tree::set_time(&out, 1_000_000_002, 3);
    let mut found = manifest(&out);
    found.remove(b"inherit/mine".as_slice()).unwrap();
    assert_same(&manifest(&work.path("source")), &found);
}

#[test]
fn a_directory_in_the_way_of_a_file_stays() {
    let work = Work::of(|dir| {
        fs::write(dir.join("a"), "file").unwrap();
        fs::write(dir.join("b"), "file").unwrap();
    });
    fs::create_dir_all(work.path("out/a/mine")).unwrap();
    let ran = work.extract(&["-f"]);
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("ashlar: error: a: cannot replace what is there: "), "{}", ran.err);
    let mut names: Vec<_> =
        fs::read_dir(work.path("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "b"], "nothing half made is left");
}

#[test]
fn only_some_paths() {
    let work = Work::new();
    let ran =
        work.extract(&["-p", "/sbin/tool", "-p", "deep/er", "-p", "deep/er/and", "-p", "sbin"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    let wanted = ["", "bin", "bin/tool", "sbin", "deep"];
    let mut expected = manifest(&work.path("source"));
    expected.retain(|path, _| {
        wanted.iter().any(|name| name.as_bytes() == path) || path.starts_with(b"deep/er")
    });
    // The third name of it was not wanted.
    for text in expected.values_mut() {
        *text = text.replace("links 3", "links 2");
    }
    assert_same(&expected, &manifest(&work.path("out")));

    // Directories that were there are left alone when they only lie on the way.
    tree::set_mode(&work.path("out"), 0o711);
    tree::set_mode(&work.path("out/bin"), 0o711);
    let ran = work.extract(&["-f", "-p", "bin/link"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    for name in ["out", "out/bin"] {
        let mode = fs::metadata(work.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o711);
    }

    let ran = work.extract(&["-f", "-p", "no/such"]);
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("no/such: no such file or directory in the image"), "{}", ran.err);
}

#[test]
fn no_owners_no_xattrs() {
    let work = Work::new();
    let ran = work.extract(&["--no-owner", "--no-xattrs"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    let me = fs::metadata(work.path("out/empty")).unwrap();
    for (path, text) in manifest(&work.path("out")) {
        assert!(text.contains(&format!(" {}:{} ", me.uid(), me.gid())), "{path:?} {text}");
        assert!(!text.contains("user.") && !text.contains("posix_acl"), "{path:?} {text}");
    }
    if tree::is_root() {
        // It is another's in the image: it must not be set-user-ID root here.
        let mode = fs::metadata(work.path("out/bin/tool")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }
}

/// Flips one bit in what is stored of a file's block `nth`.
fn damage(image: &Path, root_digest: &str, path: &str, nth: u32) {
    use ashlarfs::format::index::BlockIndex;
    use ashlarfs::fs::file::Place;
    let options =
        ashlarfs::Options::new(ashlarfs::Anchor::RootDigest(root_digest.parse().unwrap()));
    let tree = ashlarfs::open(image, &options).unwrap();
    let file = tree.file(tree.resolve(path.as_bytes()).unwrap()).unwrap();
    let first = file.extents().next().unwrap().unwrap();
    let Place::Blocks { first, .. } = first.place else { panic!("{first:?}") };
    let entry = tree.store().entry(BlockIndex(first.0 + nth)).unwrap();
    let mut bytes = fs::read(image).unwrap();
    bytes[usize::try_from(entry.offset).unwrap() + 5] ^= 1;
    fs::write(image, bytes).unwrap();
}

#[test]
fn a_damaged_file_is_left_out_and_the_rest_comes() {
    let work = Work::new();
    damage(&work.image, &work.root_digest, "bin/tool", 3);
    let ran = work.extract(&[]);
    assert_eq!(ran.status, 1);
    for path in ["bin/tool", "deep/er/tool", "tool"] {
        assert!(ran.err.contains(&format!("ashlar: error: {path}: ")), "{}", ran.err);
    }
    assert!(ran.err.contains("3 files are missing or not whole"), "{}", ran.err);
    assert!(ran.err.contains("ashlar: hint: `ashlar verify`"), "{}", ran.err);
    let mut expected = manifest(&work.path("source"));
    for path in ["bin/tool", "deep/er/tool", "tool"] {
        expected.remove(path.as_bytes()).unwrap();
    }
    assert_same(&expected, &manifest(&work.path("out")));

    // What was there before is better than what is damaged.
    fs::write(work.path("out/tool"), "old").unwrap();
    fs::write(work.path("out/bin/tool"), "old").unwrap();
    let ran = work.extract(&["--force"]);
    assert_eq!(ran.status, 1);
    assert_eq!(fs::read(work.path("out/bin/tool")).unwrap(), b"old");
    assert_eq!(fs::read_dir(work.path("out/bin")).unwrap().count(), 2);
}

#[test]
fn a_wrong_digest_makes_nothing() {
    let mut work = Work::of(|_| {});
    work.root_digest = "0".repeat(64);
    assert_eq!(work.extract(&[]).status, 1);
    assert!(!work.path("out").exists());
}

#[test]
fn deep_and_wide_trees_need_few_open_files() {
    let work = Work::of(|dir| {
        let mut here = dir.to_owned();
        for depth in 0..700 {
            here.push("d");
            fs::create_dir(&here).unwrap();
            fs::write(here.join("f"), noise(depth, 30)).unwrap();
        }
        fs::create_dir(dir.join("wide")).unwrap();
        for nth in 0..3000 {
            fs::write(dir.join(format!("wide/{nth}")), noise(nth, 9000)).unwrap();
        }
        fs::hard_link(here.join("f"), dir.join("linked")).unwrap();
        tree::set_time(&dir.join("d/d/d"), 1_000_000_000, 7);
    });
    let script = format!(
        "ulimit -n 200; exec {} extract -q -j 4 --root-digest {} {} {}",
        env!("CARGO_BIN_EXE_ashlar"),
        work.root_digest,
        work.image.display(),
        work.path("out").display()
    );
    let ran: Ran = Command::new("sh").args(["-c", &script]).output().unwrap().into();
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    assert_same(&manifest(&work.path("source")), &manifest(&work.path("out")));
}

#[test]
fn an_ordinary_user_gets_what_is_his_to_have() {
    if !tree::is_root() {
        println!("skipped: only root can pack what an ordinary user cannot have");
        return;
    }
    let work = Work::new();
    // A place of his own, with copies that he can reach.
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(65_534), Some(65_534)).unwrap();
    let [image, out, program] = ["image", "out", "ashlar"].map(|name| home.path().join(name));
    fs::copy(&work.image, &image).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_ashlar"), &program).unwrap();
    let ran: Ran = Command::new(&program)
        .args(["extract", "--root-digest", &work.root_digest])
        .args([&image, &out])
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert_eq!(ran.err.matches("ashlar: warning: ").count(), 1, "{}", ran.err);
    assert!(ran.err.contains("2 device nodes"), "{}", ran.err);
    assert!(ran.err.contains("2 extended attributes"), "{}", ran.err);
    let mode = |name: &str| fs::symlink_metadata(out.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("bin/tool"), mode("secret"), mode("deep/er")), (0o755, 0, 0o500));
    assert_eq!(fs::read(out.join("text")).unwrap(), fs::read(work.path("source/text")).unwrap());
    assert_eq!(fs::metadata(out.join("tool")).unwrap().nlink(), 3);
    assert!(!out.join("null").exists());
    let expected = manifest(&work.path("source"));
    let found = manifest(&out);
    assert_eq!(found.len(), expected.len() - 2);
    assert!(found[b"attrs".as_slice()].contains("user.b=[0, 255, 10]"));
    assert!(found[b"acl".as_slice()].contains("posix_acl_access"));
}

/// Looks at a directory while files are extracted.
struct Look {
    directory: PathBuf,
    modes: std::sync::Mutex<Vec<u32>>,
}

impl ashlarfs::extract::Watch for Look {
    fn progress(&self, _: u64) {
        let mode = fs::metadata(&self.directory).unwrap().mode() & 0o7777;
        self.modes.lock().unwrap().push(mode);
    }

    fn failed(&self, path: &[u8], err: &ashlarfs::Error) {
        panic!("{}: {err}", String::from_utf8_lossy(path));
    }

    fn skipped(&self, _: &[u8], _: ashlarfs::extract::Skipped) {}
}

#[test]
fn directories_that_were_there_stay_open_while_they_are_filled() {
    let work = Work::of(|dir| {
        fs::create_dir(dir.join("lib")).unwrap();
        fs::write(dir.join("lib/file"), noise(1, 300_000)).unwrap();
        tree::set_mode(&dir.join("lib/file"), 0o640);
        tree::set_mode(&dir.join("lib"), 0o750);
    });
    let lib = work.path("out/lib");
    fs::create_dir_all(&lib).unwrap();
    tree::set_mode(&lib, 0o555);
    // What is made in it must not get this one.
    tree::set_xattr(&lib, "system.posix_acl_default", tree::ACL);
    let anchor = ashlarfs::Anchor::RootDigest(work.root_digest.parse().unwrap());
    let image = ashlarfs::open(&work.image, &ashlarfs::Options::new(anchor)).unwrap();
    let options = ashlarfs::extract::Options {
        paths: Vec::new(),
        owners: true,
        xattrs: true,
        force: true,
        workers: std::num::NonZeroUsize::MIN,
    };
    let look = Look { directory: lib, modes: std::sync::Mutex::default() };
    ashlarfs::extract::extract(&image, &work.path("out"), &options, &look).unwrap();
    let modes = look.modes.into_inner().unwrap();
    assert!(!modes.is_empty() && modes.iter().all(|mode| *mode == 0o755), "{modes:?}");
    assert_same(&manifest(&work.path("source")), &manifest(&work.path("out")));
}

#[test]
fn no_directory_is_left_closed_when_the_disk_is_full() {
    let work = Work::of(|dir| {
        for name in ["a", "b", "c"] {
            fs::create_dir(dir.join(name)).unwrap();
            fs::write(dir.join(name).join("file"), noise(7, 3_000_000)).unwrap();
            tree::set_mode(&dir.join(name), 0o751);
        }
        tree::set_mode(dir, 0o751);
    });
    fs::create_dir(work.path("out")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=1m,mode=755 none {out} || exit 99
        mkdir -m 775 {out}/a {out}/c
        {program} extract -q -f -j 1 --root-digest {digest} {image} {out}
        echo status $?
        stat -c %a {out} {out}/a {out}/c
        test ! -d {out}/b || stat -c %a {out}/b",
        out = work.path("out").display(),
        program = env!("CARGO_BIN_EXE_ashlar"),
        digest = work.root_digest,
        image = work.image.display(),
    );
    let ran = Command::new("unshare").args(["-rm", "sh", "-c", &script]).output();
    let Some(ran) = ran.ok().map(Ran::from).filter(|ran| ran.out.starts_with(b"status ")) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    assert!(ran.err.contains("gave up, nothing more can be written"), "{}", ran.err);
    assert!(!ran.err.contains("cannot open the directory"), "{}", ran.err);
    let out = String::from_utf8(ran.out.clone()).unwrap();
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("status 1"));
    let modes: Vec<_> = lines.collect();
    assert_eq!(modes.get(..2), Some(["751", "751"].as_slice()), "{out}{}", ran.err);
    // How far it came depends on the worker: what was not reached is as it was, or not there.
    assert!(modes[2..].iter().all(|mode| ["751", "775"].contains(mode)), "{out}");
}

#[test]
fn a_hole_takes_no_time() {
    let work = Work::of(|dir| {
        use std::os::unix::fs::FileExt;
        let file = fs::File::create(dir.join("huge")).unwrap();
        // ext4 has no files longer than 16 TiB.
        let len = [1 << 48, 15 << 40].into_iter().find(|len| file.set_len(*len).is_ok()).unwrap();
        file.write_all_at(&noise(3, 9_000_000), 5 << 30).unwrap();
        file.write_all_at(b"end", len - 3).unwrap();
    });
    let ran = work.extract(&["-q"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    let [from, to] =
        ["source/huge", "out/huge"].map(|name| fs::File::open(work.path(name)).unwrap());
    let len = from.metadata().unwrap().len();
    assert_eq!(to.metadata().unwrap().len(), len);
    assert!(to.metadata().unwrap().blocks() * 512 < 20_000_000);
    for at in [0, (5 << 30) - 100, (5 << 30) + 8_999_000, len - 2000] {
        use std::os::unix::fs::FileExt;
        let [mut a, mut b] = [[0; 2000]; 2];
        from.read_exact_at(&mut a, at).unwrap();
        to.read_exact_at(&mut b, at).unwrap();
        assert_eq!(a, b, "at {at}");
    }
}
