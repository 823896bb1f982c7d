//! What becomes of `/var`, single paths and single directories, and who decides over them?

use std::fs;

use super::machine::Machine;
use crate::bench::Bench;
use crate::outcome::{Doing, Result};
use crate::tree::Tree;

pub(super) fn var(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::with_two(bench)?;
    machine.boot(
        "ashlar=one ashlar.overlay=tmpfs",
        r#"
        is "ext4 /dev/nvme0n1" mounted /var
        same $lower/var /var
        is one cat /var/link
        is secret cat /var/lib/hard
        is 2 stat -c %h /var/lib/hard
        write kept /var/lib/note
        rm /var/lib/hard
        touch /var/.updated
        gone $data/.var.seed
        sound
        "#,
    )?;
    // Filled once: what was removed stays away. A new image is older or newer than systemd believes, so its stamp goes.
    machine.boot(
        "ashlar=two",
        r"
        is one cat /var/lib/version
        is kept cat /var/lib/note
        gone /var/lib/hard /var/.updated
        touch /var/.updated
        sound
        ",
    )?;
    machine.boot(
        "ashlar=two ashlar.var=transient ashlar.overlay=tmpfs",
        r"
        same $lower/var /var
        is two cat /var/lib/version
        write gone /var/lib/transient
        is kept cat $data/var/lib/note
        sound
        ",
    )?;
    machine.boot(
        "ashlar=one ashlar.var=transient",
        r"
        is one cat /var/lib/version
        gone /var/lib/transient /var/lib/note
        ",
    )?;
    machine.boot(
        "ashlar=two ashlar.var=ro",
        r"
        is two cat /var/lib/version
        erofs touch /var/lib/another
        there $data/var/.updated
        sound
        ",
    )?;
    machine.boot(
        "ashlar=one ashlar.var=ro",
        r"
        is one cat /var/lib/version
        erofs touch /var/lib/another
        sound
        ",
    )?;
    machine.boot("ashlar=two", "is kept cat /var/lib/note\nthere /var/.updated")?;
    Ok(())
}

pub(super) fn bind(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::new(bench)?;
    for (version, name) in [(1, "one"), (2, "two")] {
        machine.image(name, version, |tree| {
            tree.directory("root/.ssh", 0o700)?;
            tree.file("root/.ssh/known", 0o600, format!("{name}\n").as_bytes())
        })?;
    }
    let words = "ashlar.bind=/etc/hostname,/root,/nowhere";
    machine.boot(
        &format!("ashlar=one {words}"),
        r"
        is image cat /etc/hostname
        write local /etc/hostname
        is one cat /root/.ssh/known
        is 700 stat -c %a /root/.ssh
        write note /root/note
        erofs touch /etc/another
        degraded /nowhere
        ",
    )?;
    machine.boot(
        &format!("ashlar=two {words}"),
        r"
        is local cat /etc/hostname
        is one cat /root/.ssh/known
        is note cat /root/note
        is two cat /etc/version
        ",
    )?;
    machine.boot("ashlar=two", "is image cat /etc/hostname\ngone /root/note\nsound")?;
    Ok(())
}

pub(super) fn overlay(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::new(bench)?;
    let tool = |tree: &mut Tree, name: &str| {
        tree.directories(&["opt/tool/share"])?;
        tree.file("opt/tool/share/data", 0o644, format!("{name}\n").as_bytes())?;
        tree.file("opt/tool/removed", 0o644, b"removed\n")
    };
    machine.image("one", 1, |tree| tool(tree, "one"))?;
    machine.image("two", 2, |tree| {
        tool(tree, "two")?;
        tree.directories(&["opt/brought"])?;
        tree.file("opt/brought/file", 0o644, b"image\n")
    })?;
    let words = "ashlar.state-overlay=/opt";
    machine.boot(
        &format!("ashlar=one {words}"),
        r"
        write local /opt/tool/version
        rm /opt/tool/removed
        write own /opt/tool/share/own
        mkdir /opt/own /opt/brought && write own /opt/own/file
        write mine /opt/brought/file
        write mine /opt/brought/mine
        erofs touch /usr/new
        sound
        ",
    )?;
    machine.boot(
        &format!("ashlar=one {words}"),
        r"
        is local cat /opt/tool/version
        gone /opt/tool/removed
        is own cat /opt/tool/share/own
        sound
        ",
    )?;
    machine.boot(
        &format!("ashlar=two {words}"),
        r"
        is two cat /opt/tool/version
        is removed cat /opt/tool/removed
        is own cat /opt/tool/share/own
        is two cat /opt/tool/share/data
        is own cat /opt/own/file
        is image cat /opt/brought/file
        is mine cat /opt/brought/mine
        sound
        ",
    )?;
    // Back again: the image wins as before, and what it does not have is still there.
    machine.boot(
        &format!("ashlar=one {words}"),
        r"
        is one cat /opt/tool/version
        is removed cat /opt/tool/removed
        is one cat /opt/tool/share/data
        is own cat /opt/tool/share/own
        is own cat /opt/own/file
        is mine cat /opt/brought/mine
        gone /opt/brought/file
        sound
        ",
    )?;
    Ok(())
}

pub(super) fn reset(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::with_two(bench)?;
    let config = "etc = \"merge\"\nbind = [\"/root\"]\n";
    fs::write(machine.scene.data.join("ashlar.toml"), config).doing("cannot write a file")?;
    let change = r"
        write local /etc/hostname
        write local /var/lib/note
        write local /root/note
        sound
        ";
    let as_made = r"
        is image cat /etc/hostname
        gone /var/lib/note /root/note
        is two cat /var/lib/version
        gone $data/.ashlar-reset $data/state/reset
        warned 'factory reset'
        sound
        ";
    machine.boot("ashlar=one", change)?;
    machine.boot("ashlar=two ashlar.reset", &format!("{as_made}\n{change}"))?;
    machine.boot(
        "ashlar=two",
        r"
        is local cat /etc/hostname
        is local cat /var/lib/note
        ashlar boot reset
        is local cat /var/lib/note
        ",
    )?;
    machine.boot("ashlar=two", as_made)?;
    machine.boot("ashlar=two", "no sh -c 'dmesg | grep factory'\nsound")?;
    Ok(())
}

pub(super) fn config(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::new(bench)?;
    machine.image("one", 1, |_| Ok(()))?;
    // The image has its say; the data partition has the last but the command line's.
    machine.image("two", 2, |tree| {
        tree.directories(&["etc/ashlar"])?;
        tree.file("etc/ashlar/ashlar.toml", 0o644, b"var = \"transient\"\netc = \"ro\"\n")
    })?;
    let config = "overlay = \"tmpfs:size=10m\"\netc = \"transient\"\nbind = [\"/root\"]\n";
    fs::write(machine.scene.data.join("ashlar.toml"), config).doing("cannot write a file")?;
    machine.boot(
        "ashlar=one",
        r"
        ashlar boot status | grep -qx 'overlay  *tmpfs:size=10m'
        ashlar boot status | grep -qx '/etc  *transient'
        ashlar boot status | grep -qx 'bound paths  */root'
        write note /root/note && write gone /new
        sound
        ",
    )?;
    machine.boot(
        "ashlar=two ashlar.overlay=no",
        r#"
        ashlar boot status | grep -qx '/var  *transient'
        ashlar boot status | grep -qx '/etc  *transient'
        is note cat /root/note
        erofs touch /new
        write 'etc = "merge' $data/ashlar.toml
        "#,
    )?;
    machine.boot(
        "ashlar=one",
        r#"
        warned 'ashlar.toml is ignored'
        ashlar boot status | grep -qx '/etc  *ro'
        gone /root/note
        write 'etc = "transient"' $data/ashlar.toml
        "#,
    )?;
    machine
        .boot("ashlar=one ashlar.config=no", "ashlar boot status | grep -qx '/etc  *ro'\nsound")?;
    Ok(())
}

pub(super) fn hook(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::with_two(bench)?;
    machine.hook = Some(include_bytes!("../../../guest/mode-hook.sh"));
    let config = "overlay = \"persistent\"\netc = \"transient\"\n";
    fs::write(machine.scene.data.join("ashlar.toml"), config).doing("cannot write a file")?;
    machine.boot(
        "ashlar=one vm.button=up",
        r"
        ashlar boot status | grep -qx 'overlay  *persistent'
        sound
        ",
    )?;
    // It is believed more than the data partition, and the command line more than it.
    machine.boot(
        "ashlar=one vm.button=down",
        r"
        ashlar boot status | grep -qx 'overlay  *tmpfs'
        ashlar boot status | grep -qx '/etc  *transient'
        ashlar boot status | grep -qx 'bound paths  */root'
        write note /root/note
        sound
        ",
    )?;
    machine.boot(
        "ashlar=one vm.button=down ashlar.overlay=no",
        r"
        ashlar boot status | grep -qx 'overlay  *no'
        is note cat /root/note
        sound
        ",
    )?;
    // What it says is for each image.
    machine.boot(
        "ashlar=two vm.button=down",
        r"
        ashlar boot status | grep -qx 'overlay  *tmpfs'
        is two cat /usr/version
        is note cat /root/note
        sound
        ",
    )?;
    // Nothing of what it said counts when it fails, and nobody waits for ever.
    for (button, why) in [("broken", "exit status: 3"), ("stuck", "it was not done after 10 s")] {
        machine.boot(
            &format!("ashlar=one vm.button={button}"),
            &format!(
                r"
                warned 'mode-hook is ignored: {why}'
                ashlar boot status | grep -qx 'overlay  *persistent'
                gone /root/note
                "
            ),
        )?;
    }
    Ok(())
}
