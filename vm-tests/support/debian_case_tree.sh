#!/usr/bin/env bash
# Makes the tree that the Debian machines' image is made of: that of debian_vm_tree.sh (files shared with it by hard
# links), with what the cases run inside and files of every kind that a file system can have. As root.
#
# usage: debian_case_tree.sh TREE COPY BUSYBOX
set -euo pipefail

tree=$1 copy=$2 busybox=$3
guest=$(cd "$(dirname "$0")/../guest/debian" && pwd)
rm -rf "$copy"
cp -al "$tree" "$copy"

lib=$copy/usr/lib/ashlar-vm
units=$copy/usr/lib/systemd/system
# Never written through a link: what lies there may be the tree's own.
put() { # put MODE TARGET FILE...
    install --mode "$1" --target-directory "$2" "${@:3}"
}
mkdir -p "$lib/probe" "$copy/usr/lib/systemd/system.conf.d" "$units/multi-user.target.wants"
put 755 "$lib" "$guest"/{case,use,defaults,overlay,storm,read-files,takeover,soak,update}
put 644 "$lib" "$guest"/{words,checks}
put 644 "$units" "$guest"/*.service
put 644 "$copy/usr/lib/systemd/system.conf.d" "$guest/ashlar-vm.conf"
ln -s ../ashlar-vm-case.service "$units/multi-user.target.wants/"

probe=$lib/probe
install --mode 4755 "$copy/usr/bin/id" "$probe/setuid"
install --mode 755 "$copy/usr/bin/grep" "$probe/capable"
chroot "$copy" setcap cap_sys_nice=ep /usr/lib/ashlar-vm/probe/capable
mknod --mode 666 "$probe/null" c 1 3
mknod --mode 666 "$probe/zero" c 1 5
echo secret >"$probe/acl"
chmod 640 "$probe/acl"
chroot "$copy" setfacl --modify user:nobody:r /usr/lib/ashlar-vm/probe/acl
: >"$probe/labelled"
chroot "$copy" setfattr --name security.selinux --value system_u:object_r:etc_t:s0 /usr/lib/ashlar-vm/probe/labelled
chroot "$copy" setfattr --name user.note --value 'a note' /usr/lib/ashlar-vm/probe/labelled
: >"$probe/one"
ln "$probe/one" "$probe/other"
truncate --size 4G "$probe/sparse"
: >"$probe/dated"
chown 33:65534 "$probe/dated"
chmod 640 "$probe/dated"
touch --date @981173106 "$probe/dated"

# What a container is made of.
inner=$(mktemp --directory)
trap 'rm -rf "$inner"' EXIT
mkdir -p "$inner"/{bin,dev,etc,proc,sys,tmp,shared}
cp "$busybox" "$inner/bin/busybox"
ln -s busybox "$inner/bin/sh"
for name in cat echo id test; do ln -s busybox "$inner/bin/$name"; done
tar --create --file "$probe/container.tar" --directory "$inner" .
