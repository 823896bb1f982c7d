//! Is `/` itself as it was asked for: read-only, or with something over it?

use super::machine::Machine;
use crate::bench::Bench;
use crate::outcome::Result;

pub(super) fn read_only(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::with_two(bench)?;
    machine.boot(
        "ashlar=one",
        r#"
        is one cat /usr/version
        erofs touch /new
        erofs rm /etc/passwd
        erofs mkdir /usr/new
        erofs chmod 600 /etc/passwd
        is 1777 stat -c %a /tmp
        write gone /tmp/note
        write kept /var/note
        is one cat /var/lib/version
        # What `/` is mounted from is the data partition, and it has its room.
        is "fuse.ashlar /dev/nvme0n1" mounted /
        is /dev/nvme0n1 sh -c "df -P / | awk 'END { print \$1 }'"
        [ "$(df -Pk / | awk 'END { print $4 }')" -gt 20000 ]
        # One counts in larger units than the other.
        [ $(($(df -Pk /var | awk 'END { print $4 }') - $(df -Pk / | awk 'END { print $4 }'))) -lt 64 ]
        [ "$(stat -f -c %d /)" -gt 1000 ]
        # As systemd makes an identity where /etc cannot be written to.
        is 0 stat -c %s /etc/machine-id
        write 0123 /run/machine-id && mount --bind /run/machine-id /etc/machine-id && is 0123 cat /etc/machine-id
        umount /etc/machine-id
        is "/dev/block/$(cat /sys/class/block/nvme0n1/dev)" readlink /run/systemd/volatile-root
        has /run/ashlar/boot.json '"overlay": "no"'
        ashlar boot status | grep -qx 'overlay  *no'
        refused 'nothing lies over the root' ashlar boot lock
        sound
        "#,
    )?;
    machine.boot(
        "ashlar=two",
        r"
        is two cat /usr/version
        gone /tmp/note
        is kept cat /var/note
        is one cat /var/lib/version
        erofs touch /new
        sound
        ",
    )?;
    Ok(())
}

pub(super) fn tmpfs(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::with_two(bench)?;
    machine.boot(
        "ashlar=one ashlar.overlay=tmpfs:size=20m",
        r#"
        write new /new
        rm /etc/passwd
        write local /etc/version
        write kept /var/note
        is local cat /etc/version
        is "overlay /dev/nvme0n1" mounted /
        is 20480 sh -c "df -Pk / | awk 'END { print \$2 }'"
        is one cat $lower/etc/version
        there $lower/etc/passwd
        gone $lower/new
        erofs touch $lower/new
        ashlar boot status | grep -qx 'overlay  *tmpfs:size=20m'
        ashlar boot status | grep -qx "pristine tree  *$lower"
        ashlar boot lock && erofs touch /another
        is kept cat /var/note
        ashlar boot unlock && touch /another
        sound
        "#,
    )?;
    machine.boot(
        "ashlar=two ashlar.overlay=tmpfs",
        r"
        gone /new /another
        there /etc/passwd
        is two cat /etc/version
        is kept cat /var/note
        gone $data/state/overlay/@root
        sound
        ",
    )?;
    Ok(())
}

pub(super) fn persistent(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::with_two(bench)?;
    let on = "ashlar.overlay=persistent";
    machine.boot(
        &format!("ashlar=one {on}"),
        r#"
        write new /new
        mkdir /usr/local
        write deep /usr/local/deep
        rm /etc/passwd
        write local /etc/hostname
        is "overlay /dev/nvme0n1" mounted /
        is 755 stat -c %a /
        is one cat $lower/usr/version
        is image cat $lower/etc/hostname
        sound
        "#,
    )?;
    // Another image below it; then the command line switches it off, then the marker does.
    machine.boot(
        &format!("ashlar=two {on}"),
        r"
        is two cat /usr/version
        is new cat /new
        is deep cat /usr/local/deep
        gone /etc/passwd
        is local cat /etc/hostname
        is one cat /var/lib/version
        sound
        ",
    )?;
    machine.boot(
        &format!("ashlar=two {on} ashlar.overlay=disable"),
        r"
        gone /new
        there /etc/passwd
        erofs touch /another
        no ashlar boot unlock
        ashlar boot disable
        ashlar boot status | grep -qx 'next boot  *without the overlay'
        ",
    )?;
    machine.boot(
        &format!("ashlar=one {on}"),
        r"
        gone /new
        is image cat /etc/hostname
        erofs touch /another
        warned 'is switched off'
        ashlar boot enable
        no sh -c 'ashlar boot status | grep without'
        ",
    )?;
    machine.boot(
        &format!("ashlar=two {on}"),
        r"
        is new cat /new
        is local cat /etc/hostname
        ashlar boot lock && erofs touch /another
        erofs rm /new
        ",
    )?;
    machine.boot(
        &format!("ashlar=two {on}-move"),
        r"
        gone /new
        there /etc/passwd
        is image cat /etc/hostname
        is new cat $data/state/overlay/@root.bak/upper/new
        write second /second
        sound
        ",
    )?;
    machine.boot(
        &format!("ashlar=one {on}-move"),
        r"
        gone /new /second
        is second cat $data/state/overlay/@root.bak/upper/second
        gone $data/state/overlay/@root.bak/upper/new
        write third /third
        sound
        ",
    )?;
    machine.boot(
        &format!("ashlar=one {on}-clear"),
        r"
        gone /new /second /third
        there /etc/passwd
        write fourth /fourth
        is second cat $data/state/overlay/@root.bak/upper/second
        sound
        ",
    )?;
    machine.boot(&format!("ashlar=two {on}-clear"), "gone /fourth\nsound")?;
    Ok(())
}
