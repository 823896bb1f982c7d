#!/bin/busybox sh
# The init of an initramfs that mounts any of the compared roots; but for that, it is the same for all of them.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=755 tmpfs /run

say() { echo "<1>ASHLAR-VM: $*" >/dev/kmsg; }
argument() { # argument NAME: vm.NAME= of the kernel's command line
    for word in $(cat /proc/cmdline); do
        case $word in "vm.$1="*) echo "${word#*=}" ;; esac
    done
}
give_up() {
    say "fail $*"
    sync
    poweroff -f
}
now() { # milliseconds since the start of the kernel
    read -r up _ </proc/uptime
    echo $((${up%.*} * 1000 + 1${up#*.} * 10 - 1000))
}
load() { # load FOR: the modules it needs, in the order in which it needs them
    while read -r module; do
        [ -e /run/loaded/$module ] || insmod /modules/$module || say "no module $module"
        mkdir -p /run/loaded/$module
    done </load/$1
}

disk() { # disk SERIAL: its device, when it is there. Their numbers are given in whichever order they are found.
    tries=0
    while [ $tries -lt 200 ]; do
        for device in /sys/block/nvme*; do
            if grep -qsx "$1 *" "$device/device/serial" && [ -b "/dev/${device##*/}" ]; then
                echo "/dev/${device##*/}"
                return
            fi
        done
        tries=$((tries + 1))
        sleep 0.05
    done
    give_up "no $1"
}
keep() { echo "$1 $2" >>/run/ashlar-vm-initramfs; }
keep initramfs-at-ms "$(now)"
data=$(disk disk0)
filesystem=$(argument root)
begin=$(now)
if [ "$filesystem" = ashlar ]; then
    load ashlar
    mount -t ext4 $data /newroot || give_up "mount of the data partition"
    ashlar boot setup /newroot >/run/setup.out 2>&1 || { cat /run/setup.out >/dev/kmsg; give_up "setup"; }
else
    root=$(disk disk1)
    verity=$(argument verity)
    if [ -n "$verity" ]; then
        load verity
        # DIGEST:OFFSET
        veritysetup open $root root $root "${verity%:*}" --hash-offset="${verity#*:}" || give_up "veritysetup"
        root=/dev/mapper/root
    fi
    load "$filesystem"
    mount -t "$filesystem" -o ro $root /newroot || give_up "mount of $filesystem"
    # What `ashlar boot setup` does besides, done here as cheaply.
    mkdir -p /run/initramfs/ashlar/data
    mount -t ext4 $data /run/initramfs/ashlar/data || give_up "mount of the data partition"
    mount --bind /run/initramfs/ashlar/data/var /newroot/var || give_up "mount of /var"
    mount -t tmpfs -o nosuid,nodev,mode=1777,size=50% tmpfs /newroot/tmp || give_up "mount of /tmp"
fi
keep root-ms $(($(now) - begin))
rm -rf /run/loaded
if [ -n "$(argument shell)" ]; then
    setsid cttyhack sh
fi
for directory in dev proc sys run; do
    mount --move /$directory /newroot/$directory || give_up "move $directory"
done
exec switch_root /newroot /sbin/init
