//! Does `ashlar lint` say the same of a directory and of its image, and does nothing that lies in wait there hurt it?

#[path = "support/cases.rs"]
mod cases;
#[path = "support/image.rs"]
mod image;
#[path = "support/seal.rs"]
mod seal;
#[path = "support/tree.rs"]
mod tree;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ashlarfs::{Anchor, Options, lint};
use rustix::fs::{CWD, FileType, Mode};
use serde_json::Value;
use tree::{Ran, ashlar, command, pack};

fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A tree that could boot; what is left to say of it is that nothing is in it.
fn bootable(root: &Path) {
    for name in [
        "boot", "dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "sbin", "srv", "sys",
        "tmp", "var",
    ] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy(env!("CARGO_BIN_EXE_ashlar"), root.join("sbin/other")).unwrap();
    fs::write(root.join("sbin/init"), "#!/sbin/shell\n").unwrap();
    // The smallest program: an ELF header and one program header of no type.
    let mut elf = [0; 120];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    (elf[16], elf[32], elf[54], elf[56]) = (2, 64, 56, 1);
    fs::write(root.join("sbin/shell"), elf).unwrap();
    tree::set_mode(&root.join("sbin/init"), 0o755);
    tree::set_mode(&root.join("sbin/shell"), 0o755);
    fs::write(root.join("etc/os-release"), "ID=x\n").unwrap();
    fs::write(root.join("etc/machine-id"), "").unwrap();
}

/// The findings of `ran --json`, each as its lint, severity and path.
fn told(ran: &Ran) -> Vec<String> {
    let object: Value = serde_json::from_slice(&ran.out).unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let line = |finding: &Value| {
        let (severity, lint) = (text(finding, "severity"), text(finding, "lint"));
        assert!(!text(finding, "why").is_empty() && !text(finding, "remedy").is_empty());
        format!("{severity} {lint} {}", text(finding, "path"))
    };
    object["findings"].as_array().unwrap().iter().map(line).collect()
}

#[test]
fn exit_status_and_options() {
    let dir = tempdir();
    let root = dir.path();
    bootable(root);
    let run = |args: &[&str]| {
        ashlar(
            [OsStr::new("lint")]
                .into_iter()
                .chain(args.iter().map(OsStr::new))
                .chain([root.as_os_str()]),
        )
    };
    let ran = run(&[]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{}", ran.text());
    assert!(ran.text().ends_with("0 fatal, 0 warnings, 2 infos\n"), "{}", ran.text());
    assert!(ran.text().starts_with("info: /sysroot is missing, "), "{}", ran.text());
    assert_eq!(run(&["--severity", "warning"]).text(), "0 fatal, 0 warnings, 2 infos\n");
    assert_eq!(
        told(&run(&["--json", "--disable", "sysroot"])),
        ["info kernel-modules /usr/lib/modules"]
    );
    fs::write(root.join("tmp/x\x1b[2J"), "").unwrap();
    let ran = run(&["--severity", "warning"]);
    assert_eq!(ran.status, 0);
    assert!(ran.text().contains("warning: /tmp holds 1 file (/tmp/x\\x1b[2J), "), "{}", ran.text());
    // What makes it fail is always told.
    let ran = run(&["--fatal-warnings", "--severity", "fatal"]);
    assert_eq!(ran.status, 1);
    assert!(ran.text().contains("[temporary-files]"), "{}", ran.text());
    assert_eq!(run(&["--fatal-warnings", "--disable", "temporary-files"]).status, 0);
    fs::remove_dir(root.join("proc")).unwrap();
    let ran = run(&["--json"]);
    assert_eq!((ran.status, told(&ran)[0].as_str()), (1, "fatal mount-point /proc"));
    assert_eq!(serde_json::from_slice::<Value>(&ran.out).unwrap()["warnings"], 1);
    let ran = run(&["--disable", "no-such-lint"]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("ashlar lint --list"), "{}", ran.err);
    let ran = run(&["--root-digest", &"0".repeat(64)]);
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("is a directory") && ran.err.contains("hint"), "{}", ran.err);
    assert_eq!(ashlar(["lint"]).status, 2);
    let ran = ashlar(["lint", "/no/such/tree"]);
    assert_eq!(ran.status, 1);
    assert!(ran.err.starts_with("ashlar: error: /no/such/tree: "), "{}", ran.err);
}

#[test]
fn the_list_names_every_lint() {
    let list = ashlar(["lint", "--list"]);
    let names: Vec<&str> =
        list.text().lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, lint::all().map(|lint| lint.name).collect::<Vec<_>>());
    let json: Value = serde_json::from_slice(&ashlar(["lint", "--list", "--json"]).out).unwrap();
    assert_eq!(json.as_array().unwrap().len(), names.len());
    assert_eq!(json[0]["name"], names[0]);
}

/// Breaks a bit of everything.
fn messy(root: &Path) {
    bootable(root);
    let write = |path: &str, text: &str| {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), text).unwrap();
    };
    fs::remove_dir(root.join("proc")).unwrap();
    fs::remove_file(root.join("sbin/shell")).unwrap();
    symlink("round", root.join("sbin/shell")).unwrap();
    symlink("shell", root.join("sbin/round")).unwrap();
    fs::remove_file(root.join("etc/os-release")).unwrap();
    let mode = Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(CWD, root.join("etc/os-release"), FileType::Fifo, mode, 0).unwrap();
    write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    write("etc/fstab", "/dev/sda1 / ext4\n/dev/sda2 /usr ext4\n/dev/sda3 /data ext4\n");
    write("etc/ashlar/ashlar.toml", "bind = [\"/data\"]\n");
    write("etc/shadow", "root:*:1\n");
    write("etc/hostname", "fred\n");
    write("etc/resolv.conf", "");
    write("etc/ssh/ssh_host_rsa_key", "x");
    write("etc/ashlar/keys/k", "untrusted comment: minisign encrypted secret key\n");
    write("run/a", "");
    write("var/run/b", "");
    write("var/lock/c", "");
    write("var/log/d", "x");
    write("var/tmp/e", "x");
    write("boot/vmlinuz", "x");
    write("usr/etc/f", "x");
    write("usr/lib/modules/1/x", "");
    write("usr/lib/modules/2/modules.dep", "");
    write("usr/sbin/init", "");
    fs::write(root.join(OsStr::from_bytes(b"srv/\xff")), "").unwrap();
    tree::set_time(&root.join("usr"), 0, 0);
}

#[test]
fn a_directory_and_its_image_are_told_the_same() {
    let dir = tempdir();
    let root = dir.path().join("root");
    messy(&root);
    let of_tree = ashlar([OsStr::new("lint"), OsStr::new("--json"), root.as_os_str()]);
    let (image, digest) = pack(&root, &dir.path().join("image"), &[]);
    let args = ["lint", "--json", "--root-digest", &digest, image.to_str().unwrap()];
    let of_image = ashlar(args);
    assert_eq!((of_tree.status, of_image.status), (1, 1));
    assert_eq!((of_tree.err.as_str(), of_image.err.as_str()), ("", ""));
    let findings =
        |ran: &Ran| serde_json::from_slice::<Value>(&ran.out).unwrap()["findings"].take();
    assert_eq!(findings(&of_tree), findings(&of_image));
    let told = told(&of_tree);
    for finding in [
        "fatal mount-point /proc",
        "fatal init-interpreter /sbin/init",
        "fatal os-release /etc/os-release",
        "fatal private-key /etc/ashlar/keys/k",
        "fatal var-run /var/run",
        "warning machine-id /etc/machine-id",
        "warning fstab /etc/fstab",
        "fatal fstab-mount-point /etc/fstab",
        #[cfg(feature = "boot")]
        "warning ashlar-config /etc/ashlar/ashlar.toml",
        "warning modules-dep /usr/lib/modules/1",
        "warning usr-time /usr",
        "info usr-merge /sbin",
        "info not-utf8 /srv/\\xff",
    ] {
        assert!(told.contains(&finding.to_owned()), "{finding} is missing in {told:#?}");
    }
    // Without an anchor it is looked over, too, and a warning says what that is worth.
    let loose = ashlar([OsStr::new("lint"), image.as_os_str()]);
    assert!(loose.err.contains("is not authenticated"), "{}", loose.err);
}

#[test]
fn what_may_not_be_read_is_told() {
    let dir = tempdir();
    tree::set_mode(dir.path(), 0o755);
    let root = dir.path().join("root");
    bootable(&root);
    fs::create_dir(root.join("srv/closed")).unwrap();
    fs::write(root.join("etc/shadow"), "root:*:1\n").unwrap();
    tree::set_mode(&root.join("etc/shadow"), 0);
    tree::set_mode(&root.join("srv/closed"), 0);
    tree::set_mode(&root.join("sbin"), 0);
    let mut lint = command();
    lint.args(["lint", "--json", "--disable", "sysroot", "--disable", "kernel-modules"]).arg(&root);
    if tree::is_root() {
        lint.uid(65_534).gid(65_534);
    }
    let output = lint.output();
    for path in ["srv/closed", "sbin"] {
        tree::set_mode(&root.join(path), 0o755);
    }
    let ran: Ran = match output {
        Ok(output) => output.into(),
        Err(err) => {
            eprintln!("skipped: an ordinary user cannot run what was built here: {err}");
            return;
        }
    };
    assert_eq!(ran.status, 0);
    // Nothing is said of what is behind them: neither that init is missing nor that nobody can log in.
    let closed = ["/etc/shadow", "/sbin", "/sbin/init", "/srv/closed"];
    assert_eq!(told(&ran), closed.map(|path| format!("warning unreadable {path}")));
}

#[test]
fn damage_is_told_and_no_sealed_image_does_harm() {
    let mut looked = 0;
    for case in cases::all() {
        let anchor = match (case.root, &case.key) {
            (Some(root), _) => Anchor::RootDigest(root),
            _ => Anchor::Unauthenticated,
        };
        let Ok(tree) = ashlarfs::open_source(image::Memory::new(case.image), &Options::new(anchor))
        else {
            continue;
        };
        looked += 1;
        let started = Instant::now();
        let findings = lint::lint(&tree, |_| false);
        assert!(
            findings.iter().any(|finding| finding.lint == "init" || finding.lint == "damaged"),
            "{}",
            case.name
        );
        assert!(started.elapsed() < Duration::from_secs(5), "{} took too long", case.name);
    }
    assert!(looked > 30, "only {looked} images could be opened");
    let dir = tempdir();
    let root = dir.path().join("root");
    bootable(&root);
    let (path, _) = pack(&root, &dir.path().join("image"), &["-z", "none", "-b", "4K"]);
    let mut raw = fs::read(&path).unwrap();
    let at = raw.windows(13).position(|part| part == b"#!/sbin/shell").unwrap();
    raw[at] ^= 1;
    let tree =
        ashlarfs::open_source(image::Memory::new(raw), &Options::new(Anchor::Unauthenticated));
    let findings = lint::lint(&tree.unwrap(), |_| false);
    assert_eq!(
        (findings[0].lint, findings[0].path.as_slice()),
        ("damaged", b"sbin/init".as_slice())
    );
}

/// The cached Debian root of `tests/support/debian_tree.sh`, where there is one.
fn debian_root() -> Option<PathBuf> {
    let target =
        || std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let cache = std::env::var_os("ASHLAR_TEST_CACHE");
    let cache = cache.map_or_else(|| target().join("test-cache"), PathBuf::from);
    let root = cache.join("debian-root");
    let is_there = root.join("usr/lib/systemd/systemd").exists();
    if !is_there {
        eprintln!(
            "skipped: no Debian root at {}; `tests/support/debian_tree.sh` makes it",
            root.display()
        );
    }
    is_there.then_some(root)
}

#[test]
fn a_real_debian_would_boot() {
    let Some(root) = debian_root() else { return };
    let ran = ashlar([OsStr::new("lint"), OsStr::new("--json"), root.as_os_str()]);
    assert_eq!(ran.status, 0, "{}", ran.text());
    let told = told(&ran);
    // The package makes host keys.
    let finding = "warning ssh-host-key /etc/ssh/ssh_host_rsa_key";
    assert!(told.contains(&finding.to_owned()), "{finding} is missing in {told:#?}");
    for lint in [
        "init",
        "init-interpreter",
        "os-release",
        "machine-id",
        "base-directory",
        "fstab",
        "fstab-mount-point",
        "usr-time",
        "damaged",
    ] {
        assert!(!told.iter().any(|line| line.split(' ').nth(1) == Some(lint)), "{told:#?}");
    }
}
