//! Does `/etc` keep local changes, and follow a new image in all else?

use super::machine::Machine;
use crate::bench::Bench;
use crate::outcome::Result;
use crate::tree::Tree;

fn one(tree: &mut Tree) -> Result<()> {
    tree.directories(&["etc/conf.d", "etc/clash", "etc/stays"])?;
    for name in
        ["untouched", "changed", "both", "deleted", "dropped", "turns", "stays/file", "clash/inner"]
    {
        tree.file(&format!("etc/{name}"), 0o640, format!("{name} of one\n").as_bytes())?;
    }
    tree.link("etc/link", "untouched")
}

fn two(tree: &mut Tree) -> Result<()> {
    tree.directories(&["etc/conf.d", "etc/turns", "etc/stays"])?;
    for name in [
        "untouched",
        "changed",
        "both",
        "deleted",
        "turns/inner",
        "stays/file",
        "clash",
        "conf.d/image",
    ] {
        let of = if ["changed", "deleted"].contains(&name) { "one" } else { "two" };
        tree.file(&format!("etc/{name}"), 0o640, format!("{name} of {of}\n").as_bytes())?;
    }
    tree.link("etc/link", "changed")
}

pub(super) fn merge(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::new(bench)?;
    machine.image("one", 1, one)?;
    machine.image("two", 2, two)?;
    machine.image("three", 0, |tree| {
        two(tree)?;
        tree.file("etc/of-three", 0o644, b"three\n")
    })?;
    machine.boot(
        "ashlar=one ashlar.etc=merge",
        r#"
        is "ext4 /dev/nvme0n1" mounted /etc
        is 755 stat -c %a /etc
        is untouched readlink /etc/link
        write local /etc/changed
        write local /etc/both
        write local /etc/added
        mkdir /etc/conf.d/own && write local /etc/conf.d/own/file
        ln -s /nowhere /etc/dangling
        write local /etc/turns
        write local /etc/clash/inner
        chmod 600 /etc/stays/file
        rm /etc/deleted
        ashlar etc diff >/run/diff
        has /run/diff 'M changed' && has /run/diff 'A added' && has /run/diff 'D deleted' && has /run/diff 'A conf.d/own'
        erofs touch /new
        sound
        "#,
    )?;
    let merged = r#"
        is "untouched of two" cat /etc/untouched
        is local cat /etc/changed
        is local cat /etc/both
        is local cat /etc/added
        is local cat /etc/conf.d/own/file
        is "conf.d/image of two" cat /etc/conf.d/image
        is /nowhere readlink /etc/dangling
        is changed readlink /etc/link
        is 600 stat -c %a /etc/stays/file
        gone /etc/deleted /etc/dropped
        # In conflict: a file here and a directory in the image, and the other way round.
        is "turns/inner of two" cat /etc/turns/inner
        is local cat /etc/turns.ashlar-old
        is "clash of two" cat /etc/clash
        is local cat /etc/clash.ashlar-old/inner
        "#;
    machine.boot(
        "ashlar=two ashlar.etc=merge",
        &format!(
            r"{merged}
            warned turns.ashlar-old
            warned clash.ashlar-old
            sound
            write two /etc/only-two
            "
        ),
    )?;
    // Back to what was: as it was left. And forward again: as that was left.
    machine.boot(
        "ashlar ashlar.slot=previous ashlar.etc=merge",
        r#"
        is one cat /usr/version
        is local cat /etc/changed
        is local cat /etc/turns
        is "untouched of one" cat /etc/untouched
        is "dropped of one" cat /etc/dropped
        is local cat /etc/clash/inner
        gone /etc/deleted /etc/only-two /etc/turns.ashlar-old
        no sh -c "dmesg | grep ashlar-old"
        write one /etc/only-one
        sound
        "#,
    )?;
    machine.boot(
        "ashlar ashlar.etc=merge",
        &format!("{merged}\nis two cat /etc/only-two\ngone /etc/only-one\nsound"),
    )?;
    // The old image may be gone when the new one comes.
    machine.boot(
        "ashlar=three",
        "is image cat /etc/hostname\nerofs touch /etc/new\nrm $data/images/two.img\nsound",
    )?;
    machine.boot(
        "ashlar=three ashlar.etc=merge",
        &format!(
            r"{merged}
            is three cat /etc/of-three
            is two cat /etc/only-two
            no warned 'neither the old image'
            sound
            "
        ),
    )?;
    Ok(())
}

pub(super) fn modes(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::with_two(bench)?;
    machine.boot(
        "ashlar=one ashlar.etc=transient",
        r"
        write local /etc/hostname
        write new /etc/new
        is local cat /etc/hostname
        erofs touch /new
        gone $data/state/overlay/@etc
        sound
        ",
    )?;
    for name in ["one", "two"] {
        machine.boot(
            &format!("ashlar={name} ashlar.etc=transient"),
            &format!(
                r"
                is {name} cat /etc/version
                is image cat /etc/hostname
                gone /etc/new
                write local /etc/hostname
                write new /etc/new
                sound
                "
            ),
        )?;
    }
    machine.boot(
        "ashlar=one ashlar.etc=overlay",
        r"
        gone /etc/new
        is image cat /etc/hostname
        write local /etc/hostname
        rm /etc/passwd
        write new /etc/new
        erofs touch /new
        sound
        ",
    )?;
    machine.boot(
        "ashlar=two ashlar.etc=overlay",
        r"
        is two cat /etc/version
        is local cat /etc/hostname
        is new cat /etc/new
        gone /etc/passwd
        sound
        ",
    )?;
    machine.boot(
        "ashlar=two ashlar.etc=ro",
        r"
        is image cat /etc/hostname
        there /etc/passwd
        erofs touch /etc/another
        sound
        ",
    )?;
    machine.boot(
        "ashlar=one ashlar.etc=ro",
        r"
        is one cat /etc/version
        there /etc/passwd
        erofs touch /etc/another
        sound
        ",
    )?;
    Ok(())
}
