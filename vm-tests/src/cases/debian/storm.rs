//! Does it stop, whatever goes on? Idle, and while many processes read, start programs and make the kernel forget.

use super::machine::{By, Debian};
use crate::bench::Bench;
use crate::outcome::{Doing, Result};

/// How many times each, where nothing else is said.
const ROUNDS: u32 = 2;
const KERNELS: [&str; 3] = ["6.12", "7", "6.1"];

/// Boots and stops by `how`, `poweroff` or `reboot`; every time the data partition must have been left clean.
pub(super) fn ends(bench: &Bench<'_>, how: &str) -> Result<()> {
    let rounds = match std::env::var("ASHLAR_VM_ROUNDS") {
        Ok(rounds) => rounds.parse().doing("ASHLAR_VM_ROUNDS is no number")?,
        Err(_) => ROUNDS,
    };
    let debian = Debian::get(bench)?;
    for (what, words) in [("idle", ""), ("storm", "vm.run=storm")] {
        let mut took = Vec::new();
        for (number, kernel) in KERNELS.iter().enumerate() {
            let number = u32::try_from(number).unwrap_or_default();
            // The kernels take turns.
            let times = rounds.saturating_add(2).saturating_sub(number) / 3;
            if times == 0 {
                continue;
            }
            let name = format!("{what}-{kernel}");
            let machine = debian.machine(&name, kernel, By::Initrd("initramfs-tools"))?;
            for _ in 0..times {
                let boot = machine.boot(&format!("rw vm.end={how} {words}"))?;
                if what == "storm" {
                    boot.console.says(&["storm ", "processes"])?;
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
