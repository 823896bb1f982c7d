//! Is what is read recorded, does `mkimage --order` understand it, and is what it lists there before anybody asks?

#[path = "support/mount.rs"]
mod mount;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mount::{ASHLAR, Image, Mount, limited, noise, text, within};

const FILES: u64 = 40;

fn fill(tree: &Path) {
    fs::create_dir(tree.join("many")).unwrap();
    for n in 0..FILES {
        fs::write(tree.join(format!("many/{n:03}")), noise(n, 3000)).unwrap();
    }
    fs::write(tree.join("large"), noise(1000, 600_000)).unwrap();
    fs::write(tree.join("odd name"), noise(1001, 100)).unwrap();
}

fn mount_with_trace(image: &Image, trace: &str, point: &Path) -> Output {
    Command::new(ASHLAR)
        .args(["mount", "--record-trace", trace, "--root-digest", &image.digest])
        .args([&image.path, point])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Mounts with a trace, reads, and returns the trace without its head.
fn record(image: &Image, read: impl FnOnce(&Path)) -> (PathBuf, Vec<String>) {
    let trace = image.directory.path().join("trace");
    let point = image.mountpoint("mnt");
    assert!(mount_with_trace(image, text(&trace), &point).status.success());
    let mount = Mount::found(point);
    read(&mount.point);
    mount.umount();
    assert!(mount.server_ends());
    let lines = fs::read_to_string(&trace).unwrap();
    let lines = lines.strip_prefix("ashlar trace 1\n").unwrap().lines();
    (trace, lines.map(str::to_owned).collect())
}

#[test]
fn what_is_read_is_written_down_in_order() {
    limited("what_is_read_is_written_down_in_order", 60, || {
        let image = Image::build(&["-b", "16K"], fill);
        let (_, lines) = record(&image, |point| {
            assert_eq!(fs::read(point.join("odd name")).unwrap(), noise(1001, 100));
            assert_eq!(fs::read(point.join("many/007")).unwrap(), noise(7, 3000));
            // Listed, and so known to the kernel without a lookup.
            for entry in fs::read_dir(point.join("many")).unwrap() {
                entry.unwrap().metadata().unwrap();
            }
            fs::read(point.join("many/003")).unwrap();
            fs::read(point.join("large")).unwrap();
            fs::read(point.join("many/007")).unwrap();
        });
        assert_eq!(lines[..3], ["0 100 /odd name", "0 3000 /many/007", "0 3000 /many/003"]);
        let rest: Vec<_> = lines[3..].iter().map(|line| line.split_once(" /large")).collect();
        assert!(
            rest.iter().all(Option::is_some),
            "the second read of 007 is the kernel's: {lines:?}"
        );
        let bytes = rest.iter().map(|line| {
            let (_, len) = line.unwrap().0.split_once(' ').unwrap();
            len.parse::<u64>().unwrap()
        });
        assert_eq!(bytes.sum::<u64>(), 600_000);
    });
}

#[test]
fn a_traced_image_has_its_blocks_before_anybody_asks() {
    limited("a_traced_image_has_its_blocks_before_anybody_asks", 120, || {
        // Every fourth small file, and some of the large one: spread over all blocks of the first image.
        let read = |point: &Path| {
            for n in (0..FILES).step_by(4) {
                assert_eq!(fs::read(point.join(format!("many/{n:03}"))).unwrap(), noise(n, 3000));
            }
            assert_eq!(fs::read(point.join("large")).unwrap(), noise(1000, 600_000));
        };
        let image = Image::build(&["-b", "16K"], fill);
        let (trace, _) = record(&image, read);
        let traced = Image::build(&["-b", "16K", "--order", text(&trace)], fill);
        let mount = traced.mount("");
        // Names are no content: they are looked up first.
        for n in (0..FILES).step_by(4) {
            fs::metadata(mount.point.join(format!("many/{n:03}"))).unwrap();
        }
        fs::metadata(mount.point.join("large")).unwrap();
        let verified = || mount.status()["blocks_verified"].as_u64().unwrap();
        // 36 full blocks of the large file; its rest and ten small files share three more; and the list, inodes and names.
        assert!(within(Duration::from_secs(20), || verified() >= 42), "{}", mount.status());
        let before = mount.status();
        read(&mount.point);
        let after = mount.status();
        let count = |status: &serde_json::Value| status["blocks_verified"].as_u64().unwrap();
        let more = count(&after) - count(&before);
        // Whoever reads in order has one more expanded ahead, which nobody wants here.
        assert!(more <= 2, "{more} blocks had to be expanded");
        assert!(after["upcalls"]["read"].as_u64() > before["upcalls"]["read"].as_u64());
    });
}

#[test]
fn the_image_is_no_place_for_its_trace() {
    limited("the_image_is_no_place_for_its_trace", 60, || {
        let image = Image::build(&[], fill);
        let before = fs::read(&image.path).unwrap();
        let point = image.mountpoint("mnt");
        for (trace, why) in
            [(text(&image.path), "the image itself"), ("/dev/null", "no regular file")]
        {
            let output = mount_with_trace(&image, trace, &point);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && stderr.contains(why), "{stderr}");
            assert!(!mount::is_mounted(&point));
        }
        assert_eq!(fs::read(&image.path).unwrap(), before);
    });
}

#[test]
fn a_trace_that_cannot_be_written_mounts_nothing() {
    limited("a_trace_that_cannot_be_written_mounts_nothing", 60, || {
        let image = Image::build(&[], fill);
        let point = image.mountpoint("mnt");
        let output = mount_with_trace(&image, "/nowhere/trace", &point);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(stderr.contains("cannot write the trace /nowhere/trace"), "{stderr}");
        assert!(!mount::is_mounted(&point));
    });
}
