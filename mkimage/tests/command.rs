//! The command as a person or a script meets it: words, exit statuses, and what goes where.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use ashlarfs::{Anchor, Options};

const MKIMAGE: &str = env!("CARGO_BIN_EXE_mkimage");

fn run(dir: &Path, args: &[&str]) -> Output {
    mkimage(dir).args(args).output().unwrap()
}

fn mkimage(dir: &Path) -> Command {
    let mut command = Command::new(MKIMAGE);
    command.current_dir(dir).env_remove("SOURCE_DATE_EPOCH").env_remove("ASHLAR_KEY_PASSWORD");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A directory `root` with a little of everything.
fn with_root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("root/d")).unwrap();
    fs::write(dir.path().join("root/file"), vec![b'x'; 100_000]).unwrap();
    fs::write(dir.path().join("root/d/small"), b"small").unwrap();
    fs::hard_link(dir.path().join("root/file"), dir.path().join("root/d/again")).unwrap();
    dir
}

/// Builds and returns the root digest.
fn build(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

/// The failure's exit status, first line and hint.
fn fail(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let output = run(dir, args);
    assert!(
        output.stdout.is_empty(),
        "{args:?} writes to standard output: {}",
        text(&output.stdout)
    );
    let stderr = text(&output.stderr);
    let line = |start: &str| {
        stderr.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_default().to_owned()
    };
    (output.status.code().unwrap(), line("mkimage: error: "), line("mkimage: hint: "))
}

#[test]
fn standard_output_is_the_root_digest_and_nothing_else() {
    let dir = with_root();
    let output = run(dir.path(), &["-z", "zstd,1", "root", "x.img"]);
    assert!(output.status.success());
    let digest = text(&output.stdout);
    assert_eq!(digest.len(), 65);
    assert!(digest.trim_end().bytes().all(|byte| byte.is_ascii_hexdigit()));
    let summary = text(&output.stderr);
    assert!(
        summary.contains("2 files, 2 directories, 0 symlinks, 1 further hard link"),
        "{summary}"
    );
    assert!(!summary.contains('\x1b'), "no bar where there is no terminal");
    let options = Options::new(Anchor::RootDigest(digest.trim_end().parse().unwrap()));
    let tree = ashlarfs::open(&dir.path().join("x.img"), &options).unwrap();
    assert_eq!(tree.superblock().build_time, 0, "no time, so that the same tree is the same image");
}

#[test]
fn quiet_is_quiet_and_json_is_for_machines() {
    let dir = with_root();
    let output = run(dir.path(), &["-q", "-z", "none", "root", "x.img"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let output = run(dir.path(), &["--json", "-z", "none", "root", "x.img"]);
    let summary: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(summary["files"], 2);
    assert_eq!(summary["hard_links"], 1);
    assert_eq!(summary["content_bytes"], 100_005);
    assert_eq!(summary["root_digest"], text(&output.stdout).trim_end());
    assert_eq!(summary["image_bytes"], fs::metadata(dir.path().join("x.img")).unwrap().len());
}

#[test]
fn help_teaches_and_the_name_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let help = run(dir.path(), &["--help"]);
    assert!(help.status.success());
    for word in
        ["Examples:", "--tar", "--sign-key", "--exclude-path", "SOURCE_DATE_EPOCH", "root digest"]
    {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    let dir = with_root();
    let digest = build(dir.path(), &["-q", "root", "a.img"]);
    let other =
        mkimage(dir.path()).arg0("/sbin/mkfs.ashlar").args(["-q", "root", "b.img"]).output();
    assert_eq!(text(&other.unwrap().stdout).trim_end(), digest);
}

#[test]
fn wrong_usage_exits_with_2() {
    let dir = with_root();
    for args in [
        &["root"][..],
        &["-b", "3K", "root", "x.img"],
        &["-b", "2M", "root", "x.img"],
        &["-z", "gzip", "root", "x.img"],
        &["-z", "zstd,99", "root", "x.img"],
        &["-j", "0", "root", "x.img"],
        &["-L", &"x".repeat(65), "root", "x.img"],
        &["-L", "new\nline", "root", "x.img"],
        &["--all-root", "--force-uid", "1", "root", "x.img"],
        &["--tar", "-x", "-", "x.img"],
        &["--no-such-option", "root", "x.img"],
    ] {
        assert_eq!(fail(dir.path(), args).0, 2, "{args:?}");
    }
    assert!(!dir.path().join("x.img").exists());
}

#[test]
fn failures_exit_with_1_say_why_and_what_to_do() {
    let dir = with_root();
    fs::write(dir.path().join("not-tar"), b"hello").unwrap();
    fs::write(dir.path().join("kept.img"), b"an image of before").unwrap();
    for (args, why, hint) in [
        (&["none", "x.img"][..], "cannot open the directory none", ""),
        (&["root/file", "x.img"], "cannot open the directory root/file", "--tar"),
        (&["--tar", "root", "x.img"], "is a directory", "without --tar"),
        (&["--tar", "not-tar", "kept.img"], "is no tar archive", "gzip, xz or zstd"),
        (&["--tar", "none.tar", "x.img"], "cannot open none.tar", ""),
        (&["root", "root"], "root is a directory", "root/root.img"),
        (&["root", "/dev/null"], "no regular file", "dd"),
        (&["root", "no-such-directory/x.img"], "no-such-directory", ""),
        (&["--tar", "not-tar", "not-tar"], "is the source itself", ""),
        (&["-e", "/", "root", "x.img"], "nothing would be left", "var/cache"),
        (&["--exclude-regex", "(", "root", "x.img"], "--exclude-regex", ""),
        (&["--order", "none", "root", "x.img"], "order file none", ""),
        (&["--base", "not-tar", "root", "kept.img"], "not-tar", ""),
        (&["--sign-key", "not-tar", "root", "kept.img"], "not-tar", "ashlar key generate"),
        (&["--sign-key", "none", "root", "kept.img"], "secret key none", ""),
    ] {
        let (status, told, hinted) = fail(dir.path(), args);
        assert_eq!(status, 1, "{args:?}");
        assert!(told.contains(why) && hinted.contains(hint), "{args:?}: {told} / {hinted}");
    }
    assert!(!dir.path().join("x.img").exists());
    assert_eq!(fs::read(dir.path().join("kept.img")).unwrap(), b"an image of before");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "nothing half-made is left behind: {left:?}");
}

#[test]
fn times_from_outside_are_recorded_and_hold_back_later_ones() {
    let dir = with_root();
    let with_epoch = |value: &str, image: &str| {
        mkimage(dir.path())
            .env("SOURCE_DATE_EPOCH", value)
            .args(["-q", "root", image])
            .output()
            .unwrap()
    };
    for bad in ["", "now", "-1", "1e9"] {
        let output = with_epoch(bad, "x.img");
        assert_eq!(output.status.code(), Some(1), "{bad}");
        assert!(text(&output.stderr).contains("SOURCE_DATE_EPOCH"));
    }
    let output = with_epoch("1000000000", "x.img");
    let options =
        Options::new(Anchor::RootDigest(text(&output.stdout).trim_end().parse().unwrap()));
    let tree = ashlarfs::open(&dir.path().join("x.img"), &options).unwrap();
    assert_eq!(tree.superblock().build_time, 1_000_000_000);
    let same = build(dir.path(), &["-q", "--all-time", "1000000000", "root", "y.img"]);
    assert_ne!(same, text(&output.stdout).trim_end(), "--all-time alone records no build time");
    // The files of this test are younger than that, so all of them have it now.
    let again = mkimage(dir.path())
        .env("SOURCE_DATE_EPOCH", "1000000000")
        .args(["-q", "--all-time", "1000000000", "root", "y.img"])
        .output()
        .unwrap();
    assert_eq!(again.stdout, output.stdout);
}

/// The same tree as a directory, as a file, and through a pipe; and with excludes.
#[test]
fn a_tar_stream_gives_the_same_image() {
    let dir = with_root();
    let made = Command::new("tar")
        .current_dir(dir.path())
        .args([
            "--format=posix",
            "--numeric-owner",
            "--xattrs",
            "-C",
            "root",
            "-cf",
            "root.tar",
            ".",
        ])
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no `tar` here");
        return;
    }
    for excludes in [&[][..], &["-e", "file", "--exclude-regex", "small"]] {
        let build = |args: &[&str], image: &str| {
            build(dir.path(), &[&["-q", "-z", "zstd,1"], excludes, args, &[image]].concat())
        };
        let digest = build(&["root"], "a.img");
        assert_eq!(build(&["--tar", "root.tar"], "b.img"), digest);
        let mut piped = mkimage(dir.path());
        piped.args(["-q", "-z", "zstd,1", "--tar"]).args(excludes).args(["-", "c.img"]);
        let mut piped = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = piped.stdin.take().unwrap();
        std::io::copy(&mut fs::File::open(dir.path().join("root.tar")).unwrap(), &mut stdin)
            .unwrap();
        drop(stdin);
        assert_eq!(text(&piped.wait_with_output().unwrap().stdout).trim_end(), digest);
        let images =
            ["a.img", "b.img", "c.img"].map(|image| fs::read(dir.path().join(image)).unwrap());
        assert!(images[0] == images[1] && images[1] == images[2]);
    }
}

#[test]
fn an_image_inside_its_own_source_is_left_out_aloud() {
    let dir = with_root();
    let first = run(dir.path(), &["-z", "none", "--all-time", "0", "root", "root/x.img"]);
    assert!(first.status.success());
    let second = run(dir.path(), &["-z", "none", "--all-time", "0", "root", "root/x.img"]);
    assert_eq!(first.stdout, second.stdout);
    assert!(
        text(&second.stderr).contains("mkimage: warning: root/x.img: the image itself is left out")
    );
    let typo = run(dir.path(), &["-z", "none", "-e", "fiel", "root", "x.img"]);
    assert!(text(&typo.stderr).contains("mkimage: warning: --exclude-path fiel"));
}

#[test]
fn a_signed_image_needs_no_digest() {
    let dir = with_root();
    let pair = minisign::KeyPair::generate_encrypted_keypair(Some("secret".into())).unwrap();
    let plain = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    for (name, pair) in [("locked", &pair), ("plain", &plain)] {
        let secret = pair.sk.to_box(None).unwrap().into_string();
        fs::write(dir.path().join(name), secret).unwrap();
        fs::write(dir.path().join(format!("{name}.pub")), pair.pk.to_box().unwrap().into_string())
            .unwrap();
    }
    let args = [
        "-q",
        "--image-version",
        "7",
        "--sign-key",
        "locked",
        "--sign-key",
        "plain",
        "root",
        "x.img",
    ];
    let locked_out = run(dir.path(), &args);
    assert_eq!(locked_out.status.code(), Some(1));
    assert!(
        text(&locked_out.stderr).contains("ASHLAR_KEY_PASSWORD"),
        "{}",
        text(&locked_out.stderr)
    );
    let wrong =
        mkimage(dir.path()).env("ASHLAR_KEY_PASSWORD", "wrong").args(args).output().unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(!dir.path().join("x.img").exists());
    let output =
        mkimage(dir.path()).env("ASHLAR_KEY_PASSWORD", "secret").args(args).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(output.stdout.len(), 65);
    for name in ["locked", "plain"] {
        let key = ashlarfs::trust::read_key(&dir.path().join(format!("{name}.pub"))).unwrap();
        let options = Options::new(Anchor::Keys(vec![key]));
        assert!(ashlarfs::open(&dir.path().join("x.img"), &options).is_ok(), "{name}");
    }
    // Unsigned, the image has the same root digest.
    let unsigned = build(dir.path(), &["-q", "--image-version", "7", "root", "y.img"]);
    assert_eq!(unsigned, text(&output.stdout).trim_end());
}
