//! What if an image must not be booted? Another one is, in the same boot; where there is none, nobody is given a shell
//! whom `panic=` forbids it, by none of the files that `ashlar boot install` puts into an initrd.

use std::fs;
use std::time::Duration;

use super::machine::{Attempt, By, Debian, DebianMachine, MERGED};
use crate::bench::Bench;
use crate::disk;
use crate::outcome::{Doing, Result};
use crate::qemu::Console;
use crate::scene::{self, Init, small_tree};
use crate::typist::Answer;

/// A kind of initrd, and what it does where there is no root.
struct Kind {
    name: &'static str,
    /// What stands on the console when a person may type.
    shell: &'static str,
    /// What that person types, who then resets the machine.
    typed: &'static [Answer],
    /// What it says where it stops for good, for `panic=0`.
    halts: &'static str,
}

/// Shows that it is a shell that reads this, and ends the machine when the console has written it.
const PROOF: &str = "echo a-shell-$((6 * 7)); sleep 1; echo b >/proc/sysrq-trigger\n";

const KINDS: [Kind; 3] = [
    Kind {
        name: "initramfs-tools",
        shell: "(initramfs) ",
        typed: &[("(initramfs) ", PROOF)],
        halts: "reboot: System halted",
    },
    Kind {
        name: "dracut",
        shell: "Press Enter for maintenance",
        typed: &[("Press Enter for maintenance", "\n"), ("# ", PROOF)],
        halts: "ashlar: halted, as panic=0 asks for",
    },
    Kind {
        name: "dracut-sh",
        shell: "dracut:/# ",
        typed: &[("dracut:/# ", PROOF)],
        halts: "ashlar: halted, as panic=0 asks for",
    },
];

/// How long a machine must stand still that would otherwise go on within some seconds.
const STILL: Duration = Duration::from_secs(20);

pub(super) fn refused(bench: &Bench<'_>) -> Result<()> {
    let debian = Debian::get(bench)?;
    for kind in &KINDS {
        let machine = worthless(&debian, kind.name)?;
        for panic in ["panic=1", "panic=-1"] {
            let console = attempt(&machine, Attempt { panic, ..Attempt::BOOT })?;
            console.ended_well()?.never_says(kind.shell)?;
        }
        let hang = Some((kind.halts, STILL));
        let console = attempt(&machine, Attempt { panic: "panic=0", hang, ..Attempt::BOOT })?;
        console.hung()?.never_says(kind.shell)?;
        let typed = kind.typed;
        let console = attempt(&machine, Attempt { panic: "", typed, ..Attempt::BOOT })?;
        console.ended_well()?.says(&["a-shell-42"])?;
        println!("    {}: a shell, but none with panic=1, -1 and 0", kind.name);
    }
    Ok(())
}

/// A machine with two images, neither of which may be booted.
fn worthless<'a>(debian: &'a Debian<'_>, kind: &'static str) -> Result<DebianMachine<'a>> {
    let bench = debian.bench;
    let data = bench.place.join(format!("{kind}.data"));
    disk::directories(&data, &["images", "state"])?;
    let image = |name: &str, more: &[&str]| {
        let path = data.join("images").join(name);
        let options: Vec<_> = [&["--block-size", "16K"], more].concat();
        let options: Vec<_> = options.into_iter().map(str::to_owned).collect();
        let digest = small_tree(bench, Init::Checks)?.image(&path, &options)?;
        Ok((path, digest))
    };
    // Nobody signed the one; what the other needs to boot is damaged.
    image("root.img", &[])?;
    let secret_key = debian.secret_key.display().to_string();
    let (path, digest) = image("damaged.img", &["--sign-key", &secret_key])?;
    scene::damage(&path, digest, "/sbin/init")?;
    debian.machine_of(&data, kind, "6.12", By::Initrd(kind))
}

/// Holds that neither image is booted, and that the reasons stand on the console: also where the kernel is told to be quiet.
fn attempt(machine: &DebianMachine<'_>, attempt: Attempt) -> Result<Console> {
    let console = machine.run("ro quiet ashlar=root.img ashlar.on-corruption=eio", &attempt)?;
    for image in ["root", "damaged"] {
        console.says(&[&format!("ashlar: images/{image}.img is refused: ")])?;
    }
    console.never_says("multi-user")?;
    machine.check_disk()?;
    Ok(console)
}

pub(super) fn fallback(bench: &Bench<'_>) -> Result<()> {
    let debian = Debian::get(bench)?;
    let data = debian.data("fallback")?;
    let damaged = data.join("images/root.img");
    fs::copy(&damaged, data.join("images/older.img")).doing("cannot copy the image")?;
    debian.damage(&damaged, "/usr/lib/systemd/systemd")?;
    let machine = debian.machine_of(&data, "fallback", "6.12", By::Initrd("initramfs-tools"))?;
    let console = machine.boot_as(MERGED, "ro quiet ashlar.on-corruption=eio")?.console;
    console.says(&["ashlar: images/root.img is refused: /sbin/init, which is needed to boot"])?;
    console.spoke("image /run/initramfs/ashlar/data/images/older.img")?;
    Ok(())
}
