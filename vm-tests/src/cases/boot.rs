//! Does a root do all a root has to do, on each kernel, with an initramfs and without?

use std::fs;

use super::Case;
use crate::bench::Bench;
use crate::disk;
use crate::outcome::{Doing, Result, failed};
use crate::scene::{Init, Scene, small_tree};

/// See the head of this file.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "boot-6.1",
        asks: "does it boot on Linux 6.1, with FUSE as a module?",
        quick: false,
        run: |bench| boot(bench, "6.1"),
    },
    Case {
        name: "boot-6.12",
        asks: "does it boot on Linux 6.12?",
        quick: true,
        run: |bench| boot(bench, "6.12"),
    },
    Case {
        name: "boot-7",
        asks: "does it boot on the newest Linux?",
        quick: false,
        run: |bench| boot(bench, "7"),
    },
    Case {
        name: "no-initramfs",
        asks: "does it boot where the kernel starts the program itself?",
        quick: true,
        run: |bench| no_initramfs(bench, "6.12"),
    },
    Case {
        name: "no-initramfs-6.1",
        asks: "does it on Linux 6.1, with FUSE as a module on the data partition?",
        quick: false,
        run: |bench| no_initramfs(bench, "6.1"),
    },
    Case {
        name: "no-initramfs-7",
        asks: "does it on the newest Linux?",
        quick: false,
        run: |bench| no_initramfs(bench, "7"),
    },
    Case {
        name: "switch-root",
        asks: "does it where the program itself switches the root, and empties the initramfs and nothing else?",
        quick: false,
        run: switch_root,
    },
    Case {
        name: "slots",
        asks: "does `ashlar.slot=` choose among root.img, root.img.prev and root.img.new?",
        quick: false,
        run: slots,
    },
];

fn boot(bench: &Bench<'_>, kernel: &str) -> Result<()> {
    let scene = Scene::with_root(bench, kernel, Init::Checks)?;
    boots(&scene, bench)
}

fn no_initramfs(bench: &Bench<'_>, kernel: &str) -> Result<()> {
    let mut scene = Scene::with_root(bench, kernel, Init::Checks)?;
    scene.has_initramfs = false;
    boots(&scene, bench)
}

fn boots(scene: &Scene<'_>, bench: &Bench<'_>) -> Result<()> {
    let console = scene.boot("ashlar=root.img")?;
    console.ended_well()?.spoke(&format!("ok {}", bench.name))?;
    scene.check_disk()
}

fn switch_root(bench: &Bench<'_>) -> Result<()> {
    let scene = Scene::with_root(bench, "6.12", Init::Checks)?;
    let beside = "images/beside";
    fs::write(scene.data.join(beside), "stays\n").doing("cannot write a file")?;
    // What is emptied must be the initramfs alone, though all else is mounted in it, and may be written to.
    for overlay in ["no", "persistent"] {
        let checks = if overlay == "no" { "" } else { "vm.checks=daemon,told,emptied" };
        let console =
            scene.boot(&format!("ashlar=root.img vm.switch ashlar.overlay={overlay} {checks}"))?;
        console.ended_well()?.spoke(&format!("ok {}", bench.name))?;
        console.spoke("check emptied")?;
        scene.check_disk()?;
        for kept in ["images/root.img", beside, "var/note"] {
            if !disk::has(scene.disk()?, &format!("/{kept}"))? {
                return failed(format!("{kept} is gone from the data partition"));
            }
        }
    }
    Ok(())
}

fn slots(bench: &Bench<'_>) -> Result<()> {
    let mut scene = Scene::new(bench, "6.12")?;
    let secret = scene.trust("maker")?;
    for (slot, file) in
        [("current", "root.img"), ("previous", "root.img.prev"), ("next", "root.img.new")]
    {
        let mut tree = small_tree(bench, Init::Checks)?;
        tree.file("which", 0o644, format!("{slot}\n").as_bytes())?;
        scene.image(slot, tree, Some(&secret))?;
        fs::rename(scene.image_path(slot), scene.data.join(file)).doing("cannot move an image")?;
    }
    for (words, booted) in [
        ("", "current"),
        ("ashlar.slot=current", "current"),
        ("ashlar.slot=previous", "previous"),
        ("ashlar.slot=next", "next"),
        ("ashlar.slot=other", "current"),
    ] {
        let console = scene.boot(&format!("ashlar {words} vm.say=/which vm.checks=told"))?;
        console.ended_well()?.spoke(&format!("ok {}", bench.name))?;
        console.spoke(&format!("file /which: {booted}"))?;
        scene.check_disk()?;
    }
    Ok(())
}
