//! Does it stop, whatever goes on? Idle, and while many processes read, start programs and make the kernel forget.

use std::fs;
use std::time::Duration;

use super::machine::{By, Debian, number};
use crate::bench::Bench;
use crate::outcome::{Doing, Result};

/// How many times each, where nothing else is said: once with each kernel.
const ROUNDS: u32 = 3;
/// How many processes there are at least in a storm: those that `guest/debian/storm` lets rage, and the one that waits.
const PROCESSES_MIN: u64 = 9;
const KERNELS: [&str; 3] = ["6.12", "7", "6.1"];

/// Boots and stops by `how`, `poweroff` or `reboot`; every time the data partition must have been left clean.
pub(super) fn ends(bench: &Bench<'_>, how: &str) -> Result<()> {
    let rounds = crate::bench::rounds("ASHLAR_VM_ROUNDS", ROUNDS)?;
    let debian = Debian::get(bench)?;
    for (what, words) in [("idle", ""), ("storm", "vm.run=storm")] {
        let mut took = Vec::new();
        for (nth, kernel) in KERNELS.iter().enumerate() {
            let nth = u32::try_from(nth).unwrap_or_default();
            // The kernels take turns.
            let times = rounds.saturating_add(2).saturating_sub(nth) / 3;
            if times == 0 {
                continue;
            }
            let name = format!("{what}-{kernel}");
            let machine = debian.machine(&name, kernel, By::Initrd("initramfs-tools"))?;
            for time in 0..times {
                // Every other time what is below /etc is the server's to answer, and nobody remembers anything of it.
                let kept = if time % 2 == 0 { "ashlar.etc=overlay vm.forget=yes" } else { "" };
                let boot = machine.boot(&format!("rw vm.end={how} {words} {kept}"))?;
                if what == "storm" {
                    let raging = number(&boot.console, "storm ", "storm ")?;
                    if raging < PROCESSES_MIN {
                        return boot.console.fail(format!(
                            "the storm is one of {raging} processes, not of {PROCESSES_MIN} at least"
                        ));
                    }
                }
                took.push(boot.shutdown_ms);
            }
            machine.remove()?;
        }
        took.sort_unstable();
        let (least, most) = (took.first().unwrap_or(&0), took.last().unwrap_or(&0));
        println!("    {how} {what}: {} times, each within {least} to {most} ms", took.len());
    }
    Ok(())
}

/// How often the server is killed on each machine, where nothing else is said.
const KILLS: u32 = 12;
/// How long one may take on an emulated machine that is busy: the status twice, each a program that starts in the storm, and what
/// is between.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// What is checked on each machine.
const TAKEOVER_CHECKS: &str = "checks 7, wrong 0";
/// What is checked where nobody is killed, and no newer program is let in: a kernel before 6.9 cannot ask again what a server leaves
/// behind.
const REFUSAL_CHECKS: &str = "checks 5, wrong 0";

/// What the machine says when it is to stop, and whenever a server was killed and another one serves.
const STOPS: &str = "ASHLAR-VM: ending ";
const KILLED: &str = "ASHLAR-VM: killed";

/// Kills the server of `/` and its holder on a running machine, and the server while that stops. A newer program takes
/// its place, too; on a kernel where that cannot be without loss it is refused, and nobody notices.
pub(super) fn takes_over(bench: &Bench<'_>) -> Result<()> {
    let kills = crate::bench::rounds("ASHLAR_VM_ROUNDS", KILLS)?;
    let debian = Debian::get(bench)?;
    for kernel in KERNELS {
        let mut machine = debian.machine(kernel, kernel, By::Initrd("initramfs-tools"))?;
        let (kills, checks) =
            if kernel == "6.1" { (0, REFUSAL_CHECKS) } else { (kills, TAKEOVER_CHECKS) };
        machine.work = KILL_LIMIT.saturating_mul(kills);
        for how in ["poweroff", "reboot"] {
            let words = format!("rw vm.end={how} vm.run=storm,takeover:{kills}");
            let console = machine.boot(&words)?.console;
            console.spoke(checks)?;
            let while_it_stops = console.text.lines().skip_while(|line| !line.contains(STOPS));
            let count = while_it_stops.filter(|line| line.contains(KILLED)).count();
            println!("    {count} kills while it stops");
            if kills > 0 && count == 0 {
                return console.fail("nobody was killed while it stops");
            }
        }
        machine.remove()?;
    }
    Ok(())
}

/// How long on each machine, in minutes, where nothing else is said.
const SOAK_MINUTES: u32 = 3;
/// What all that was read, the parts of the image and the servers' answers have to come to.
const SOAKED: &str = "soaked wrong 0, lost 0, failed 0";

/// Everything at once, on machines that have the image twice: one of the two rots.
pub(super) fn soaks(bench: &Bench<'_>) -> Result<()> {
    let minutes = crate::bench::rounds("ASHLAR_VM_MINUTES", SOAK_MINUTES)?;
    let debian = Debian::get(bench)?;
    for kernel in ["6.12", "7"] {
        let data = debian.data(kernel)?;
        fs::copy(&debian.image, data.join("images/root.img.prev"))
            .doing("cannot copy the image")?;
        let mut machine =
            debian.machine_of(&data, kernel, kernel, By::Initrd("initramfs-tools"))?;
        machine.work = Duration::from_mins(minutes.into());
        let words = format!("rw vm.run=storm,soak:{minutes}");
        let console = machine.boot(&words)?.console;
        console.spoke(SOAKED)?;
        for key in ["acts=", "rot=", "hunger=", "kills=", "holders=", "healed="] {
            let count = number(&console, "soak ", key)?;
            print!("    {key}{count}");
            if count == 0 {
                return console.fail(format!("nothing was done: {key}0"));
            }
        }
        println!();
        machine.remove()?;
    }
    Ok(())
}
