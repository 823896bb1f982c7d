//! Does `--root-image` hold back what would not boot, and nothing else?
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const MKIMAGE: &str = env!("CARGO_BIN_EXE_mkimage");

fn run(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(MKIMAGE);
    command.current_dir(dir).env_remove("SOURCE_DATE_EPOCH").env_remove("ASHLAR_KEY_PASSWORD");
    command.args(["-z", "none"]).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A directory `root` that would boot, with a warning: there is something in /tmp.
fn with_root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for name in [
        "boot",
        "dev",
        "etc",
        "home",
        "mnt",
        "opt",
        "proc",
        "root",
        "run",
        "sbin",
        "srv",
        "sys",
        "sysroot",
        "tmp",
        "usr/lib/modules/6",
        "var",
    ] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    // The smallest program: an ELF header, and an interpreter behind one program header.
    let mut elf = [0; 128];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    (elf[16], elf[32], elf[54], elf[56]) = (3, 64, 56, 1);
    (elf[64], elf[72], elf[96]) = (3, 120, 8);
    elf[120..].copy_from_slice(b"/sbin/x\0");
    fs::write(root.join("sbin/init"), elf).unwrap();
    (elf[64], elf[72]) = (0, 0);
    fs::write(root.join("sbin/x"), elf).unwrap();
    for name in ["sbin/init", "sbin/x"] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(root.join("usr/lib/modules/6/modules.dep"), "").unwrap();
    fs::write(root.join("etc/os-release"), "ID=x\n").unwrap();
    fs::write(root.join("etc/machine-id"), "").unwrap();
    fs::write(root.join("tmp/left"), "").unwrap();
    dir
}

#[test]
fn warnings_are_told_and_the_image_is_the_same() {
    let dir = with_root();
    let plain = run(dir.path(), &["root", "a.img"]);
    assert!(!text(&plain.stderr).contains("[temporary-files]"), "nothing is asked unasked");
    let linted = run(dir.path(), &["-q", "--root-image", "root", "b.img"]);
    assert!(linted.status.success(), "{}", text(&linted.stderr));
    assert_eq!(linted.stdout, plain.stdout, "the root digest and nothing else");
    let told = text(&linted.stderr);
    assert!(told.starts_with("mkimage: warning: /tmp holds 1 file (/tmp/left), "), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert_eq!(
        fs::read(dir.path().join("a.img")).unwrap(),
        fs::read(dir.path().join("b.img")).unwrap()
    );
    let allowed =
        run(dir.path(), &["-q", "--root-image", "--allow", "temporary-files", "root", "b.img"]);
    assert_eq!(text(&allowed.stderr), "");
    // What is left out of the image is left out of the question.
    let without = run(dir.path(), &["-q", "--root-image", "-e", "tmp/left", "root", "b.img"]);
    assert_eq!(text(&without.stderr), "");
    let times = run(
        dir.path(),
        &["-q", "--root-image", "-e", "tmp/left", "--all-time", "0", "root", "b.img"],
    );
    assert!(text(&times.stderr).contains("[usr-time]"), "{}", text(&times.stderr));
}

#[test]
fn json_has_the_findings() {
    let dir = with_root();
    let linted = run(dir.path(), &["--json", "--root-image", "root", "a.img"]);
    let told: serde_json::Value = serde_json::from_slice(&linted.stderr).unwrap();
    assert_eq!(told["root_digest"], text(&linted.stdout).trim_end());
    assert_eq!(told["findings"].as_array().unwrap().len(), 1, "{told}");
    assert_eq!(told["findings"][0]["lint"], "temporary-files");
    assert_eq!(told["findings"][0]["path"], "/tmp");
    let plain = run(dir.path(), &["--json", "root", "a.img"]);
    let told: serde_json::Value = serde_json::from_slice(&plain.stderr).unwrap();
    assert!(told.get("findings").is_none());
}

#[test]
fn what_would_not_boot_is_refused_before_it_is_built() {
    let dir = with_root();
    fs::write(dir.path().join("kept.img"), "an image of before").unwrap();
    fs::remove_file(dir.path().join("root/sbin/x")).unwrap();
    fs::remove_dir(dir.path().join("root/proc")).unwrap();
    for extra in [&[][..], &["--json"], &["-q"]] {
        let args = [extra, &["--root-image", "root", "kept.img"]].concat();
        let refused = run(dir.path(), &args);
        let told = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{told}");
        assert!(refused.stdout.is_empty());
        assert!(told.contains("mkimage: fatal: /proc is missing"), "{told}");
        assert!(
            told.contains("mkimage: fatal: /sbin/init is started by /sbin/x, which is missing"),
            "{told}"
        );
        assert!(
            told.contains("mkimage: error: the tree would not do as a root: 2 fatal findings"),
            "{told}"
        );
        assert!(told.contains("mkimage: hint: ") && told.contains("--allow mount-point"), "{told}");
    }
    assert_eq!(fs::read(dir.path().join("kept.img")).unwrap(), b"an image of before");
    let args = [
        "--root-image",
        "--allow",
        "mount-point",
        "--allow",
        "init-interpreter",
        "root",
        "kept.img",
    ];
    assert!(run(dir.path(), &args).status.success());
    assert!(run(dir.path(), &["root", "kept.img"]).status.success(), "any tree may be an image");
    for args in [
        &["--root-image", "--allow", "no-such", "root", "x"][..],
        &["--allow", "init", "root", "x"],
    ] {
        assert_eq!(run(dir.path(), args).status.code(), Some(2), "{args:?}");
    }
}

/// Interpreters and texts are read out of the archive, packed or not, before anything is built.
#[test]
fn archives_are_looked_over_as_directories_are() {
    let dir = with_root();
    let pack = |name: &str| {
        let mut tar = Command::new("tar");
        tar.current_dir(dir.path()).args(["--format=posix", "-C", "root", "-caf", name, "."]);
        tar.status().is_ok_and(|status| status.success())
    };
    if !pack("good.tar.gz") {
        eprintln!("skipped: there is no `tar` with gzip here");
        return;
    }
    let good = run(dir.path(), &["-q", "--root-image", "--tar", "good.tar.gz", "a.img"]);
    assert!(good.status.success(), "{}", text(&good.stderr));
    assert_eq!(text(&good.stderr).lines().count(), 1, "{}", text(&good.stderr));
    fs::remove_file(dir.path().join("root/sbin/x")).unwrap();
    fs::write(dir.path().join("root/etc/machine-id"), "0123456789abcdef0123456789abcdef\n")
        .unwrap();
    assert!(pack("bad.tar"));
    let bad = run(dir.path(), &["-q", "--root-image", "--tar", "bad.tar", "b.img"]);
    let told = text(&bad.stderr);
    assert_eq!(bad.status.code(), Some(1), "{told}");
    assert!(told.contains("[init-interpreter]") && told.contains("[machine-id]"), "{told}");
    assert!(!dir.path().join("b.img").exists());
}
