//! What does a failing disk cost? Only what lies where it fails.
//!
//! The disk is an image itself: a damaged block of it gives EIO to whoever reads there, which is what a bad sector does.

#[path = "support/mount.rs"]
mod mount;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mount::{Image, Mount, ashlar, limited, noise, text};

/// As every Linux has it.
const EIO: i32 = 5;
const FILES: usize = 40;
const FILE_LEN: usize = 150_000;

fn content(n: usize) -> Vec<u8> {
    noise(n as u64, FILE_LEN)
}

/// How many files are right, and how many cannot be read for an I/O error; anything else fails.
fn read_all(point: &Path, context: &str) -> (usize, usize) {
    let (mut right, mut failed) = (0, 0);
    for n in 0..FILES {
        match fs::read(point.join(format!("file {n}"))) {
            Ok(found) => {
                assert!(found == content(n), "{context}: file {n} has wrong bytes");
                right += 1;
            }
            Err(err) => {
                assert_eq!(err.raw_os_error(), Some(EIO), "{context}: file {n}: {err}");
                failed += 1;
            }
        }
    }
    (right, failed)
}

#[test]
fn a_bad_sector_costs_the_files_on_it() {
    limited("a_bad_sector_costs_the_files_on_it", 120, || {
        let inner = Image::build(&[], |tree| {
            for n in 0..FILES {
                fs::write(tree.join(format!("file {n}")), content(n)).unwrap();
            }
        });
        // Noise is stored as it is, so byte x of the inner image is byte 4096 + x of the disk.
        let disk = Image::build(&["-b", "4K"], |tree| {
            fs::copy(&inner.path, tree.join("inner.img")).unwrap();
        });
        let len = fs::metadata(&inner.path).unwrap().len();
        let file = fs::File::options().write(true).open(&disk.path).unwrap();
        for part in 1..4 {
            file.write_all_at(b"bad sector", 4096 + len / 5 * part).unwrap();
        }
        let disk_mount = disk.mount("cachesize=4M");
        let on_disk = disk_mount.point.join("inner.img");
        for method in ["mmap", "pread"] {
            let point = inner.mountpoint(method);
            let options = format!("root_digest={},method={method},cachesize=4M", inner.digest);
            let output = ashlar(&["mount", "-o", &options, text(&on_disk), text(&point)]);
            assert!(output.status.success(), "{output:?}");
            let mount = Mount::found(point);
            for round in 0..2 {
                let (right, failed) = read_all(&mount.point, &format!("{method}, round {round}"));
                assert!((3..=6).contains(&failed), "{method}: {right} right, {failed} failed");
            }
            assert!(mount.server_lives());
            assert!(mount.status()["failures"].as_u64().unwrap() > 0);
            mount.umount();
            assert!(mount.server_ends());
        }
    });
}
