//! Who is given a shell, and when? Where somebody asks for it, or nothing can be booted; nobody, where `panic=` is.

use std::time::Duration;

use super::Case;
use crate::bench::Bench;
use crate::disk;
use crate::outcome::Result;
use crate::programs::Programs;
use crate::scene::{Init, Scene, small_tree};
use crate::typist::Answer;

/// See the head of this file.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "break",
        asks: "does `ashlar.break` give a shell, and the boot go on after it, but not with `panic=`?",
        quick: false,
        run: breaks,
    },
    Case {
        name: "no-initramfs-refused",
        asks: "without an initramfs: is there a shell when no image can be booted, but not with `panic=`?",
        quick: false,
        run: refused,
    },
];

/// What busybox's shell says when it is somebody's to type at, where there is no job control.
const IS_SHELL: &str = "job control turned off";
/// What it says before each line.
const PROMPT: &str = "# ";
/// How long a machine may stand still that would otherwise be at an end within a second.
const STILL: Duration = Duration::from_secs(10);

fn breaks(bench: &Bench<'_>) -> Result<()> {
    let mut scene = Scene::with_root(bench, "6.12", Init::Checks)?;
    let places: [(&str, &'static [Answer]); 2] = [
        ("setup", &[(PROMPT, "ls -d /newroot/images && echo a-shell-$((6 * 7)); exit\n")]),
        ("switch", &[(PROMPT, "ls -d /newroot/sbin/init && echo a-shell-$((6 * 7)); exit\n")]),
    ];
    for (place, typed) in places {
        (scene.panic, scene.typed) = ("", typed);
        let console = scene.boot(&format!("ashlar=root.img ashlar.break={place} vm.console"))?;
        console.says(&["a shell, because `ashlar.break` asks for one"])?.says(&["a-shell-42"])?;
        console.ended_well()?.spoke(&format!("ok {}", bench.name))?;
        scene.check_disk()?;
    }
    for panic in ["panic=1", "panic=0"] {
        (scene.panic, scene.typed) = (panic, &[]);
        let console = scene.boot("ashlar=root.img ashlar.break vm.console")?;
        console.says(&["no shell, because `panic=` is on the kernel command line"])?;
        console.never_says(IS_SHELL)?.ended_well()?.spoke(&format!("ok {}", bench.name))?;
    }
    Ok(())
}

/// The first program cannot go on, which is a panic of the kernel: that is what `panic=` is for.
fn refused(bench: &Bench<'_>) -> Result<()> {
    let mut scene = Scene::new(bench, "6.12")?;
    scene.has_initramfs = false;
    scene.trust("maker")?;
    scene.image("root", small_tree(bench, Init::Checks)?, None)?;
    // The shell is one of the data partition, where there is one.
    disk::directories(&scene.data, &["bin"])?;
    let (busybox, _) = Programs::busybox()?;
    disk::program(&scene.data.join("bin/sh"), &busybox)?;

    let words = "ashlar=root.img ro quiet";
    let why = ["ashlar: images/root.img is refused: "];
    for (panic, ends) in [("panic=1", true), ("panic=-1", true), ("panic=0", false)] {
        scene.panic = panic;
        let console = if ends {
            scene.boot(words)?
        } else {
            scene.boot_until(words, Some(("end Kernel panic", STILL)))?
        };
        if ends {
            console.ended()?
        } else {
            console.hung()?
        };
        console.says(&why)?.says(&["Kernel panic", "Attempted to kill init"])?;
        console.never_says(IS_SHELL)?;
        scene.check_disk()?;
    }

    scene.panic = "";
    // The first program must not end.
    scene.typed = &[(PROMPT, "echo a-shell-$((6 * 7)); echo o >/proc/sysrq-trigger; sleep 60\n")];
    let console = scene.boot(words)?;
    console.ended_well()?.says(&why)?.says(&[IS_SHELL])?.says(&["a-shell-42"])?;
    scene.check_disk()
}
