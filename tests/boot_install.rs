//! Does `boot install` write what it should and nothing else, and does `boot uninstall` take all of it away?

#[path = "support/tree.rs"]
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tree::{Ran, ashlar, set_mode};

/// A tree to install into, and a static program: its header, at least.
struct Work {
    _dir: tempfile::TempDir,
    root: PathBuf,
    binary: PathBuf,
}

impl Work {
    fn new(directories: &[&str]) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        for directory in directories {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let binary = dir.path().join("program");
        fs::write(&binary, program(0)).unwrap();
        Work { _dir: dir, root, binary }
    }

    /// A Debian, by what tells one.
    fn debian() -> Self {
        let work = Work::new(&["usr/share/initramfs-tools/hooks", "usr/lib/systemd/system", "etc"]);
        fs::write(work.root.join("usr/lib/systemd/systemd"), "").unwrap();
        work
    }

    fn run(&self, command: &str, options: &[&str]) -> Ran {
        let mut args = vec!["boot", command, "--root", self.root.to_str().unwrap()];
        if command == "install" && !options.contains(&"--binary") {
            args.extend(["--binary", self.binary.to_str().unwrap()]);
        }
        args.extend(options);
        ashlar(args)
    }

    fn done(&self, command: &str, options: &[&str]) -> String {
        let ran = self.run(command, options);
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{command} {options:?}");
        ran.text().to_owned()
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.root.join(path)).unwrap().permissions().mode() & 0o7777
    }
}

/// All that a tree holds, but for times.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut stack = vec![root.to_owned()];
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let content = if metadata.is_dir() {
                stack.push(path.clone());
                Vec::new()
            } else if metadata.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_vec()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path, (metadata.permissions().mode(), content));
        }
    }
    found
}

/// The header of a static ELF program; `version` is nothing but a difference.
fn program(version: u8) -> Vec<u8> {
    let mut program = vec![0; 64];
    program[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    program[8] = version;
    program
}

#[test]
fn installs_what_the_tree_has_use_for_and_removes_it() {
    let work = Work::debian();
    let before = snapshot(&work.root);
    let said = work.done("install", &[]);
    assert!(said.starts_with("parts: program, initramfs-tools, systemd\n"), "{said}");
    assert!(said.contains("next: update-initramfs -u -k all\n"), "{said}");
    for (path, mode) in [
        ("usr/lib/ashlar/ashlar", 0o755),
        ("usr/share/initramfs-tools/hooks/ashlar", 0o755),
        ("usr/share/initramfs-tools/scripts/local-bottom/ashlar", 0o755),
        ("usr/lib/systemd/system/initrd-root-fs.target.requires/ashlar-root.service", 0o644),
        ("usr/lib/systemd/system-generators/ashlar-generator", 0o755),
        ("usr/lib/systemd/system/emergency.service.d/50-ashlar.conf", 0o644),
    ] {
        assert_eq!(work.mode(path), mode, "{path}");
    }
    assert!(!work.root.join("usr/lib/dracut").exists());
    assert_eq!(fs::read(work.root.join("usr/lib/ashlar/ashlar")).unwrap(), program(0));

    let after = snapshot(&work.root);
    let said = work.done("install", &[]);
    assert!(said.contains("unchanged ") && !said.contains("write "), "{said}");
    assert_eq!(snapshot(&work.root), after);

    work.done("uninstall", &[]);
    assert_eq!(snapshot(&work.root), before);
    // Nothing left to do is no failure.
    assert_eq!(work.done("uninstall", &[]).lines().count(), 1);
}

#[test]
fn each_part_is_whole_by_itself_and_leaves_nothing() {
    for part in ["--initramfs-tools", "--dracut", "--mkinitcpio", "--systemd", "--selinux"] {
        let work = Work::new(&["usr"]);
        let before = snapshot(&work.root);
        work.done("install", &[part]);
        work.done("uninstall", &[]);
        assert_eq!(snapshot(&work.root), before, "{part}");
    }
}

#[test]
fn parts_go_one_by_one_and_what_others_need_stays() {
    let work = Work::new(&["usr"]);
    work.done("install", &["--dracut"]);
    let only_dracut = snapshot(&work.root);
    work.done("install", &["--systemd", "--mkinitcpio"]);
    work.done("uninstall", &["--systemd"]);
    assert!(work.root.join("usr/lib/ashlar/panic").exists());
    assert!(work.root.join("usr/lib/systemd/system/ashlar-root.service").exists());
    assert!(!work.root.join("usr/lib/systemd/system-generators").exists());
    work.done("uninstall", &["--mkinitcpio"]);
    assert_eq!(snapshot(&work.root), only_dracut);
}

#[test]
fn a_lost_record_is_no_obstacle() {
    let work = Work::new(&["usr"]);
    let before = snapshot(&work.root);
    work.done("install", &["--dracut"]);
    fs::remove_file(work.root.join("usr/lib/ashlar/installed")).unwrap();
    let said = work.done("install", &["--dracut"]);
    assert!(!said.contains("write "), "{said}");
    fs::remove_file(work.root.join("usr/lib/ashlar/installed")).unwrap();
    work.done("uninstall", &[]);
    // The program cannot be told from another's without a record.
    assert!(work.root.join("usr/lib/ashlar/ashlar").exists());
    assert!(!work.root.join("usr/lib/dracut/modules.d/90ashlar").exists());
    assert_ne!(snapshot(&work.root), before);
}

#[test]
fn files_of_others_are_not_touched() {
    let work = Work::debian();
    let hook = work.root.join("usr/share/initramfs-tools/hooks/ashlar");
    fs::write(&hook, "mine\n").unwrap();
    let before = snapshot(&work.root);
    for options in [&[][..], &["--dry-run"]] {
        let ran = work.run("install", options);
        assert_eq!(ran.status, 1);
        assert!(
            ran.err.contains("not written by this program") && ran.err.contains("hooks/ashlar")
        );
        assert!(ran.err.contains("ashlar: hint: ") && ran.err.contains("--force"), "{}", ran.err);
        assert_eq!(snapshot(&work.root), before, "nothing at all may be written");
    }
    let said = work.done("install", &["--force"]);
    assert!(said.contains(&format!("replace   {}\n", hook.display())), "{said}");

    // What was changed since stays, and is told of.
    fs::write(&hook, "changed\n").unwrap();
    let said = work.done("uninstall", &[]);
    assert!(said.contains(&format!("keep      {} (changed", hook.display())), "{said}");
    assert_eq!(fs::read(&hook).unwrap(), b"changed\n");
    assert!(!work.root.join("usr/lib/ashlar").exists());

    // A directory is never replaced.
    fs::remove_file(&hook).unwrap();
    fs::create_dir(&hook).unwrap();
    assert_eq!(work.run("install", &["--force"]).status, 1);
}

#[test]
fn a_newer_version_replaces_what_an_older_one_wrote() {
    let work = Work::debian();
    work.done("install", &[]);
    // As if the older one had carried another hook.
    let hook = work.root.join("usr/share/initramfs-tools/hooks/ashlar");
    let record = work.root.join("usr/lib/ashlar/installed");
    let text = fs::read_to_string(&record).unwrap();
    let digest = |content: &[u8]| blake3::hash(content).to_hex().to_string();
    let text = text.replace(&digest(&fs::read(&hook).unwrap()), &digest(b"older\n"));
    fs::write(&record, text).unwrap();
    fs::write(&hook, "older\n").unwrap();
    fs::write(&work.binary, program(1)).unwrap();
    let said = work.done("install", &[]);
    assert_eq!(said.matches("replace ").count(), 2, "{said}");
    assert_eq!(fs::read(work.root.join("usr/lib/ashlar/ashlar")).unwrap(), program(1));
}

#[test]
fn a_dry_run_changes_nothing() {
    let work = Work::debian();
    let before = snapshot(&work.root);
    let said = work.done("install", &["--dry-run"]);
    assert!(said.contains("write ") && said.contains("nothing was done"), "{said}");
    assert_eq!(snapshot(&work.root), before);
    work.done("install", &[]);
    let before = snapshot(&work.root);
    assert!(work.done("uninstall", &["--dry-run"]).contains("remove "));
    assert_eq!(snapshot(&work.root), before);
}

#[test]
fn a_program_that_needs_libraries_is_refused() {
    let work = Work::debian();
    let dynamic = env!("CARGO_BIN_EXE_ashlar");
    let ran = work.run("install", &["--binary", dynamic]);
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("is no static program: it needs /"), "{}", ran.err);
    assert!(ran.err.contains("cargo boot-binary"), "{}", ran.err);
    assert!(!work.root.join("usr/lib/ashlar").exists());
    work.done("install", &["--binary", dynamic, "--allow-dynamic"]);
    assert_eq!(work.mode("usr/lib/ashlar/ashlar"), 0o755);

    fs::write(&work.binary, "#!/bin/sh\n").unwrap();
    assert!(work.run("install", &[]).err.contains("is no program"));
}

#[test]
fn keys_are_read_before_they_are_copied() {
    let work = Work::debian();
    let before = snapshot(&work.root);
    let key = work.root.parent().unwrap().join("key");
    let key = key.to_str().unwrap();
    assert_eq!(ashlar(vec!["key", "generate", "--no-password", key]).status, 0);
    assert_eq!(work.run("install", &["--key", key]).status, 1, "a secret key goes nowhere");
    assert_eq!(snapshot(&work.root), before);
    work.done("install", &["--key", &format!("{key}.pub")]);
    let installed = work.root.join("etc/ashlar/keys/key.pub");
    assert_eq!(fs::read(installed).unwrap(), fs::read(format!("{key}.pub")).unwrap());
    assert_eq!(work.mode("etc/ashlar/keys/key.pub"), 0o644);
    work.done("uninstall", &[]);
    assert_eq!(snapshot(&work.root), before);
}

#[test]
fn symlinks_lead_nowhere_outside() {
    let work = Work::new(&["usr/share", "inside/systemd", "etc"]);
    let outside = work.root.parent().unwrap().join("outside");
    fs::create_dir_all(outside.join("lib")).unwrap();
    // Seen from the tree, this is a path of its own.
    symlink(&outside, work.root.join("usr/lib")).unwrap();
    let ran = work.run("install", &["--systemd"]);
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("usr/lib is no directory inside of the root"), "{}", ran.err);
    assert_eq!(fs::read_dir(outside.join("lib")).unwrap().count(), 0);

    fs::remove_file(work.root.join("usr/lib")).unwrap();
    symlink("../../../outside/lib", work.root.join("usr/lib")).unwrap();
    assert_eq!(work.run("install", &["--systemd"]).status, 1);
    assert_eq!(fs::read_dir(outside.join("lib")).unwrap().count(), 0);

    // One that stays inside is followed, and an absolute one starts at the tree's root.
    fs::remove_file(work.root.join("usr/lib")).unwrap();
    symlink("/inside", work.root.join("usr/lib")).unwrap();
    work.done("install", &["--systemd"]);
    assert!(work.root.join("inside/systemd/system/ashlar-root.service").exists());

    // The file itself is a symlink to somewhere: it is replaced or refused, never written through.
    let unit = work.root.join("inside/systemd/system/ashlar-root.service");
    let victim = outside.join("victim");
    fs::write(&victim, "victim").unwrap();
    fs::remove_file(&unit).unwrap();
    symlink(&victim, &unit).unwrap();
    assert_eq!(work.run("install", &["--systemd"]).status, 1);
    work.done("install", &["--systemd", "--force"]);
    assert_eq!(fs::read(&victim).unwrap(), b"victim");
    assert!(unit.symlink_metadata().unwrap().is_file());
}

#[test]
fn a_data_partition_is_prepared() {
    let work = Work::new(&[]);
    let before = snapshot(&work.root);
    let modules = work.root.parent().unwrap().join("6.1.0");
    fs::create_dir_all(modules.join("kernel")).unwrap();
    fs::write(modules.join("modules.dep"), "kernel/fuse.ko:\nkernel/x.ko:\n").unwrap();
    fs::write(modules.join("kernel/fuse.ko"), "module").unwrap();
    let said = work.done("install", &["--trampoline", "--modules", modules.to_str().unwrap()]);
    assert!(said.contains("init=/ashlar/init"), "{said}");
    assert_eq!(work.mode("ashlar/init"), 0o755);
    for directory in ["dev", "proc", "sys", "run", "newroot", "images", "state"] {
        assert!(work.root.join(directory).is_dir(), "{directory}");
    }
    assert_eq!(fs::read(work.root.join("lib/modules/6.1.0/kernel/fuse.ko")).unwrap(), b"module");
    assert!(!work.root.join("usr").exists());
    // What was put there since stays.
    fs::write(work.root.join("images/root.img"), "").unwrap();
    work.done("uninstall", &["--trampoline"]);
    fs::remove_file(work.root.join("images/root.img")).unwrap();
    fs::remove_dir(work.root.join("images")).unwrap();
    assert_eq!(snapshot(&work.root), before);

    assert_eq!(work.run("install", &["--trampoline", "--dracut"]).status, 2);
    assert_eq!(ashlar(vec!["boot", "install", "--trampoline"]).status, 2, "needs --root");
}

#[test]
fn says_what_is_wrong() {
    let work = Work::new(&["usr"]);
    let ran = work.run("install", &[]);
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("makes an initramfs") && ran.err.contains("--dracut"), "{}", ran.err);
    let ran = ashlar(vec!["boot", "install", "--dracut", "--root", "/nowhere/at/all"]);
    assert!(ran.err.contains("cannot open /nowhere/at/all: "), "{}", ran.err);

    let said = work.done("install", &["--selinux", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["parts"], serde_json::json!(["program", "selinux"]));
    let steps = report["steps"].as_array().unwrap();
    assert!(
        steps
            .iter()
            .any(|step| step["path"] == "/usr/lib/ashlar/ashlar" && step["action"] == "write")
    );
}

#[test]
fn a_masked_umask_hides_nothing() {
    let work = Work::new(&["usr"]);
    set_mode(&work.root, 0o755);
    let status = Command::new("sh")
        .args(["-c", "umask 077; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_ashlar")])
        .args(["boot", "install", "--dracut", "--binary"])
        .args([&work.binary, Path::new("--root"), &work.root])
        .output()
        .unwrap()
        .status;
    assert!(status.success());
    assert_eq!(work.mode("usr/lib/dracut/modules.d/90ashlar"), 0o755);
    assert_eq!(work.mode("usr/lib/dracut/modules.d/90ashlar/ashlar-root.service"), 0o644);
}

/// Every script is looked over by the shell that it is for; shellcheck sees more, where it is at hand.
#[test]
fn scripts_parse() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/integration/files");
    let posix = [
        "panic",
        "initramfs-tools/hooks/ashlar",
        "initramfs-tools/scripts/local-bottom/ashlar",
        "dracut/90ashlar/ashlar-mount.sh",
        "dracut/90ashlar/ashlar-emergency.sh",
        "mkinitcpio/hooks/ashlar",
        "systemd/ashlar-generator",
    ];
    let bash = ["dracut/90ashlar/module-setup.sh", "mkinitcpio/install/ashlar"];
    let has_shellcheck = Command::new("shellcheck").arg("--version").output().is_ok();
    for (shell, scripts) in [("sh", &posix[..]), ("bash", &bash[..])] {
        for script in scripts {
            let path = files.join(script);
            let parsed = Command::new(shell).arg("-n").arg(&path).output().unwrap();
            assert!(
                parsed.status.success(),
                "{script}: {}",
                String::from_utf8_lossy(&parsed.stderr)
            );
            if has_shellcheck {
                let shell = if shell == "sh" { "dash" } else { shell };
                let seen =
                    Command::new("shellcheck").args(["-s", shell]).arg(&path).output().unwrap();
                assert!(
                    seen.status.success(),
                    "{script}: {}",
                    String::from_utf8_lossy(&seen.stdout)
                );
            }
        }
    }
}

/// What the generator writes, by path below its three directories.
fn generated(report: Option<&str>, mounts: &str) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [report_path, mounts_path] = ["boot.json", "mounts"].map(|name| dir.path().join(name));
    if let Some(report) = report {
        fs::write(&report_path, report).unwrap();
    }
    fs::write(&mounts_path, mounts).unwrap();
    let out = dir.path().join("out");
    let directories = ["normal", "early", "late"].map(|name| out.join(name));
    for directory in &directories {
        fs::create_dir_all(directory).unwrap();
    }
    let ran = Command::new("sh")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(GENERATOR))
        .args(&directories)
        .args([report_path, mounts_path])
        .output()
        .unwrap();
    assert!(ran.status.success() && ran.stderr.is_empty() && ran.stdout.is_empty(), "{ran:?}");
    let files = snapshot(&out).into_iter().filter(|(path, _)| !path.is_dir() || path.is_symlink());
    files
        .map(|(path, (_, content))| {
            let path = path.strip_prefix(&out).unwrap().to_str().unwrap().to_owned();
            (path, String::from_utf8(content).unwrap())
        })
        .collect()
}

const GENERATOR: &str = "src/integration/files/systemd/ashlar-generator";

#[test]
fn the_generator_changes_units_on_a_root_of_ours_only() {
    let bound = "/dev/vda1 / fuse.ashlar ro 0 0\n/dev/vda1 /var ext4 rw,relatime 0 0\n/dev/vdb /var/x ext4 rw 0 0\n";
    assert_eq!(generated(None, bound), BTreeMap::new());
    let early = [
        ("soft-reboot.target", "/dev/null"),
        ("systemd-soft-reboot.service", "/dev/null"),
        ("init.scope.d/50-ashlar.conf", "[Scope]\nManagedOOMPreference=omit\n"),
        (
            "systemd-growfs-root.service.d/50-ashlar.conf",
            "[Service]\nExecStart=\nExecStart=/usr/lib/systemd/systemd-growfs /run/initramfs/ashlar/data\n",
        ),
        (
            "systemd-remount-fs.service.d/60-ashlar.conf",
            "[Service]\nUnsetEnvironment=SYSTEMD_REMOUNT_ROOT_RW\n",
        ),
    ];
    let late = [
        (
            "multi-user.target.wants/ashlar-bless.service",
            "/usr/lib/systemd/system/ashlar-bless.service",
        ),
        ("timers.target.wants/ashlar-scrub.timer", "/usr/lib/systemd/system/ashlar-scrub.timer"),
        (
            "boot-complete.target.d/50-ashlar.conf",
            "[Unit]\nOnFailure=ashlar-unhealthy.service\nOnFailureJobMode=replace-irreversibly\n",
        ),
    ];
    let in_directory = |directory: &'static str| {
        move |(path, text): (&str, &str)| (format!("{directory}/{path}"), text.to_owned())
    };
    let always: BTreeMap<_, _> = early
        .map(in_directory("early"))
        .into_iter()
        .chain(late.map(in_directory("late")))
        .collect();
    let with_var = |mount: &str| {
        let unit = "[Unit]\nDescription=State of this machine\nDefaultDependencies=no\n\n[Mount]\n";
        let mut files = always.clone();
        files.insert("late/var.mount".to_owned(), format!("{unit}{mount}"));
        files
    };
    let expected = with_var("What=tmpfs\nWhere=/var\nType=tmpfs\nOptions=mode=755\n");
    assert_eq!(generated(Some("{}"), "tmpfs /var tmpfs rw,mode=755 0 0\n"), expected);
    let data = "/run/initramfs/ashlar/data/var";
    let expected = with_var(&format!("What={data}\nWhere=/var\nType=none\nOptions=bind\n"));
    assert_eq!(generated(Some("{}"), bound), expected);
    // The image's own.
    assert_eq!(generated(Some("{}"), "/dev/vda1 / fuse.ashlar ro 0 0\n"), always);
}
