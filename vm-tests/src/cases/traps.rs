//! Does it survive what kills a root on FUSE? Each case shows the cure at work, and that it fails without the cure.

use std::time::Duration;

use super::Case;
use crate::bench::Bench;
use crate::outcome::Result;
use crate::qemu::SPOKEN;
use crate::scene::{Init, Scene};

/// See the head of this file.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "kill-spree",
        asks: "does PID 1 get along while the server is stopped, through a whole shutdown?",
        quick: true,
        run: |bench| kill_spree(bench, "6.12"),
    },
    Case {
        name: "kill-spree-6.1",
        asks: "does it on Linux 6.1?",
        quick: false,
        run: |bench| kill_spree(bench, "6.1"),
    },
    Case {
        name: "kill-spree-7",
        asks: "does it on the newest Linux?",
        quick: false,
        run: |bench| kill_spree(bench, "7"),
    },
    Case {
        name: "force-umount",
        asks: "does / answer after everything else was unmounted by force?",
        quick: false,
        run: |bench| force_umount(bench, "6.12"),
    },
    Case {
        name: "force-umount-7",
        asks: "does it on the newest Linux?",
        quick: false,
        run: |bench| force_umount(bench, "7"),
    },
    Case {
        name: "pivot-root",
        asks: "does the server stay where it is when / is switched by pivot_root?",
        quick: false,
        run: pivot_root,
    },
];

/// How long a machine may stand still that needs a second at most where it goes on.
const STILL: Duration = Duration::from_secs(12);

/// A whole shutdown, as systemd-shutdown does it.
fn kill_spree(bench: &Bench<'_>, kernel: &str) -> Result<()> {
    let mut scene = Scene::with_root(bench, kernel, Init::Steps)?;
    for overlay in ["no", "tmpfs"] {
        let steps = "vm.steps=daemon,confined,fresh:0,succeed,confined,fresh:20,spree,fresh:4,amnesia,terminate,daemon,\
                     fresh:8,force,fresh:12,readonly,confined,fresh:16";
        let console = scene.boot(&format!("ashlar=root.img ashlar.overlay={overlay} {steps}"))?;
        console.ended_well()?.spoke(&format!("ok {}", bench.name))?;
        console.never_says("the server could not")?.never_says("the server is not as")?;
        scene.check_disk()?;
    }
    let words = "ashlar=root.img ashlar.confine=no vm.steps=fresh:0,confined";
    scene.boot(words)?.says(&["fail confined: "])?;
    bench.programs.uncured_ashlar()?.clone_into(&mut scene.ashlar);
    // Names that expire after a second are asked for again, and the one who would answer is stopped. So it is when they
    // were forgotten.
    for (without, step) in [("ttl,resume", "spree"), ("resume", "amnesia")] {
        let words =
            format!("ashlar=root.img ashlar.without={without} vm.steps=fresh:0,{step},fresh:4");
        scene.boot_until(&words, Some((&format!("{SPOKEN}step {step}"), STILL)))?.hung()?;
    }
    // Each is a cure of the former by itself.
    for without in ["ttl", "resume"] {
        let words =
            format!("ashlar=root.img ashlar.without={without} vm.steps=fresh:0,spree,fresh:4");
        scene.boot(&words)?.ended_well()?.spoke(&format!("ok {}", bench.name))?;
    }
    Ok(())
}

fn force_umount(bench: &Bench<'_>, kernel: &str) -> Result<()> {
    let mut scene = Scene::with_root(bench, kernel, Init::Steps)?;
    for overlay in ["no", "tmpfs"] {
        let words = format!(
            "ashlar=root.img ashlar.overlay={overlay} vm.steps=fresh:0,force,fresh:4,daemon,readonly"
        );
        scene.boot(&words)?.ended_well()?.spoke(&format!("ok {}", bench.name))?;
        scene.check_disk()?;
    }
    // What the server serves, in a place that a shutdown unmounts, as overlayroot has it.
    bench.programs.uncured_ashlar()?.clone_into(&mut scene.ashlar);
    let words =
        "ashlar=root.img ashlar.overlay=tmpfs ashlar.without=lower vm.steps=fresh:0,force,fresh:4";
    let console = scene.boot(words)?;
    console.spoke("step force")?.says(&["fail fresh:4"])?;
    Ok(())
}

fn pivot_root(bench: &Bench<'_>) -> Result<()> {
    let mut scene = Scene::with_root(bench, "7", Init::Steps)?;
    let words = "ashlar=root.img vm.pivot vm.steps=daemon,fresh:0,spree,fresh:4,readonly";
    scene.boot(words)?.ended_well()?.spoke(&format!("ok {}", bench.name))?;
    scene.check_disk()?;
    bench.programs.uncured_ashlar()?.clone_into(&mut scene.ashlar);
    let words = "ashlar=root.img ashlar.without=chroot vm.pivot vm.steps=daemon,fresh:0";
    scene.boot(words)?.says(&["fail daemon: the server has its root on its own mount"])?;
    Ok(())
}
