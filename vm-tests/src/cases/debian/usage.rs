//! Does all work on it that one does on a Debian, and what if a file is damaged?

use super::machine::{Attempt, By, Debian, DebianMachine, MERGED, VICTIM};
use crate::bench::Bench;
use crate::outcome::Result;
use crate::qemu::{Console, SPOKEN};

/// How many checks there are at least in `guest/debian/use`.
const CHECKS_MIN: usize = 40;
/// And in `defaults`, and in each part of `overlay`.
const DEFAULTS_MIN: usize = 8;
const OVERLAY_MIN: usize = 7;
/// What is said of a unit that judges the running image.
const BLESS_FAILED: &str = "failed ashlar-bless.service";

/// Boots that each do one of `vm.run=`, of which all checks must hold; returns the last console.
fn checked(machine: &DebianMachine<'_>, image: &str, words: &str, min: usize) -> Result<Console> {
    let console = machine.boot_as(image, words)?.console;
    let held = spoken(&console, "holds ").count();
    println!("    {held} checks hold");
    if held < min {
        return console.fail(format!("only {held} checks of at least {min} hold"));
    }
    console.says(&["checks ", ", wrong 0"])?;
    Ok(console)
}

pub(super) fn works(bench: &Bench<'_>) -> Result<()> {
    let debian = Debian::get(bench)?;
    let machine = debian.machine("use", "6.12", By::Initrd("initramfs-tools"))?;
    for words in ["rw vm.run=use:first", "rw vm.run=use:again"] {
        checked(&machine, MERGED, words, CHECKS_MIN)?;
    }
    Ok(())
}

/// Nothing is asked for but the image.
pub(super) fn defaults(bench: &Bench<'_>) -> Result<()> {
    let debian = Debian::get(bench)?;
    let machine = debian.machine("defaults", "6.12", By::Initrd("initramfs-tools"))?;
    for (words, run) in [
        ("ro quiet", "first"),
        ("rw", "again"),
        ("rw ashlar.bind=/etc/machine-id", "bound"),
        ("rw ashlar.bind=/etc/machine-id", "bound-again"),
    ] {
        // It keeps its networks in /etc, so it fails on whatever has a read-only one.
        let mask = "systemd.mask=podman-auto-update.service";
        let words = format!("{mask} {words} vm.run=defaults:{run}");
        checked(&machine, "ashlar=root.img", &words, DEFAULTS_MIN)?;
    }
    Ok(())
}

/// Each on a machine of its own, which is booted twice.
pub(super) fn overlays(bench: &Bench<'_>) -> Result<()> {
    let debian = Debian::get(bench)?;
    for (overlay, second) in [("persistent", "kept"), ("tmpfs", "gone")] {
        let machine = debian.machine(overlay, "6.12", By::Initrd("initramfs-tools"))?;
        let image = format!("ashlar=root.img ashlar.overlay={overlay}");
        for run in ["change", second] {
            checked(&machine, &image, &format!("rw vm.run=overlay:{run}"), OVERLAY_MIN)?;
        }
        machine.remove()?;
    }
    Ok(())
}

pub(super) fn corrupt(bench: &Bench<'_>) -> Result<()> {
    let debian = Debian::get(bench)?;
    let data = debian.data("corrupt")?;
    let block = debian.damage(&data.join("images/root.img"), VICTIM)?;
    let machine = debian.machine_of(&data, "corrupt", "6.12", By::Initrd("initramfs-tools"))?;
    let name = bench.name;
    let words = format!("{MERGED} vm.case={name} rw vm.run=read-files:{VICTIM}:/usr/bin/gcc");
    let console = machine.run(&words, &Attempt::BOOT)?;
    console.ended()?.never_says("Kernel panic")?.spoke(&format!("ok {name}"))?;
    // A damaged image is not found good, which is a unit that fails; nothing else does.
    console.spoke(BLESS_FAILED)?;
    if let Some(other) = spoken(&console, "failed ").find(|line| !line.contains(BLESS_FAILED)) {
        return console.fail(other.to_owned());
    }
    machine.check_disk()?;
    console.says(&[SPOKEN, &format!("read {VICTIM}: cat: "), "Input/output error"])?;
    console.spoke("read /usr/bin/gcc: whole")?;
    let read = "journal read of inode ";
    let damage = spoken(&console, read).find(|line| line.contains(&format!("block {block} ")));
    let inode = damage.and_then(|line| line.split_once(read)?.1.split_once(':'));
    match inode {
        Some((inode, _)) => {
            console.spoke(&format!("journal inode {inode} is {VICTIM}"))?;
            Ok(())
        }
        None => console.fail(format!("the journal does not tell of block {block}")),
    }
}

fn spoken<'a>(console: &'a Console, words: &str) -> impl Iterator<Item = &'a str> {
    let begin = format!("{SPOKEN}{words}");
    console.text.lines().filter(move |line| line.contains(&begin))
}
