//! Does a whole Debian boot from it, work, and stop cleanly? With systemd, by initramfs-tools, by dracut, and without an
//! initramfs.

mod machine;
mod refused;
mod storm;
mod update;
mod usage;

use self::machine::{By, Debian};
use super::Case;
use crate::bench::Bench;
use crate::outcome::Result;

/// See the head of this file.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "debian-6.1",
        asks: "does Debian boot by initramfs-tools on Linux 6.1, twice?",
        quick: false,
        run: |bench| boots(bench, &["6.1"], By::Initrd("initramfs-tools")),
    },
    Case {
        name: "debian-6.12",
        asks: "does Debian boot by initramfs-tools on Linux 6.12, twice?",
        quick: false,
        run: |bench| boots(bench, &["6.12"], By::Initrd("initramfs-tools")),
    },
    Case {
        name: "debian-7",
        asks: "does Debian boot by initramfs-tools on the newest Linux, twice?",
        quick: false,
        run: |bench| boots(bench, &["7"], By::Initrd("initramfs-tools")),
    },
    Case {
        name: "dracut",
        asks: "does Debian boot by dracut, with systemd in the initramfs and without?",
        quick: false,
        run: dracut,
    },
    Case {
        name: "debian-no-initramfs",
        asks: "does Debian boot where there is no initramfs, on each kernel?",
        quick: false,
        run: |bench| boots(bench, &["6.12", "6.1", "7"], By::Trampoline),
    },
    Case {
        name: "debian-poweroff",
        asks: "does poweroff end, idle and in a storm, $ASHLAR_VM_ROUNDS times each (3)?",
        quick: false,
        run: |bench| storm::ends(bench, "poweroff"),
    },
    Case {
        name: "debian-reboot",
        asks: "does reboot end, idle and in a storm, $ASHLAR_VM_ROUNDS times each (3)?",
        quick: false,
        run: |bench| storm::ends(bench, "reboot"),
    },
    Case {
        name: "debian-takeover",
        asks: "does nobody notice that the server of `/` is killed, $ASHLAR_VM_ROUNDS times in a storm (12) and while it stops, or replaced?",
        quick: false,
        run: storm::takes_over,
    },
    Case {
        name: "debian-soak",
        asks: "is `/` what it was while bytes rot, servers die and memory is short, for $ASHLAR_VM_MINUTES (3)?",
        quick: false,
        run: storm::soaks,
    },
    Case {
        name: "debian-use",
        asks: "does all work on it that one does on a Debian?",
        quick: false,
        run: usage::works,
    },
    Case {
        name: "debian-corrupt",
        asks: "does a flipped bit cost one file, and does the journal name it?",
        quick: false,
        run: usage::corrupt,
    },
    Case {
        name: "debian-defaults",
        asks: "does it run where nothing but the image is asked for, with `/etc` read-only, twice?",
        quick: false,
        run: usage::defaults,
    },
    Case {
        name: "debian-overlay",
        asks: "is what is installed on an overlay kept, or gone at the next boot, as it was asked for?",
        quick: false,
        run: usage::overlays,
    },
    Case {
        name: "debian-refused",
        asks: "is there a shell when no image can be booted, but not with `panic=`, by each kind of initrd?",
        quick: false,
        run: refused::refused,
    },
    Case {
        name: "debian-fallback",
        asks: "does the same boot take an older image when the first one is damaged?",
        quick: false,
        run: refused::fallback,
    },
    Case {
        name: "debian-update",
        asks: "does it update itself over HTTP, and leave by itself what is not healthy?",
        quick: false,
        run: update::updates,
    },
];

/// Twice: the first boot makes what the second one finds.
fn boots(bench: &Bench<'_>, kernels: &[&str], by: By) -> Result<()> {
    let debian = Debian::get(bench)?;
    for kernel in kernels {
        let machine = debian.machine(kernel, kernel, by)?;
        // What Debian's GRUB says, and what others say.
        machine.boot("ro quiet")?.console.spoke("boots 1")?;
        machine.boot("rw")?.console.spoke("boots 2")?;
    }
    Ok(())
}

fn dracut(bench: &Bench<'_>) -> Result<()> {
    boots(bench, &["6.12", "7", "6.1"], By::Initrd("dracut"))?;
    boots(bench, &["6.12"], By::Initrd("dracut-sh"))
}
