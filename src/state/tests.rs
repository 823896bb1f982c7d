//! Does a power cut at any moment leave what the next boot makes whole? Each change to the disk is the last one once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::etc::{self, Outcome};
use super::{overlay, prune, reset, seed};
use crate::error::Result;
use crate::fs::Tree;
use crate::fs::stack::Stack;
use crate::power;

/// In memory where that is to be had: writing everything down takes no time there.
fn workplace() -> tempfile::TempDir {
    match Path::new("/dev/shm") {
        shm if shm.is_dir() => tempfile::tempdir_in(shm).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

/// Makes files: `path` with that content, `path/` a directory, `path -> target` a symlink.
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

fn image(work: &Path, name: &str, files: &[(&str, &str)]) -> Tree {
    let source = work.join(format!("{name}.source"));
    fs::create_dir(&source).unwrap();
    plant(&source, files);
    let path = work.join(name);
    let args = ["mkimage", "-q", "-b", "4K", "-z", "none", source.to_str().unwrap()];
    let args = args.into_iter().chain([path.to_str().unwrap()]);
    let digest = ashlarfs_mkimage::run(args).unwrap().root_digest.parse().unwrap();
    crate::open(&path, &crate::Options::new(crate::Anchor::RootDigest(digest))).unwrap()
}

/// Types, modes, links, times of files, and contents, by path.
fn listing(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(path) = stack.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut text = format!("{:o}", meta.mode());
        if meta.is_dir() {
            stack.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.is_symlink() {
            text.push_str(&format!(" -> {}", fs::read_link(&path).unwrap().display()));
        } else {
            text.push_str(&format!(" {} {:?}", meta.nlink(), fs::read(&path).unwrap()));
        }
        found.insert(path.strip_prefix(dir).unwrap().to_owned(), text);
    }
    found
}

/// Runs `what` on the directory that `plant` makes, with the power cut after every number of changes; after each cut
/// `between` looks at what is there, and `what` once more must make the same as without a cut. Returns how many there were.
fn cut_everywhere(
    plant: impl Fn(&Path),
    what: impl Fn(&Path) -> Result<()>,
    between: impl Fn(&Path),
) -> usize {
    let whole = workplace();
    plant(whole.path());
    power::cut_after(None);
    what(whole.path()).unwrap();
    let expected = listing(whole.path());
    for changes in 0..10_000 {
        let place = workplace();
        plant(place.path());
        power::cut_after(Some(changes));
        let cut = what(place.path());
        let is_whole = power::done().len() < changes;
        power::cut_after(None);
        if is_whole {
            cut.unwrap();
            return changes;
        }
        between(place.path());
        what(place.path()).unwrap();
        assert_eq!(listing(place.path()), expected, "after a cut before change {changes}");
    }
    panic!("it never ends");
}

const OLD: &[(&str, &str)] = &[
    ("etc/hosts", "one"),
    ("etc/passwd", "root"),
    ("etc/fstab", "none"),
    ("etc/gone/by", "image"),
    ("etc/conf.d/a", "a"),
    ("etc/conf.d/b", "b"),
    ("etc/tool", "a file"),
    ("etc/link", "-> hosts"),
    ("var/lib/dpkg/status", "installed"),
    ("var/log/", ""),
];
const NEW: &[(&str, &str)] = &[
    ("etc/hosts", "two"),
    ("etc/passwd", "root"),
    ("etc/fstab", "some"),
    ("etc/conf.d/a", "a2"),
    ("etc/conf.d/b", "b2"),
    ("etc/conf.d/c", "c2"),
    ("etc/tool/config", "now a directory"),
    ("etc/link", "-> hosts"),
    ("opt/app/bin", "v2"),
    ("opt/app/lib/x", "v2"),
];

fn edit(etc: &Path) {
    fs::write(etc.join("passwd"), "root\nme").unwrap();
    fs::write(etc.join("tool"), "my file").unwrap();
    fs::write(etc.join("conf.d/b"), "mine").unwrap();
    fs::remove_file(etc.join("fstab")).unwrap();
    plant(etc, &[("mine/deep/er", "x"), ("mine/link", "-> /nowhere"), ("gone/mine", "y")]);
    fs::hard_link(etc.join("mine/deep/er"), etc.join("mine/twin")).unwrap();
}

#[test]
fn a_merge_survives_a_power_cut_at_any_moment() {
    let work = workplace();
    let (old, new) = (image(work.path(), "old", OLD), image(work.path(), "new", NEW));
    let old_name = etc::directory_name(old.root_digest());
    let new_name = etc::directory_name(new.root_digest());
    let none = &mut |_| -> Result<Option<Tree>> { panic!("there is a record") };
    let plant = |state: &Path| {
        let none = &mut |_| panic!("there is nothing to compare with");
        let prepared = etc::prepare(state, &old, none).unwrap();
        assert_eq!(prepared.report.outcome, Outcome::Fresh);
        edit(&prepared.directory);
    };
    let before = workplace();
    plant(before.path());
    let edited = listing(&before.path().join(&old_name));
    let none = std::cell::RefCell::new(none);
    let cuts = cut_everywhere(
        plant,
        |state| etc::prepare(state, &new, *none.borrow_mut()).map(drop),
        |state| {
            // The old one is whole, and the new one if it is there.
            assert_eq!(listing(&state.join(&old_name)), edited);
            if state.join(&new_name).exists() {
                let etc = state.join(&new_name);
                assert_eq!(fs::read(etc.join("passwd")).unwrap(), b"root\nme");
                assert_eq!(fs::read(etc.join("tool.ashlar-old")).unwrap(), b"my file");
                assert_eq!(fs::read(etc.join("conf.d/c")).unwrap(), b"c2");
                assert!(!etc.join("fstab").exists() && !etc.join("gone/by").exists());
            }
        },
    );
    assert!(cuts > 40, "{cuts}");
}

#[test]
fn everything_is_written_down_before_it_gets_its_name() {
    let work = workplace();
    let (old, new) = (image(work.path(), "old", OLD), image(work.path(), "new", NEW));
    let state = work.path().join("state");
    fs::create_dir(&state).unwrap();
    for tree in [&old, &new] {
        power::cut_after(None);
        etc::prepare(&state, tree, &mut |_| Ok(None)).unwrap();
        let done = power::done();
        let at = done.iter().position(|what| *what == "sync all").unwrap();
        let after: Vec<_> = done[at..].to_vec();
        let note = ["make a file", "write", "sync", "rename", "sync"];
        assert_eq!(after, [["sync all", "rename", "sync"].as_slice(), &note].concat());
    }
    power::cut_after(None);
    etc::prepare(&state, &new, &mut |_| Ok(None)).unwrap();
    assert!(power::done().is_empty(), "a usual boot writes nothing");
    seed::seed(&old, b"var", work.path(), Path::new("var")).unwrap();
    assert_eq!(power::done()[..4], ["extract", "sync all", "rename", "sync all"]);
    power::cut_after(None);
    seed::seed(&old, b"var", work.path(), Path::new("var")).unwrap();
    assert!(power::done().is_empty(), "a usual boot writes nothing");
}

#[test]
fn a_seed_survives_a_power_cut_at_any_moment() {
    let work = workplace();
    let tree = image(work.path(), "old", OLD);
    for (from, to) in [("var", "var"), ("/etc/hosts", "bind/etc/hosts"), ("nothing/there", "empty")]
    {
        let cuts = cut_everywhere(
            |_| {},
            |data| seed::seed(&tree, from.as_bytes(), data, Path::new(to)).map(drop),
            |data| {
                if data.join(to).exists() && from == "var" {
                    assert_eq!(fs::read(data.join("var/lib/dpkg/status")).unwrap(), b"installed");
                    assert!(data.join("var/log").is_dir());
                }
            },
        );
        assert!(cuts >= 4, "{cuts}");
    }
}

#[test]
fn a_reset_survives_a_power_cut_at_any_moment() {
    const BEFORE: &[(&str, &str)] = &[
        ("images/root.img", "an image"),
        ("keys/a.pub", "a key"),
        ("ashlar.toml", "etc = \"merge\""),
        ("state/boot.a", "a"),
        ("state/boot.b", "b"),
        ("state/etc.last", "x"),
        ("state/etc.x/hosts", "mine"),
        ("state/overlay/root/upper/secret", "mine"),
        ("var/lib/data/base", "mine"),
        ("var/log/", ""),
    ];
    let cuts = cut_everywhere(
        |data| plant(data, BEFORE),
        |data| {
            // As a boot does it: by the command line once, and then as long as it is asked for.
            if data.join("var").exists() || reset::is_asked(data) {
                reset::factory_reset(data)?;
            }
            reset::sweep(data).map(drop)
        },
        |data| {
            for path in ["state/boot.a", "state/boot.b", "images/root.img", "keys/a.pub"] {
                assert!(data.join(path).exists());
            }
            // Whoever finds no marker finds all of it or nothing.
            let parts =
                ["state/etc.x/hosts", "state/overlay/root/upper/secret", "var/lib/data/base"];
            let there = parts.iter().filter(|path| data.join(path).exists()).count();
            assert!(reset::is_asked(data) || there == 0 || there == 3, "{there}");
        },
    );
    assert!(cuts > 15, "{cuts}");
    let data = workplace();
    plant(data.path(), BEFORE);
    reset::factory_reset(data.path()).unwrap();
    let left: Vec<_> = listing(data.path())
        .into_iter()
        .filter(|(_, text)| text.starts_with("100"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    let kept = ["ashlar.toml", "images/root.img", "keys/a.pub", "state/boot.a", "state/boot.b"];
    assert_eq!(left, kept);
    assert!(!data.path().join(".ashlar-reset").exists() && !reset::is_asked(data.path()));
}

#[test]
fn a_pruning_survives_a_power_cut_at_any_moment() {
    let work = workplace();
    let tree = image(work.path(), "new", NEW);
    let upper: &[(&str, &str)] = &[
        ("upper/app/bin", "my old copy"),
        ("upper/app/data/base", "mine"),
        ("upper/app/lib", "a file over a directory"),
        ("upper/mine/too", "mine"),
    ];
    let cuts = cut_everywhere(
        |place| plant(place, upper),
        |place| prune::prune(&place.join("upper"), Stack(&[&tree]), b"opt").map(drop),
        |place| {
            assert_eq!(fs::read(place.join("upper/app/data/base")).unwrap(), b"mine");
            assert_eq!(fs::read(place.join("upper/mine/too")).unwrap(), b"mine");
        },
    );
    assert!(cuts >= 5, "{cuts}");
}

#[test]
fn a_persistent_overlay_survives_a_power_cut_while_it_starts_again() {
    let files: &[(&str, &str)] = &[
        ("overlay/root/upper/a/b", "new"),
        ("overlay/root/work/", ""),
        ("overlay/root.bak/upper/a/b", "old"),
    ];
    let root = Path::new("overlay/root");
    let cuts = cut_everywhere(
        |place| plant(place, files),
        |place| overlay::clear(place, root),
        |place| assert!(place.join("overlay/root.bak/upper/a/b").exists()),
    );
    assert!(cuts >= 5, "{cuts}");
    cut_everywhere(
        |place| plant(place, files),
        |place| overlay::set_aside(place, root).map(drop),
        |place| {
            // Never without the newer one, under either name.
            let names = ["overlay/root/upper/a/b", "overlay/root.bak/upper/a/b"];
            let contents: Vec<_> = names.map(|name| fs::read(place.join(name)).ok()).into();
            assert!(contents.contains(&Some(b"new".to_vec())), "{contents:?}");
        },
    );
}

#[test]
fn what_is_shown_hides_nothing() {
    assert_eq!(super::shown("é\n\\".as_bytes()), "é\\x0a\\x5c");
    assert_eq!(super::shown(std::ffi::OsStr::from_bytes(b"a\xff").as_bytes()), "a\\xff");
}
