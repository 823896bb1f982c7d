#!/bin/busybox sh
# The init of a plain initramfs: finds the data partition, lets ashlar make a root of it, switches.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=755 tmpfs /run

say() { echo "<1>ASHLAR-VM: $*" >/dev/kmsg; }
argument() { # argument NAME DEFAULT: the last vm.NAME= of the kernel's command line
    found=$2
    for word in $(cat /proc/cmdline); do
        case $word in "vm.$1="*) found=${word#*=} ;; esac
    done
    echo "$found"
}
give_up() {
    say "$*"
    sync
    poweroff -f
}

for module in /modules/*.ko; do
    [ ! -e "$module" ] || insmod "$module" || give_up "fail insmod $module"
done
tries=0
until [ -b /dev/nvme0n1 ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || give_up "fail no disk"
    sleep 0.1
done
mount -t "$(argument fs ext4)" -o "$(argument data rw)" /dev/nvme0n1 /newroot || give_up "fail mount"

if [ "$(argument shell no)" = initramfs ]; then
    setsid cttyhack sh
fi
# What the root's first program shall do, where a case has it done by a script.
[ ! -e /script ] || cp /script /run/script
say "sets up"
if grep -qw vm.switch /proc/cmdline; then
    # By the program alone, to the end. Somebody is left behind, and will see what becomes of the initramfs.
    sleep 1000 &
    exec ashlar boot setup --switch-root /newroot
fi
if grep -qw vm.console /proc/cmdline; then
    # Where it can give a person a shell.
    ashlar boot setup /newroot || give_up "refused"
    : >/run/setup.out
elif ! ashlar boot setup /newroot >/run/setup.out 2>&1; then
    while read -r line; do say "setup: $line"; done </run/setup.out
    # What is not to be trusted was not mounted either: the data partition lies there as before.
    [ -d /newroot/images ] || say "fail the data partition is gone"
    umount /newroot || say "fail the data partition is held"
    give_up "refused"
fi
while read -r line; do say "setup: $line"; done </run/setup.out
# Nobody has opened anything there yet. It fails where the root is an overlay.
ashlar status --json /newroot >/run/looked 2>/dev/null || rm /run/looked
for directory in dev proc sys run; do
    mount --move /$directory /newroot/$directory || give_up "fail move $directory"
done
if grep -qw vm.pivot /newroot/proc/cmdline; then
    exec vm-init pivot /newroot /sbin/init
fi
exec switch_root /newroot /sbin/init
