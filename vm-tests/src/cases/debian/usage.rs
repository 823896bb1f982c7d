//! Does all work on it that one does on a Debian, and what if a file is damaged?

use super::machine::{By, Debian, VICTIM};
use crate::bench::Bench;
use crate::outcome::Result;
use crate::qemu::{Console, SPOKEN};

/// How many checks there are at least in `guest/debian/use`.
const CHECKS_MIN: usize = 40;

pub(super) fn works(bench: &Bench<'_>) -> Result<()> {
    let debian = Debian::get(bench)?;
    let machine = debian.machine("use", "6.12", By::Initrd("initramfs-tools"))?;
    for words in ["rw vm.run=use:first", "rw vm.run=use:again"] {
        let console = machine.boot(words)?.console;
        let held = spoken(&console, "holds ").count();
        println!("    {held} checks hold");
        if held < CHECKS_MIN {
            return console.fail(format!("only {held} checks of at least {CHECKS_MIN} hold"));
        }
        console.says(&["checks ", ", wrong 0"])?;
    }
    Ok(())
}

pub(super) fn corrupt(bench: &Bench<'_>) -> Result<()> {
    let debian = Debian::get(bench)?;
    let data = debian.data("corrupt")?;
    let block = debian.damage(&data.join("images/root.img"), VICTIM)?;
    let machine = debian.machine_of(&data, "corrupt", "6.12", By::Initrd("initramfs-tools"))?;
    let console = machine.boot(&format!("rw vm.run=read-files:{VICTIM}:/usr/bin/gcc"))?.console;
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
