//! Does each lint speak when its one thing is wrong, and only then? A good tree, and one thing broken in it at a time.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, FileType, Mode};

use super::{Directory, Finding, Look, Severity};
use crate::format::inode::Kind;

/// Directories of a good root.
const DIRECTORIES: &[&str] = &[
    "boot",
    "dev",
    "etc/ashlar/keys",
    "etc/ssh",
    "etc/systemd/system",
    "home",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "sysroot",
    "tmp",
    "usr/bin",
    "usr/lib/modules/6.1.0-1-amd64",
    "usr/lib/systemd/system",
    "usr/lib64",
    "usr/sbin",
    "var/lib/dbus",
    "var/log",
    "var/tmp",
];

/// The smallest 64-bit program, of `kind`, with an interpreter if one is given.
fn program(kind: u8, interpreter: Option<&str>) -> Vec<u8> {
    let mut raw = vec![0; 64];
    raw[..6].copy_from_slice(b"\x7fELF\x02\x01");
    raw[16] = kind;
    raw[32] = 64; // program headers
    raw[54] = 56; // length of one
    raw[56] = 2;
    raw.extend([0; 112]);
    if let Some(path) = interpreter {
        raw[120] = 3; // PT_INTERP is the second
        raw[128] = 176;
        raw[152] = u8::try_from(path.len() + 1).unwrap();
        raw.extend(path.bytes());
        raw.push(0);
    }
    raw
}

/// A 32-bit program of the other byte order.
fn narrow_program(interpreter: &str) -> Vec<u8> {
    let mut raw = vec![0; 52];
    raw[..6].copy_from_slice(b"\x7fELF\x01\x02");
    (raw[17], raw[31], raw[43], raw[45]) = (2, 52, 32, 1);
    raw.extend([0; 32]);
    (raw[55], raw[59]) = (3, 84);
    raw[71] = u8::try_from(interpreter.len() + 1).unwrap();
    raw.extend(interpreter.bytes());
    raw.push(0);
    raw
}

fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn write_program(root: &Path, path: &str, content: &[u8]) {
    write(root, path, content);
    fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o755)).unwrap();
}

fn remove(root: &Path, path: &str) {
    let path = root.join(path);
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

fn link(root: &Path, path: &str, target: &str) {
    if root.join(path).symlink_metadata().is_ok() {
        remove(root, path);
    }
    symlink(target, root.join(path)).unwrap();
}

fn fifo(root: &Path, path: &str) {
    if root.join(path).symlink_metadata().is_ok() {
        remove(root, path);
    }
    let mode = Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(CWD, root.join(path), FileType::Fifo, mode, 0).unwrap();
}

/// A tree of which nothing is to be said.
fn good() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for path in DIRECTORIES {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        fs::create_dir_all(root.join("usr").join(name)).unwrap();
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    symlink("/run", root.join("var/run")).unwrap();
    symlink("/run/lock", root.join("var/lock")).unwrap();
    write_program(root, "usr/lib/systemd/systemd", &program(3, Some("/lib64/ld-linux.so.2")));
    write_program(root, "usr/lib64/ld-linux.so.2", &program(3, None));
    write_program(root, "usr/bin/sh", &program(2, None));
    symlink("/lib/systemd/systemd", root.join("usr/sbin/init")).unwrap();
    write(root, "usr/lib/systemd/system/soft-reboot.target", "[Unit]\n");
    write(root, "usr/lib/systemd/system/systemd-soft-reboot.service", "[Unit]\n");
    symlink("/dev/null", root.join("etc/systemd/system/soft-reboot.target")).unwrap();
    write(root, "usr/lib/modules/6.1.0-1-amd64/modules.dep", "");
    write(root, "usr/lib/os-release", "ID=debian\n");
    symlink("../usr/lib/os-release", root.join("etc/os-release")).unwrap();
    write(root, "etc/machine-id", "uninitialized\n");
    write(root, "etc/fstab", "# / is the image\n/dev/vdb1 /var/data ext4 defaults 0 2\n");
    write(root, "etc/shadow", "root:!:1::::::\nadmin:$y$j9T$x:1::::::\n");
    write(root, "etc/ashlar/keys/release.pub", "untrusted comment: minisign public key\nRWQx\n");
    symlink("../run/systemd/resolve/stub-resolv.conf", root.join("etc/resolv.conf")).unwrap();
    write(root, "var/log/btmp", "");
    dir
}

fn lint(root: &Path) -> Vec<Finding> {
    super::lint(&Directory::open(root).unwrap(), |_| false)
}

/// `lint path` of each finding in the tree once `break_it` was at it.
fn found(break_it: impl FnOnce(&Path)) -> Vec<String> {
    let dir = good();
    break_it(dir.path());
    let line =
        |finding: Finding| format!("{} {}", finding.lint, String::from_utf8_lossy(&finding.path));
    lint(dir.path()).into_iter().map(line).collect()
}

#[test]
fn nothing_is_said_of_a_good_tree() {
    assert_eq!(found(|_| {}), [""; 0]);
}

#[test]
fn names_are_unique_and_well_formed() {
    let mut names: Vec<_> = super::all().map(|lint| lint.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    for lint in super::all() {
        let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(lint.name.chars().all(is_good), "{}", lint.name);
        assert!(!lint.remedy.is_empty() && !lint.about.ends_with('.'), "{}", lint.name);
    }
}

#[test]
fn places() {
    for name in ["dev", "proc", "run", "sys"] {
        assert_eq!(found(|root| remove(root, name)), [format!("mount-point {name}")]);
        assert_eq!(found(|root| link(root, name, "srv")), [format!("mount-point {name}")]);
        let file = |root: &Path| {
            remove(root, name);
            write(root, name, "");
        };
        assert_eq!(found(file), [format!("mount-point {name}")]);
    }
    assert!(found(|root| remove(root, "var")).contains(&"mount-point var".into()));
    assert!(found(|root| remove(root, "etc")).contains(&"mount-point etc".into()));
    assert_eq!(found(|root| remove(root, "tmp")), ["mount-point tmp"]);
    assert_eq!(found(|root| link(root, "tmp", "var/tmp")), [""; 0]);
    for name in ["boot", "home", "mnt", "opt", "root", "srv"] {
        assert_eq!(found(|root| remove(root, name)), [format!("base-directory {name}")]);
        assert_eq!(found(|root| link(root, name, &format!("var/{name}"))), [""; 0]);
    }
    assert_eq!(found(|root| remove(root, "sysroot")), ["sysroot sysroot"]);
}

#[test]
fn init_can_be_started() {
    let init = "usr/sbin/init";
    assert_eq!(found(|root| remove(root, init)), ["init sbin/init"]);
    assert_eq!(found(|root| link(root, init, "/nowhere")), ["init sbin/init"]);
    assert_eq!(found(|root| link(root, init, "init")), ["init sbin/init"]);
    assert_eq!(found(|root| link(root, init, "/etc")), ["init sbin/init"]);
    assert_eq!(found(|root| fifo(root, init)), ["init sbin/init"]);
    let systemd = "usr/lib/systemd/systemd";
    let mode = fs::Permissions::from_mode(0o644);
    let closed = |root: &Path| fs::set_permissions(root.join(systemd), mode).unwrap();
    assert_eq!(found(closed), ["init sbin/init"]);
    let with = |content: Vec<u8>| found(move |root| write_program(root, systemd, &content));
    for wrong in [
        b"".to_vec(),
        b"echo hello\n".to_vec(),
        b"#!\n".to_vec(),
        b"#!bin/sh\n".to_vec(),
        b"\x7fELF".to_vec(),
        program(1, None),
        program(3, Some("relative")),
        program(3, None)[..100].to_vec(),
        program(3, Some("")),
    ] {
        assert_eq!(with(wrong), ["init sbin/init"]);
    }
    for good in [
        program(2, None),
        program(3, None),
        program(2, Some("/usr/lib64/ld-linux.so.2")),
        narrow_program("/lib64/ld-linux.so.2"),
        b"#!/bin/sh\n".to_vec(),
        b"#! \t/bin/sh -e\necho".to_vec(),
        b"#!/bin/sh".to_vec(),
    ] {
        assert_eq!(with(good), [""; 0]);
    }
}

#[test]
fn interpreters_are_there() {
    let systemd = "usr/lib/systemd/systemd";
    let wrong = [format!("init-interpreter {systemd}")];
    assert_eq!(found(|root| remove(root, "usr/lib64/ld-linux.so.2")), wrong);
    let with = |content: Vec<u8>| found(move |root| write_program(root, systemd, &content));
    assert_eq!(with(narrow_program("/lib/ld.so.1")), wrong);
    assert_eq!(with(b"#!/bin/bash\n".to_vec()), wrong);
    // A script's interpreter has one too, and so on; but not for ever.
    let nested = |root: &Path| {
        write_program(root, systemd, b"#!/bin/one\n");
        write_program(root, "usr/bin/one", &program(3, Some("/no/loader")));
    };
    assert_eq!(found(nested), ["init-interpreter usr/bin/one"]);
    let round = |root: &Path| {
        write_program(root, systemd, b"#!/bin/one\n");
        write_program(root, "usr/bin/one", b"#!/bin/one\n");
    };
    assert_eq!(found(round), ["init-interpreter sbin/init"]);
}

#[test]
fn any_bytes_may_call_themselves_a_program() {
    let sound = program(3, Some("/lib64/ld-linux.so.2"));
    let read_of = |raw: Vec<u8>| {
        move |at: u64, len: usize| {
            let at = usize::try_from(at).unwrap_or(usize::MAX).min(raw.len());
            Some(raw[at..at.saturating_add(len).min(raw.len())].to_vec())
        }
    };
    let mut answers = 0;
    for at in 0..sound.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut raw = sound.clone();
            raw[at] = byte;
            let start = raw[..64].to_vec();
            answers += usize::from(crate::elf::interpreter(&start, &read_of(raw)).is_some());
        }
        let start = &sound[..at.min(64)];
        answers +=
            usize::from(crate::elf::interpreter(start, &read_of(sound[..at].to_vec())).is_some());
    }
    assert!(answers > sound.len());
}

#[test]
fn os_release() {
    assert_eq!(found(|root| remove(root, "etc/os-release")), [""; 0], "one of the two is enough");
    assert_eq!(found(|root| remove(root, "usr/lib/os-release")), ["os-release etc/os-release"]);
    let pipe = |root: &Path| {
        fifo(root, "etc/os-release");
        remove(root, "usr/lib/os-release");
    };
    let started = Instant::now();
    assert_eq!(found(pipe), ["os-release etc/os-release"]);
    assert!(started.elapsed() < Duration::from_secs(20), "a pipe is not waited for");
}

#[test]
fn identity() {
    let id = "0123456789abcdef0123456789abcdef\n";
    let wrong = ["machine-id etc/machine-id"];
    assert_eq!(found(|root| remove(root, "etc/machine-id")), wrong);
    assert_eq!(found(|root| write(root, "etc/machine-id", id)), wrong);
    assert_eq!(found(|root| write(root, "etc/machine-id", "rubbish")), wrong);
    assert_eq!(found(|root| link(root, "etc/machine-id", "/nowhere")), wrong);
    assert_eq!(found(|root| fifo(root, "etc/machine-id")), wrong);
    assert_eq!(found(|root| write(root, "etc/machine-id", "")), [""; 0]);
    let dbus = "var/lib/dbus/machine-id";
    assert_eq!(found(|root| link(root, dbus, "/etc/machine-id")), [""; 0]);
    let copied = found(|root| write(root, dbus, id));
    assert!(copied.contains(&format!("machine-id {dbus}")), "{copied:?}");
    let key = "etc/ssh/ssh_host_rsa_key";
    assert_eq!(found(|root| write(root, key, "KEY")), [format!("ssh-host-key {key}")]);
    assert_eq!(found(|root| write(root, "etc/ssh/ssh_host_rsa_key.pub", "KEY")), [""; 0]);
    assert_eq!(found(|root| write(root, "etc/hostname", "# x\nfred\n")), ["hostname etc/hostname"]);
    assert_eq!(found(|root| write(root, "etc/hostname", "localhost\n")), [""; 0]);
    assert_eq!(
        found(|root| write(root, "etc/shadow", "root:*:1\nx:!$y$:1\n")),
        ["login etc/shadow"]
    );
    assert_eq!(found(|root| write(root, "etc/shadow", "root::1\n")), [""; 0]);
    for home in ["root", "home/fred"] {
        let with_key = |root: &Path| {
            write(root, "etc/shadow", "root:*:1\n");
            write(root, &format!("{home}/.ssh/authorized_keys"), "ssh-ed25519 x\n");
        };
        assert_eq!(found(with_key), [""; 0]);
    }
}

#[test]
#[cfg(feature = "cli")]
fn secret_keys_are_known_by_their_bytes() {
    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let plain = pair.sk.to_box(Some("no hint")).unwrap().into_string();
    let public = pair.pk.to_box().unwrap().into_string();
    let pair = minisign::KeyPair::generate_encrypted_keypair(Some("word".into())).unwrap();
    let locked = pair.sk.to_box(Some("no hint")).unwrap().into_string();
    let pem = "-----BEGIN OPENSSH PRIVATE KEY-----\n".to_owned();
    let comment = "untrusted comment: minisign encrypted secret key\n".to_owned();
    for (key, count) in [(plain, 1), (locked, 1), (pem, 1), (comment, 1), (public, 0)] {
        let path = "etc/ashlar/keys/release.key";
        let told = found(|root| write(root, path, &key));
        assert_eq!(told, vec![format!("private-key {path}"); count], "{key}");
    }
}

#[test]
fn leftovers() {
    assert_eq!(found(|root| remove(root, "var/run")), [""; 0]);
    assert_eq!(found(|root| link(root, "var/run", "../run/")), [""; 0]);
    assert_eq!(found(|root| link(root, "var/run", "/srv")), ["var-run var/run"]);
    let directory = |path: &'static str| {
        move |root: &Path| {
            remove(root, path);
            fs::create_dir(root.join(path)).unwrap();
        }
    };
    assert_eq!(found(directory("var/run")), ["var-run var/run"]);
    assert_eq!(found(directory("var/lock")), ["var-lock var/lock"]);
    for path in ["run", "proc", "sys", "dev"] {
        assert_eq!(
            found(|root| write(root, &format!("{path}/a/b"), "")),
            [format!("hidden-content {path}")]
        );
        assert_eq!(found(|root| fs::create_dir_all(root.join(path).join("a/b")).unwrap()), [""; 0]);
    }
    assert_eq!(found(|root| link(root, "dev/stdin", "/proc/self/fd/0")), [""; 0]);
    assert_eq!(
        found(|root| write(root, "dev/null", "")),
        ["hidden-content dev"],
        "a file, no device"
    );
    assert_eq!(found(|root| write(root, ".dockerenv", "")), ["container-marker .dockerenv"]);
    assert_eq!(
        found(|root| write(root, "run/.containerenv", "")),
        ["container-marker run/.containerenv"]
    );
    assert_eq!(found(|root| write(root, "tmp/x", "")), ["temporary-files tmp"]);
    let told = found(|root| write(root, "var/tmp/x", ""));
    assert_eq!(told, ["temporary-files var/tmp"]);
    for name in ["etc/hostname", "etc/hosts"] {
        assert_eq!(found(|root| write(root, name, "")), [format!("build-leftover {name}")]);
    }
    let resolv = |root: &Path| {
        remove(root, "etc/resolv.conf");
        write(root, "etc/resolv.conf", "");
    };
    assert_eq!(found(resolv), ["build-leftover etc/resolv.conf"]);
    assert_eq!(found(|root| write(root, "boot/vmlinuz", "")), ["boot-content boot"]);
    assert_eq!(found(|root| write(root, "boot/lost+found/x", "")), [""; 0]);
    assert_eq!(found(|root| write(root, "var/log/apt/history.log", "x")), ["var-log var/log"]);
    assert_eq!(found(|root| fs::create_dir(root.join("usr/etc")).unwrap()), ["usr-etc usr/etc"]);
    assert_eq!(found(|root| write(root, "var/lib/x", "")), ["var-content var"]);
}

#[test]
fn kernel() {
    let modules = "usr/lib/modules";
    let none = format!("kernel-modules {modules}");
    assert_eq!(found(|root| remove(root, modules)), [none.as_str()]);
    assert_eq!(found(|root| remove(root, &format!("{modules}/6.1.0-1-amd64"))), [none.as_str()]);
    let second = format!("{modules}/6.12.0");
    assert_eq!(found(|root| write(root, &format!("{second}/modules.dep"), "")), [none.as_str()]);
    let dep = format!("{modules}/6.1.0-1-amd64/modules.dep");
    let told = [format!("modules-dep {modules}/6.1.0-1-amd64")];
    assert_eq!(found(|root| remove(root, &dep)), told);
}

#[test]
fn systemd() {
    let fstab = |text: &'static str| found(move |root| write(root, "etc/fstab", text));
    assert_eq!(fstab("UUID=1 / ext4 ro 0 1\n"), ["fstab etc/fstab"]);
    assert_eq!(fstab("\n a  //\tx\n/dev/b /usr/ y"), ["fstab etc/fstab", "fstab etc/fstab"]);
    assert_eq!(fstab("#/dev/a / x\n # / /\nx none swap\n/dev/x\n"), [""; 0]);
    for there in [
        "x /srv ext4\n",
        "x //srv/. ext4 defaults\n",
        "x /data ext4 nofail\n",
        "x /data ext4 rw,noauto 0 2\n",
        "x none swap\nx swap swap sw\n",
        "x /var/one/two ext4\nx /run/one ext4\nx /tmp/one ext4\nx /dev/one ext4\n",
        "x /boot ext4\nx /boot/efi vfat umask=0077 0 1\n",
        "# x /data ext4\n",
    ] {
        assert_eq!(fstab(there), [""; 0], "{there}");
    }
    let missing = ["fstab-mount-point etc/fstab"];
    for line in [
        "x /data ext4 defaults,nofailure 0 2\n",
        "x /data\n",
        "x /boot/efi vfat umask=0077 0 1\n",
        "x /srv/one ext4 ro\nx /srv/oneself ext4 nofail\n",
        "x /etc/machine-id/below ext4\n",
    ] {
        assert_eq!(fstab(line), missing, "{line}");
    }
    let spaced = |root: &Path| {
        fs::create_dir(root.join("srv/a b")).unwrap();
        write(root, "etc/fstab", "x /srv/a\\040b ext4\nx /srv/a\\0 ext4\n");
    };
    assert_eq!(found(spaced), missing);
    let linked = |root: &Path| {
        link(root, "home", "var/home");
        link(root, "opt", "run");
        link(root, "mnt", "srv");
        fs::create_dir(root.join("srv/there")).unwrap();
        write(
            root,
            "etc/fstab",
            "x /home ext4\nx /home/one ext4\nx /opt/one ext4\nx /mnt/there ext4\n",
        );
    };
    assert_eq!(found(linked), [""; 0]);
    let nowhere = |root: &Path| {
        link(root, "mnt", "srv");
        write(root, "etc/fstab", "x /mnt/one ext4\n");
    };
    assert_eq!(found(nowhere), missing);
    let mask = "etc/systemd/system/soft-reboot.target";
    let service = "systemd-soft-reboot.service";
    let told = [format!("soft-reboot usr/lib/systemd/system/{service}")];
    assert_eq!(found(|root| remove(root, mask)), told);
    assert_eq!(
        found(|root| link(root, mask, "../../../usr/lib/systemd/system/soft-reboot.target")),
        told
    );
    let by_service = |root: &Path| {
        remove(root, mask);
        link(root, &format!("etc/systemd/system/{service}"), "../../../dev/null");
    };
    assert_eq!(found(by_service), [""; 0]);
    let installed = |root: &Path| {
        remove(root, mask);
        write(root, "usr/lib/systemd/system-generators/ashlar-generator", "#!/bin/sh\n");
    };
    assert_eq!(found(installed), [""; 0]);
    let before_254 = |root: &Path| {
        remove(root, mask);
        remove(root, &format!("usr/lib/systemd/system/{service}"));
    };
    assert_eq!(found(before_254), [""; 0]);
    let day = Duration::from_hours(24);
    let at = |time: SystemTime| {
        found(move |root| fs::File::open(root.join("usr")).unwrap().set_modified(time).unwrap())
    };
    assert_eq!(at(SystemTime::UNIX_EPOCH), ["usr-time usr"]);
    assert_eq!(at(SystemTime::UNIX_EPOCH + day * 10_000), [""; 0]);
    assert_eq!(at(SystemTime::now() + day * 3), ["usr-time usr"]);
}

#[test]
#[cfg(feature = "boot")]
fn the_images_own_configuration() {
    let config = |text: &'static str| {
        found(move |root| {
            link(root, "media", "run");
            write(root, "etc/ashlar/ashlar.toml", text);
        })
    };
    for good in [
        "",
        "etc = \"merge\"\nvar = \"bind\"\n",
        "bind = [\"/root\", \"/etc/machine-id\", \"/var/own/data\"]\nstate-overlay = [\"/opt/\"]\n",
    ] {
        assert_eq!(config(good), [""; 0], "{good}");
    }
    for wrong in [
        "etc = \"merge",
        "bind = \"/root\"\n",
        "bind = [\"/data\"]\n",
        "bind = [\"root\"]\n",
        "bind = [\"/\"]\n",
        "bind = [\"/etc/../root\"]\n",
        "bind = [\"/media\"]\n",
        "bind = [\"/media/one\"]\n",
        "bind = [\"/etc/machine-id/below\"]\n",
        "state-overlay = [\"/usr/share/none\"]\n",
        "state-overlay = [\"/etc/machine-id\"]\n",
    ] {
        assert_eq!(config(wrong), ["ashlar-config etc/ashlar/ashlar.toml"], "{wrong}");
    }
    let twice = "bind = [\"/lib\"]\nstate-overlay = [\"/data\"]\n";
    assert_eq!(config(twice), ["ashlar-config etc/ashlar/ashlar.toml"; 2]);
}

#[test]
fn names() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let raw = |root: &Path| fs::write(root.join(OsStr::from_bytes(b"srv/caf\xe9")), "").unwrap();
    assert_eq!(found(raw), ["not-utf8 srv/caf\u{fffd}"]);
    let twice = |root: &Path| {
        remove(root, "bin");
        write_program(root, "bin/sh", &program(2, None));
    };
    assert_eq!(found(twice), ["usr-merge bin"]);
    let apart = |root: &Path| {
        remove(root, "bin");
        write_program(root, "bin/dash", &program(2, None));
    };
    assert_eq!(found(apart), [""; 0]);
}

/// Symlinks lead where they will lead on the machine, and nowhere else.
#[test]
fn no_symlink_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    write_program(outside.path(), "init", &program(2, None));
    fs::create_dir(outside.path().join("run")).unwrap();
    write(outside.path(), "run/x", "");
    let outside = outside.path().to_str().unwrap();
    assert_eq!(
        found(|root| link(root, "usr/sbin/init", &format!("{outside}/init"))),
        ["init sbin/init"]
    );
    let up = "../".repeat(30);
    assert_eq!(
        found(|root| link(root, "usr/sbin/init", &format!("{up}{outside}/init"))),
        ["init sbin/init"]
    );
    // `..` above the root is the root: this one leads to the tree's own systemd.
    assert_eq!(
        found(|root| link(root, "usr/sbin/init", &format!("{up}lib/systemd/systemd"))),
        [""; 0]
    );
    assert_eq!(found(|root| link(root, "run", &format!("{outside}/run"))), ["mount-point run"]);
    assert_eq!(found(|root| link(root, "usr/lib/modules/6.1.0-1-amd64/x", outside)), [""; 0]);
}

#[test]
fn chains_of_symlinks_end_where_the_kernels_do() {
    let chain = |len: usize| {
        found(move |root| {
            for nth in 0..len {
                let target = if nth == 0 { "systemd".into() } else { format!("x{}", nth - 1) };
                symlink(target, root.join(format!("usr/lib/systemd/x{nth}"))).unwrap();
            }
            link(root, "usr/sbin/init", &format!("../lib/systemd/x{}", len - 1));
        })
    };
    // sbin and init are two more.
    assert_eq!(chain(38), [""; 0]);
    assert_eq!(chain(39), ["init sbin/init"]);
    assert_eq!(chain(64), ["init sbin/init"]);
    let circle = |root: &Path| {
        link(root, "etc/os-release", "b");
        symlink("os-release", root.join("etc/b")).unwrap();
        remove(root, "usr/lib/os-release");
    };
    assert_eq!(found(circle), ["os-release etc/os-release"]);
}

#[test]
fn deep_trees_are_walked() {
    let deep = |root: &Path| {
        let mut path = root.join("srv");
        for _ in 0..300 {
            path.push("deeper");
        }
        fs::create_dir_all(&path).unwrap();
        use std::os::unix::ffi::OsStrExt;
        fs::write(path.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    };
    let told = found(deep);
    assert!(told.len() == 1 && told[0].starts_with("not-utf8 srv/deeper/"), "{told:?}");
}

#[test]
fn disabled_lints_are_silent_and_the_worst_comes_first() {
    let dir = good();
    remove(dir.path(), "sysroot");
    remove(dir.path(), "srv");
    remove(dir.path(), "proc");
    let severities: Vec<_> = lint(dir.path()).iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Severity::Fatal, Severity::Warning, Severity::Info]);
    let tree = Directory::open(dir.path()).unwrap();
    let left = super::lint(&tree, |name| name != "sysroot");
    assert_eq!(left.len(), 1);
}

/// Whoever asks resolves symlinks first; should the tree change meanwhile, the directory itself still follows none.
#[test]
fn a_directory_follows_no_symlink_and_waits_for_no_pipe() {
    let dir = good();
    let root = dir.path();
    fifo(root, "srv/pipe");
    symlink("../etc", root.join("srv/out")).unwrap();
    symlink("../etc/machine-id", root.join("srv/id")).unwrap();
    let tree = Directory::open(root).unwrap();
    assert_eq!(tree.read(b"etc/machine-id", 2, 3).unwrap(), b"ini");
    assert_eq!(tree.read(b"etc/machine-id", 99, 3).unwrap(), b"");
    for path in [b"srv/id".as_slice(), b"srv/out/machine-id", b"dev", b"no/such"] {
        assert!(tree.read(path, 0, 1).is_err(), "{}", String::from_utf8_lossy(path));
    }
    assert_eq!(tree.lstat(b"srv/out/machine-id").unwrap(), None);
    assert_eq!(tree.lstat(b"srv/id").unwrap().map(|found| found.kind), Some(Kind::Link));
    assert!(tree.list(b"srv/out").is_err());
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(tree.read(b"srv/pipe", 0, 1).is_err()));
    assert_eq!(receive.recv_timeout(Duration::from_secs(20)), Ok(true), "a pipe was waited for");
}
