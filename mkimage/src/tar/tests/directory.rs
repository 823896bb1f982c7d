//! What the system's tar makes of a directory goes in; out comes what a scan of that directory finds.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use ashlarfs::format::inode::Kind;

use super::listed;
use crate::filter::Filter;
use crate::scan::{ScanOptions, scan};
use crate::testing::{Listing, Warnings, is_root, list};

/// Whatever the system's tar makes of a directory, it is the directory.
#[test]
fn archives_of_a_directory_are_that_directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o2775)).unwrap();
    let at = |name: &str| root.join(name);
    fs::write(at("d/file"), vec![5; 300_000]).unwrap();
    fs::hard_link(at("d/file"), at("again")).unwrap();
    fs::write(at(&"n".repeat(255)), b"").unwrap();
    fs::write(at("d/new\nline"), b"x").unwrap();
    symlink("t".repeat(200), at("link")).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    for nth in 0..30 {
        sparse.write_all_at(b"piece", nth * 100_000).unwrap();
    }
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let xattrs =
        rustix::fs::lsetxattr(at("d/file"), "user.a=b%", b"v\n", rustix::fs::XattrFlags::empty())
            .is_ok();
    let acls = xattrs
        && is_root()
        && [&["-m", "u:1000:rw,g:50:r"][..], &["-d", "-m", "u:root:rwx"]]
            .iter()
            .zip(["d/file", "d/e"])
            .all(|(args, name)| {
                Command::new("setfacl")
                    .args(*args)
                    .arg(at(name))
                    .status()
                    .is_ok_and(|status| status.success())
            });
    if is_root() {
        let device = rustix::fs::makedev(4095, 1_048_575);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, at("tty"), kind, rustix::fs::Mode::RUSR, device)
            .unwrap();
        std::os::unix::fs::chown(at("sparse"), Some(4_000_000_000), Some(3_000_000_000)).unwrap();
    }
    let filter = Filter::default();
    let options = ScanOptions {
        filter: &filter,
        one_file_system: false,
        xattrs: true,
        image: std::path::Path::new("/nowhere/image"),
        ignore_changed: false,
        workers: 2,
    };
    let (tree, contents) = scan(&root, &options, &Warnings::default()).unwrap();
    let expected = list(&tree, &contents);
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o2775);
    let runs: [&[&str]; 5] = [
        &["--format=posix", "--xattrs", "--xattrs-include=*"],
        &["--format=posix", "--xattrs", "--acls", "--sparse"],
        &["--format=posix", "--xattrs", "--acls", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--xattrs", "--acls", "--sparse", "--sparse-version=0.1"],
        &["--format=gnu", "--sparse"],
    ];
    for args in runs {
        if !acls && args.contains(&"--acls") {
            eprintln!("skipped: ACLs cannot be set here");
            continue;
        }
        let mut command = Command::new("tar");
        command.args(args).args(["--numeric-owner", "-cf", "-", "-C"]).arg(&root).arg(".");
        let Ok(made) = command.output() else {
            eprintln!("skipped: there is no `tar` here");
            return;
        };
        assert!(made.status.success(), "{made:?}");
        let found = listed(&made.stdout);
        if args.contains(&"--format=gnu") {
            // That format has whole seconds and no attributes.
            let rough = |listing: &Listing| -> Vec<String> {
                listing
                    .iter()
                    .map(|(path, line)| {
                        let (head, rest) = line.split_once('.').unwrap();
                        let rest = rest[9..].rsplit_once(['S', 'N']).unwrap().0;
                        format!("{path} {head} {rest}")
                    })
                    .collect()
            };
            assert_eq!(rough(&found), rough(&expected));
        } else {
            assert_eq!(found, expected, "{args:?}");
        }
    }
    assert_eq!(tree.nodes.iter().filter(|node| node.kind == Kind::Dir).count(), 3);
}
