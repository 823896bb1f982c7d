//! Who vouches for an image? Keys and signatures are minisign's, in both directions.

#[path = "support/image.rs"]
mod image;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory with an unsigned image, and a way to run programs in it.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        image::build_tar(directory.path(), &image::every_feature_tar(), &["--image-version", "3"]);
        Bench { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, program: impl AsRef<Path>, args: &[&str]) -> Output {
        let mut command = Command::new(program.as_ref());
        command.env_remove("ASHLAR_KEY_PASSWORD").current_dir(self.directory.path());
        command.args(args).output().unwrap()
    }

    /// Runs `ashlar`, which must succeed; returns what it wrote.
    fn ashlar(&self, args: &[&str]) -> String {
        let output = self.run(env!("CARGO_BIN_EXE_ashlar"), args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `ashlar`, which must fail; returns its complaint.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(env!("CARGO_BIN_EXE_ashlar"), args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        [output.stdout, output.stderr].concat().iter().map(|byte| char::from(*byte)).collect()
    }

    fn signers(&self) -> Vec<String> {
        let json: serde_json::Value =
            serde_json::from_str(&self.ashlar(&["inspect", "--json", "image"])).unwrap();
        let signatures = json["signatures"].as_array().unwrap();
        signatures.iter().map(|one| one["key_id"].as_str().unwrap().to_owned()).collect()
    }

    fn key(&self, name: &str) -> String {
        self.ashlar(&["key", "generate", "--no-password", name]);
        let shown = self.ashlar(&["key", "show", name]);
        assert_eq!(shown, self.ashlar(&["key", "show", &format!("{name}.pub")]));
        shown.lines().next().unwrap().to_owned()
    }
}

fn has_minisign() -> bool {
    let found = Command::new("minisign").arg("-v").output().is_ok();
    if !found {
        eprintln!("skipped: there is no `minisign` here");
    }
    found
}

#[test]
fn signatures_are_added_replaced_and_removed() {
    let bench = Bench::new();
    let (a, b) = (bench.key("a"), bench.key("b"));
    let sound = fs::read(bench.path("image")).unwrap();
    assert!(bench.fails(&["verify", "--key", "a.pub", "image"]).contains("not signed"));
    bench.ashlar(&["sign", "--key", "a", "image"]);
    bench.ashlar(&["verify", "--key", "a.pub", "image"]);
    assert!(bench.fails(&["verify", "--key", "b.pub", "image"]).contains("none of the image's 1"));
    bench.ashlar(&["sign", "--key", "b", "image"]);
    bench.ashlar(&["sign", "--key", "a", "image"]);
    assert_eq!(bench.signers(), [b.clone(), a.clone()]);
    for key in ["a.pub", "b.pub"] {
        assert!(bench.ashlar(&["verify", "--key", key, "image"]).starts_with("clean"));
    }
    let signed = fs::read(bench.path("image")).unwrap();
    assert!(signed.starts_with(&sound), "nothing but the trailer is new");
    assert!(bench.fails(&["sign", "--remove", "00", "image"]).contains("no signature by key 00"));
    bench.ashlar(&["sign", "--remove", &a.to_lowercase(), "image"]);
    assert_eq!(bench.signers(), std::slice::from_ref(&b));
    bench.ashlar(&["sign", "--remove", &b, "image"]);
    assert_eq!(fs::read(bench.path("image")).unwrap(), sound);
    let left: Vec<_> = fs::read_dir(bench.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_file_that_is_open_is_not_changed() {
    let bench = Bench::new();
    bench.key("key");
    let before = fs::File::open(bench.path("image")).unwrap();
    let len = before.metadata().unwrap().len();
    std::os::unix::fs::symlink("image", bench.path("link")).unwrap();
    bench.ashlar(&["sign", "--key", "key", "link"]);
    assert!(fs::symlink_metadata(bench.path("link")).unwrap().is_symlink());
    let after = fs::metadata(bench.path("image")).unwrap();
    assert_ne!(before.metadata().unwrap().ino(), after.ino());
    assert_eq!(before.metadata().unwrap().len(), len);
    assert!(after.len() > len);
    assert_eq!(before.metadata().unwrap().mode(), after.mode());
}

#[test]
fn only_the_image_that_was_meant_is_signed() {
    let bench = Bench::new();
    bench.key("key");
    let wrong = "0".repeat(64);
    let sound = fs::read(bench.path("image")).unwrap();
    let said = bench.fails(&["sign", "--key", "key", "--root-digest", &wrong, "image"]);
    assert!(said.contains("does not have the root digest"), "{said}");
    assert!(bench.fails(&["sign", "--key", "key", "tree.tar"]).contains("not an ashlar image"));
    assert!(bench.fails(&["sign", "--key", "key.pub", "image"]).contains("no minisign secret key"));
    fs::write(bench.path("junk"), "no signature").unwrap();
    bench.fails(&["sign", "--attach", "junk", "image"]);
    assert_eq!(fs::read(bench.path("image")).unwrap(), sound);
    // A key is never overwritten.
    assert!(bench.fails(&["key", "generate", "-W", "key"]).contains("exists already"));
    assert_eq!(fs::metadata(bench.path("key")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_damaged_image_is_not_signed() {
    let bench = Bench::new();
    bench.key("key");
    let sound = fs::read(bench.path("image")).unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&bench.ashlar(&["inspect", "--json", "image"])).unwrap();
    let root = json["root_digest"].as_str().unwrap();
    let backup = sound.len() - 4096;
    // In either superblock: the magic, the version, the digest of the page list.
    for at in [0, 0x28, 0x50, backup, backup + 0x28, backup + 0x50] {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        fs::write(bench.path("image"), &damaged).unwrap();
        for args in [&["--detached"][..], &["--root-digest", root], &[]] {
            let said = bench.fails(&[&["sign", "--key", "key"], args, &["image"]].concat());
            assert!(said.contains("superblock differs"), "{at}: {said}");
            assert!(said.contains("copy the image again"), "{at}: {said}");
        }
        assert_eq!(fs::read(bench.path("image")).unwrap(), damaged);
        assert!(!bench.path("image.minisig").exists());
    }
}

#[test]
fn signing_what_nothing_vouches_for_is_said_aloud() {
    let bench = Bench::new();
    bench.key("key");
    let json: serde_json::Value =
        serde_json::from_str(&bench.ashlar(&["inspect", "--json", "image"])).unwrap();
    let root = json["root_digest"].as_str().unwrap();
    for (args, warns) in [(&[][..], true), (&["--root-digest", root], false)] {
        let args = [&["sign", "--key", "key"], args, &["image"]].concat();
        let output = bench.run(env!("CARGO_BIN_EXE_ashlar"), &args);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.contains("not authenticated"), warns, "{said}");
    }
}

#[test]
fn a_password_comes_from_the_environment() {
    let bench = Bench::new();
    let with = |password: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ashlar"));
        command.env("ASHLAR_KEY_PASSWORD", password).current_dir(bench.directory.path());
        command.args(args).output().unwrap()
    };
    assert!(with("secret", &["key", "generate", "key"]).status.success());
    assert!(!with("wrong", &["sign", "--key", "key", "image"]).status.success());
    assert!(with("secret", &["sign", "--key", "key", "image"]).status.success());
    bench.ashlar(&["verify", "--key", "key.pub", "image"]);
}

#[test]
fn stock_minisign_signs_for_us() {
    if !has_minisign() {
        return;
    }
    let bench = Bench::new();
    let text = bench.ashlar(&["inspect", "--signed-text", "image"]);
    assert!(text.starts_with("ashlar image\nroot-digest "), "{text}");
    assert!(text.ends_with("\nimage-version 3\n"), "{text}");
    fs::write(bench.path("text"), text).unwrap();
    let made = bench.run("minisign", &["-G", "-W", "-p", "pub", "-s", "sec"]);
    assert!(made.status.success(), "{made:?}");
    // Both of minisign's algorithms, embedded and beside the image.
    for legacy in [&["-S", "-l"][..], &["-S"]] {
        let args = [legacy, &["-s", "sec", "-m", "text", "-x", "text.minisig"]].concat();
        let signed = bench.run("minisign", &args);
        assert!(signed.status.success(), "{signed:?}");
        assert!(bench.fails(&["verify", "--key", "pub", "image"]).contains("not signed"));
        bench.ashlar(&["verify", "--key", "pub", "--signature", "text.minisig", "image"]);
        bench.ashlar(&["sign", "--attach", "text.minisig", "--public-key", "pub", "image"]);
        bench.ashlar(&["verify", "--key", "pub", "image"]);
        let id = bench.signers().remove(0);
        bench.ashlar(&["sign", "--remove", &id, "image"]);
    }
    // Its key, our signature.
    bench.ashlar(&["sign", "--key", "sec", "--detached", "image"]);
    let checked = bench.run("minisign", &["-V", "-p", "pub", "-m", "text", "-x", "image.minisig"]);
    assert!(checked.status.success(), "{checked:?}");
    bench.ashlar(&["verify", "--key", "pub", "image"]);
}

#[test]
fn stock_minisign_uses_our_keys() {
    if !has_minisign() {
        return;
    }
    let bench = Bench::new();
    bench.key("key");
    let text = bench.ashlar(&["inspect", "--signed-text", "image"]);
    fs::write(bench.path("text"), text).unwrap();
    bench.ashlar(&["sign", "--key", "key", "--detached", "image"]);
    let checked =
        bench.run("minisign", &["-V", "-p", "key.pub", "-m", "text", "-x", "image.minisig"]);
    assert!(checked.status.success(), "{checked:?}");
    let signed = bench.run("minisign", &["-S", "-s", "key", "-m", "text"]);
    assert!(signed.status.success(), "{signed:?}");
    bench.ashlar(&["sign", "--attach", "text.minisig", "--public-key", "key.pub", "image"]);
    bench.ashlar(&["verify", "--key", "key.pub", "image"]);
}
