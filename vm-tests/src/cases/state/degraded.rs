//! What does a machine do whose data partition takes nothing more?

use super::machine::Machine;
use crate::bench::Bench;
use crate::outcome::Result;
use crate::qemu::Writes;

const EVERYTHING: &str = "ashlar.etc=merge ashlar.bind=/root,/home ashlar.state-overlay=/opt";

pub(super) fn full(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::with_two(bench)?;
    let fill = r#"
        no dd if=/dev/zero of=$data/filler bs=1M
        no dd if=/dev/zero of=$data/filler2 bs=1k
        [ "$(df -Pk $data | awk 'END { print $4 }')" -lt 8 ]
        [ "$(df -Pk / | awk 'END { print $2 }')" -gt 0 ]
        "#;
    // Full before there is anything: the machine boots with what it has.
    machine
        .boot("ashlar=one ashlar.var=ro", &fill.replace("$data", "/run/initramfs/ashlar/data"))?;
    let without = r"
        is two cat /etc/version
        is two cat /var/lib/version
        write gone /var/lib/note
        write gone /etc/note
        degraded /etc:
        degraded /var:
        degraded /root:
        degraded /opt:
        gone $data/.var.seed $data/state/bind/root
        gone $data/state/etc.*.tmp
        ";
    machine.boot(&format!("ashlar=two {EVERYTHING}"), without)?;
    machine.boot(
        &format!("ashlar=two {EVERYTHING} ashlar.overlay=persistent"),
        r"
        is two cat /etc/version
        gone /var/lib/note /etc/note
        write gone /new
        is gone cat /new
        degraded 'the overlay of / is in memory'
        rm $data/filler $data/filler2
        ",
    )?;
    machine.boot(
        &format!("ashlar=one {EVERYTHING} ashlar.overlay=persistent"),
        r"
        gone /new
        is one cat /var/lib/version
        write kept /var/lib/note
        write kept /etc/note
        write local /etc/hostname
        write kept /root/note
        sound
        no dd if=/dev/zero of=/var/filler bs=1M
        no dd if=/dev/zero of=/var/filler2 bs=1k
        ",
    )?;
    // Full, and a new image comes: what was kept is there, what has to be made anew is in memory.
    machine.boot(
        &format!("ashlar=two {EVERYTHING} ashlar.overlay=persistent"),
        r"
        is two cat /usr/version
        is kept cat /var/lib/note
        is kept cat /root/note
        is two cat /etc/version
        is kept cat /etc/note
        is local cat /etc/hostname
        write gone /etc/new
        gone $data/state/etc.*.tmp
        degraded /etc:
        ashlar boot reset
        ",
    )?;
    // That it is full does not keep it from forgetting.
    machine.boot(
        &format!("ashlar=two {EVERYTHING} ashlar.overlay=persistent"),
        r"
        gone /var/lib/note /root/note /etc/note /etc/new /var/filler
        is image cat /etc/hostname
        is two cat /var/lib/version
        write kept /new
        sound
        ",
    )?;
    Ok(())
}

pub(super) fn read_only(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::with_two(bench)?;
    // Mounted read-only, as most initramfs do: what is kept asks for more, and gets it.
    machine.boot(
        &format!("ashlar=one {EVERYTHING} vm.data=ro"),
        r"
        write kept /var/lib/note
        write kept /etc/note
        write local /etc/hostname
        write kept /root/note
        sound
        ",
    )?;
    machine.boot(
        &format!("ashlar=one {EVERYTHING} ashlar.overlay=persistent vm.data=ro"),
        r"
        write kept /kept
        is local cat /etc/hostname
        sound
        ",
    )?;
    // Nothing is kept: it stays read-only, and is made writable only for as long as something is noted.
    machine.boot(
        "ashlar=one ashlar.var=ro vm.data=ro",
        r"
        erofs touch $data/new
        ashlar boot disable
        there $data/state/overlay.disabled
        ashlar boot enable
        erofs touch $data/new
        sound
        ",
    )?;
    // What was kept is there; what becomes of it is in memory, and gone at the next boot.
    let kept = r"
        is kept cat /kept
        is kept cat /var/lib/note
        is kept cat /etc/note
        is local cat /etc/hostname
        gone /new /var/lib/new /etc/new
        write gone /new
        write gone /kept && is gone cat /kept
        write gone /var/lib/new
        write gone /var/lib/note && is gone cat /var/lib/note
        write gone /etc/new
        write gone /etc/hostname && is gone cat /etc/hostname
        erofs touch $data/new
        degraded 'the data partition'
        degraded 'the overlay of /'
        degraded /var:
        degraded /etc:
        degraded /root:
        no ashlar boot disable
        ";
    machine.scene.writes = Writes::Refused;
    let words = format!("{EVERYTHING} ashlar.overlay=persistent vm.data=ro");
    machine.boot(&format!("ashlar=one {words}"), &format!("is one cat /etc/version\n{kept}"))?;
    // For an image that is new here, /etc is merged in memory.
    machine.boot(
        &format!("ashlar=two {words}"),
        &format!("is two cat /usr/version\nis two cat /etc/version\n{kept}"),
    )?;
    machine.scene.writes = Writes::Kept;
    machine.boot(
        &format!("ashlar=two {EVERYTHING} vm.data=ro"),
        r"
        is kept cat /var/lib/note
        is kept cat /etc/note
        is local cat /etc/hostname
        is kept cat /root/note
        gone /var/lib/new /etc/new
        sound
        ",
    )?;
    Ok(())
}

pub(super) fn no_overlayfs(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::with_two(bench)?;
    let words = "ashlar.overlay=persistent-move ashlar.etc=merge";
    machine.boot(&format!("ashlar=one {words}"), "write first /root/note\nsound")?;
    machine.boot(&format!("ashlar=one {words}"), "write second /root/note\nsound")?;
    let modules = machine.scene.modules;
    machine.scene.modules = &["fuse"];
    for _ in 0..2 {
        machine.boot(
            &format!("ashlar=one {words}"),
            r"
            degraded 'nothing lies over /'
            warned 'overlayfs'
            erofs touch /root/new
            is second cat $data/state/overlay/@root/upper/root/note
            is first cat $data/state/overlay/@root.bak/upper/root/note
            write local /etc/hostname
            write note /var/lib/note
            ",
        )?;
    }
    machine.scene.modules = modules;
    machine.boot(
        &format!("ashlar=one {words}"),
        r"
        gone /root/note
        is second cat $data/state/overlay/@root.bak/upper/root/note
        is local cat /etc/hostname
        sound
        ",
    )?;
    Ok(())
}
