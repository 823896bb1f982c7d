//! Do `ls` and `cat` show what is in an image, and nothing that is not?

#[path = "support/tree.rs"]
mod tree;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;

use tree::{Ran, ashlar, command, pack};

struct Work {
    _dir: tempfile::TempDir,
    image: PathBuf,
    root_digest: String,
}

impl Work {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        tree::fill(&source);
        tree::set_mode(&source.join("secret"), 0o644);
        tree::set_mode(&source.join("deep/er"), 0o1755);
        fs::create_dir(source.join("loops")).unwrap();
        for (name, target) in [
            ("up", "../../../../bin/../small"),
            ("round", "../loops/round/x"),
            ("onto", "../small/"),
            ("abs", "/loops/up"),
        ] {
            symlink(target, source.join("loops").join(name)).unwrap();
        }
        for nth in 0..41_u32 {
            let target = if nth == 0 { "../small".to_owned() } else { format!("{}", nth - 1) };
            symlink(target, source.join(format!("loops/{nth}"))).unwrap();
        }
        let extra = ["--all-root", "--all-time", "1700000000"];
        let (image, root_digest) = pack(&source, &dir.path().join("image"), &extra);
        Work { _dir: dir, image, root_digest }
    }

    fn run(&self, command: &str, options: &[&str], paths: &[&str]) -> Ran {
        let mut args = vec![command, "--root-digest", &self.root_digest];
        args.extend(options);
        args.push(self.image.to_str().unwrap());
        args.extend(paths);
        ashlar(args)
    }
}

#[test]
fn ls_shows_names() {
    let work = Work::new();
    let ran = work.run("ls", &[], &["bin"]);
    assert_eq!((ran.status, ran.text(), ran.err.as_str()), (0, "link\ntool\n", ""));
    // A symlink at the end is followed behind a slash only.
    assert_eq!(work.run("ls", &[], &["sbin"]).text(), "sbin\n");
    assert_eq!(work.run("ls", &[], &["sbin/"]).text(), "link\ntool\n");
    assert_eq!(work.run("ls", &["-d"], &["bin"]).text(), "bin\n");
    let below = work.run("ls", &["-R"], &["/deep"]);
    assert_eq!(below.text(), "er\ner/and\ner/and/deeper\ner/and/deeper/one\ner/tool\n");
    let all = work.run("ls", &[], &[]);
    assert!(all.text().contains("\nnot\\xffutf8\\x0a\\x5c\n"), "{}", all.text());
    let raw = work.run("ls", &["-0"], &[]);
    assert!(raw.out.split(|byte| *byte == 0).any(|name| name == b"not\xffutf8\n\\"));
    let ran = work.run("ls", &[], &["bin/no"]);
    assert_eq!((ran.status, ran.out.len()), (1, 0));
    assert_eq!(ran.err, "ashlar: error: bin/no: no such file or directory in the image\n");
    assert_eq!(work.run("ls", &[], &["small/"]).status, 1);
}

#[test]
fn ls_long_and_json() {
    let work = Work::new();
    let long = work.run("ls", &["-l"], &["bin"]);
    let set_ids = if tree::is_root() { "-rwsr-sr-x" } else { "-rwsr-xr-x" };
    assert_eq!(
        long.text(),
        format!(
            "lrwxrwxrwx   1     0     0           8 2023-11-14T22:13:20Z link -> ../small\n\
             {set_ids}   3     0     0       70000 2023-11-14T22:13:20Z tool\n"
        )
    );
    assert!(work.run("ls", &["-ld"], &["deep/er"]).text().starts_with("drwxr-xr-t "));
    if tree::is_root() {
        let device = work.run("ls", &["-l"], &["disk"]);
        assert!(device.text().starts_with("brw--w----   1     0     0   259,70000 "));
    }
    let json = work.run("ls", &["--json"], &["bin"]);
    assert_eq!(
        json.text().lines().next().unwrap(),
        "{\"path\":\"link\",\"type\":\"link\",\"mode\":\"0777\",\"nlink\":1,\"uid\":0,\"gid\":0,\"size\":8,\
         \"mtime_sec\":1700000000,\"mtime_nsec\":0,\"target\":\"../small\"}"
    );
    for line in work.run("ls", &["-R", "--json"], &[]).text().lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(object["path"].is_string());
    }
}

#[test]
fn cat_follows_symlinks_inside_the_image() {
    let work = Work::new();
    for path in ["small", "/small", "bin/link", "sbin/link", "loops/up", "loops/abs", "loops/39"] {
        let ran = work.run("cat", &[], &[path]);
        assert_eq!((ran.status, ran.out.as_slice()), (0, b"a few bytes".as_slice()), "{path}");
    }
    let both = work.run("cat", &[], &["small", "absolute"]);
    assert_eq!(both.out.len(), 11 + 70_000);
    for (path, why) in [
        ("loops/40", "40 symlinks"),
        ("loops/round", "40 symlinks"),
        ("circle", "40 symlinks"),
        ("loops/onto", "not a directory"),
        ("dangling", "no such file"),
        ("bin", "is a directory"),
        ("pipe", "not that type"),
        ("small/..", "not a directory"),
    ] {
        // Nothing is written when one of them is not there.
        let ran = work.run("cat", &[], &["small", path]);
        assert_eq!((ran.status, ran.out.len()), (1, 0), "{path}");
        let start = format!("ashlar: error: {path}: ");
        assert!(ran.err.starts_with(&start) && ran.err.contains(why), "{path}: {}", ran.err);
    }
}

#[test]
fn cat_writes_what_is_right_up_to_the_damage() {
    use ashlarfs::format::index::BlockIndex;
    use ashlarfs::fs::file::Place;
    let work = Work::new();
    let anchor = ashlarfs::Anchor::RootDigest(work.root_digest.parse().unwrap());
    let tree = ashlarfs::open(&work.image, &ashlarfs::Options::new(anchor)).unwrap();
    let file = tree.file(tree.resolve(b"bin/tool").unwrap()).unwrap();
    let extent = file.extents().next().unwrap().unwrap();
    let Place::Blocks { first, .. } = extent.place else { panic!("{extent:?}") };
    let entry = tree.store().entry(BlockIndex(first.0 + 5)).unwrap();
    let mut bytes = fs::read(&work.image).unwrap();
    bytes[usize::try_from(entry.offset).unwrap()] ^= 0x80;
    fs::write(&work.image, bytes).unwrap();
    let ran = work.run("cat", &[], &["bin/tool", "small"]);
    assert_eq!(ran.status, 1);
    assert_eq!(ran.out, &tree::noise(1, 70_000)[..5 * 4096]);
    assert!(ran.err.starts_with("ashlar: error: bin/tool: "), "{}", ran.err);
    assert!(ran.err.contains("ashlar: hint: "), "{}", ran.err);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let work = Work::new();
    for args in [["ls", "-R"], ["cat", "--"]] {
        let mut command = command();
        command.args(args).arg(&work.image);
        if args[0] == "cat" {
            command.args(["sparse", "sparse"]);
        }
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran: Ran = command
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap()
            .into();
        assert_eq!(ran.status, 0, "{args:?} {}", ran.err);
        assert!(!ran.err.contains("error"), "{}", ran.err);
    }
}
