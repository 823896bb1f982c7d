//! Does SECURITY.md tell the truth, and do its promises hold that no other test holds?

#[path = "support/mount.rs"]
mod mount;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ashlarfs::{Anchor, Options, Source};
use mount::{Image, ashlar, limited, noise, text, within};
use rustix::fs::XattrFlags;
use rustix::process::Signal;

fn top(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The lines of a table of SECURITY.md that comes under a headline, without its head.
fn table(page: &str, headline: &str) -> Vec<Vec<String>> {
    let (_, rest) = page.split_once(&format!("\n## {headline}\n")).unwrap();
    let rest = rest.split("\n## ").next().unwrap();
    let lines = rest.lines().filter(|line| line.starts_with('|')).skip(2);
    lines
        .map(|line| line.trim_matches('|').split('|').map(|it| it.trim().to_owned()).collect())
        .collect()
}

/// All text of the machines' cases.
fn cases() -> String {
    let mut text = String::new();
    let mut ahead = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("vm-tests/src/cases")];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                ahead.push(path);
            } else {
                text += &fs::read_to_string(path).unwrap();
            }
        }
    }
    text
}

/// What is wrong with one name of a test, as the table has it.
fn fault(test: &str, cases: &str) -> Option<String> {
    if let Some(case) = test.strip_prefix("vm `") {
        let case = case.trim_end_matches('`');
        return (!cases.contains(&format!("name: \"{case}\"")))
            .then(|| format!("no machine {case}"));
    }
    let test = test.trim_matches('`');
    let Some((path, name)) = test.split_once("::") else { return Some(format!("what is {test}?")) };
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let Ok(text) = text else { return Some(format!("no file {path}")) };
    // The line before, or one before that with `#[ignore]` or the like, says that it is a test.
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| line.starts_with(&format!("fn {name}(")));
    let is_test = at.is_some_and(|at| {
        lines[..at]
            .iter()
            .rev()
            .take_while(|line| line.starts_with('#'))
            .any(|line| *line == "#[test]")
    });
    (!is_test).then(|| format!("no test {test}"))
}

#[test]
fn every_promise_names_tests_that_exist() {
    let (page, cases) = (top("format-spec/SECURITY.md"), cases());
    let promises = table(&page, "Promises");
    assert!(promises.len() > 25, "{}", promises.len());
    let mut wrong = Vec::new();
    for promise in &promises {
        let [what, _, tests] = promise.as_slice() else { panic!("{promise:?}") };
        let tests: Vec<&str> = tests.split(", ").collect();
        wrong.extend(
            tests.iter().filter_map(|test| fault(test, &cases)).map(|it| format!("{what}: {it}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Names that are not there are found out.
    assert!(fault("`tests/mount.rs::umount_ends_the_server`", &cases).is_none());
    for unreal in [
        "`tests/mount.rs::fill`",
        "`tests/mount.rs::umount_ends`",
        "`tests/nowhere.rs::a`",
        "vm `nothing`",
        "words",
    ] {
        assert!(fault(unreal, &cases).is_some(), "{unreal}");
    }
}

#[test]
fn every_crate_of_the_boot_binary_is_named() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--offline", "--package", "ashlarfs", "--no-default-features"])
        .args([
            "--features",
            "fuse,cli,boot,fec",
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
        ])
        .args(["--format", "{p}", "--target", "x86_64-unknown-linux-gnu"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let tree = String::from_utf8(output.stdout).unwrap();
    let linked: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "ashlarfs")
        .collect();
    let page = top("format-spec/SECURITY.md");
    let table = table(&page, "Dependencies");
    let named: BTreeSet<&str> = table.iter().flat_map(|row| row[0].split(", ")).collect();
    assert!(linked.len() > 20, "{tree}");
    let missing: Vec<_> = linked.difference(&named).collect();
    let gone: Vec<_> = named.difference(&linked).collect();
    assert!(missing.is_empty() && gone.is_empty(), "not named: {missing:?}; not linked: {gone:?}");
}

/// Runs a script as a user who is nobody.
fn as_nobody(script: &str, arguments: &[&str]) -> std::process::Output {
    Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script, "sh"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn open_to_all(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn permissions_of_the_image_hold_for_every_user() {
    limited("permissions_of_the_image_hold_for_every_user", 60, || {
        let image = Image::build(&[], |tree| {
            for (name, mode) in [("open", 0o644), ("closed", 0o600)] {
                fs::write(tree.join(name), name).unwrap();
                fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).unwrap();
            }
            fs::create_dir(tree.join("private")).unwrap();
            fs::write(tree.join("private/file"), "inside").unwrap();
            let closed = fs::Permissions::from_mode(0o700);
            fs::set_permissions(tree.join("private"), closed).unwrap();
        });
        open_to_all(image.directory.path());
        let mount = image.mount("");
        let point = text(&mount.point);
        let output = as_nobody(
            "cat $1/open; cat $1/closed && echo READ; cat $1/private/file && echo READ; ls $1/private && echo LISTED",
            &[point],
        );
        assert_eq!(String::from_utf8_lossy(&output.stdout), "open", "{output:?}");
        // Also when root has read them before, and the kernel has them.
        assert_eq!(fs::read(mount.point.join("closed")).unwrap(), b"closed");
        assert_eq!(fs::read(mount.point.join("private/file")).unwrap(), b"inside");
        let output = as_nobody("cat $1/closed $1/private/file; cat $1/open", &[point]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "open", "{output:?}");
    });
}

#[test]
fn values_for_root_are_not_shown_to_others() {
    limited("values_for_root_are_not_shown_to_others", 60, || {
        let probe = tempfile::tempdir().unwrap();
        let can = rustix::fs::setxattr(probe.path(), "trusted.probe", b"x", XattrFlags::empty());
        if can.is_err() || Command::new("getfattr").arg("--version").output().is_err() {
            eprintln!(
                "skipped: values_for_root_are_not_shown_to_others: no getfattr, or no trusted attributes here"
            );
            return;
        }
        let image = Image::build(&[], |tree| {
            fs::write(tree.join("file"), "").unwrap();
            for name in ["trusted.secret", "user.plain"] {
                let path = tree.join("file");
                rustix::fs::setxattr(path, name, b"value", XattrFlags::empty()).unwrap();
            }
        });
        open_to_all(image.directory.path());
        let mount = image.mount("");
        let file = mount.point.join("file");
        let mut names = [0; 200];
        let len = rustix::fs::listxattr(&file, &mut names).unwrap();
        let names = String::from_utf8_lossy(&names[..len]).into_owned();
        assert!(names.contains("trusted.secret"), "{names:?}");
        // The name may be told, for newer kernels do not say who asks for a list.
        let script = "getfattr --absolute-names -n user.plain $1; \
                      getfattr --absolute-names -n trusted.secret $1";
        let output = as_nobody(script, &[text(&file)]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(stdout.contains("plain=\"value\"") && !stdout.contains("secret"), "{output:?}");
    });
}

#[test]
fn another_user_cannot_answer_for_a_mount() {
    limited("another_user_cannot_answer_for_a_mount", 60, || {
        const IMPOSTOR: &str = "
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind('\\0' + sys.argv[1])
listener.listen()
print('ready', flush=True)
listener.settimeout(20)
client, _ = listener.accept()
client.sendall(b'{}')
";
        let image = Image::build(&[], |tree| fs::write(tree.join("file"), "").unwrap());
        let mount = image.mount("notakeover");
        let stat = rustix::fs::stat(&mount.point).unwrap();
        let device = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        // The name is free once the server is gone; the mount is still in the table.
        rustix::process::kill_process(mount.server, Signal::KILL).unwrap();
        assert!(within(Duration::from_secs(10), || !mount.server_lives()));
        let name = format!("ashlar/{}:{}", device.0, device.1);
        let mut impostor = Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "/usr/bin/python3",
                "-c",
                IMPOSTOR,
                &name,
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut word = [0; 6];
        std::io::Read::read_exact(impostor.stdout.as_mut().unwrap(), &mut word).unwrap();
        let output = ashlar(&["status", text(&mount.point)]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        impostor.wait().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert!(said.contains("65534") || said.contains("another user"), "{said}");
    });
}

/// A file that claims to be as long as it likes, and notes how much is asked of it at once. Behind its end there are zeros.
#[derive(Debug)]
struct Claim {
    bytes: Vec<u8>,
    len: u64,
    asked_max: AtomicU64,
}

impl Source for Claim {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.asked_max.fetch_max(u64::try_from(buf.len()).unwrap(), Ordering::Relaxed);
        for (at, byte) in (offset..).zip(buf) {
            *byte =
                usize::try_from(at).ok().and_then(|at| self.bytes.get(at)).copied().unwrap_or(0);
        }
        Ok(())
    }
}

#[test]
fn a_length_that_nobody_vouches_for_takes_no_memory() {
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let keys = vec![ashlarfs::trust::parse_key(key).unwrap()];
    let wrong = "00".repeat(32).parse().unwrap();
    let image = Image::build(&[], |tree| fs::write(tree.join("file"), noise(1, 100_000)).unwrap());
    let sound = fs::read(&image.path).unwrap();
    let open = |bytes: Vec<u8>, len: u64| {
        let claim = Arc::new(Claim { bytes, len, asked_max: AtomicU64::new(0) });
        for anchor in [Anchor::Keys(keys.clone()), Anchor::RootDigest(wrong)] {
            ashlarfs::open_source(Arc::<Claim>::clone(&claim), &Options::new(anchor)).unwrap_err();
        }
        claim.asked_max.load(Ordering::Relaxed)
    };
    // Numbers of the superblock.
    for at in (8..0x200).step_by(4) {
        for value in [u32::MAX, 1 << 31, 1 << 20] {
            let mut bytes = sound.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            for len in [4096, u64::try_from(bytes.len()).unwrap(), 1 << 50] {
                let asked = open(bytes.clone(), len);
                assert!(asked <= 4096, "{asked} bytes at once, with {value} at {at}");
            }
        }
    }
    // The head of the signatures behind it, whose bytes are the only ones that are read before anybody vouches for them.
    let longest = ashlarfs::format::trailer::LEN_MAX;
    for (len, asked_min) in [(u32::MAX, 0), (1 << 31, 0), (longest + 1, 0), (longest, longest)] {
        let mut bytes = sound.clone();
        bytes.extend(ashlarfs::format::trailer::MAGIC);
        bytes.extend(len.to_le_bytes());
        let asked = open(bytes, 1 << 50);
        assert!((u64::from(asked_min)..=u64::from(longest)).contains(&asked), "{asked} for {len}");
    }
}
