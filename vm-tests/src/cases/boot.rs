//! Does a root do all a root has to do, on each kernel, with an initramfs and without?

use super::Case;
use crate::bench::Bench;
use crate::outcome::Result;
use crate::scene::{Init, Scene};

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
