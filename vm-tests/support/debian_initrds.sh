#!/usr/bin/env bash
# Installs Ashlar into the Debian tree of debian_vm_tree.sh, as a person would before making an image of it, and makes an
# initrd of each kind for each of its kernels. Prints the directory they are in: NAME.initramfs-tools, NAME.dracut and
# for 6.12 NAME.dracut-sh (dracut without systemd), NAME being that of the kernel (TREE.kernels). As root.
#
# usage: INITRDS=$(vm-tests/support/debian_initrds.sh PROGRAM [OPTION...])
#
# PROGRAM is the static program (`cargo boot-binary`), OPTIONs are those of `ashlar boot install`, for example --key FILE.
# They stay until program, options, keys or this script change. Where there can be no tree, the exit status is 77.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
program=$(realpath "${1:?usage: debian_initrds.sh PROGRAM [OPTION...]}")
shift
if ! tree=$("$here/debian_vm_tree.sh"); then
    echo "debian_initrds: there is no tree, see above" >&2
    exit 77
fi
initrds=$tree.initrds
log=$tree.initrds.log

# Of a key it is the content that counts: its name stays.
keys=()
before=
for word; do
    case $word in
    --key=*) keys+=("${word#--key=}") ;;
    *) [[ $before != --key ]] || keys+=("$word") ;;
    esac
    before=$word
done
recipe=$({ echo "$@"; cat "$tree.recipe" "$program" "$0" "${keys[@]}"; } | sha256sum | cut -d' ' -f1)
if [[ $(cat "$initrds/recipe" 2>/dev/null) == "$recipe" ]]; then
    echo "$initrds"
    exit
fi
if [[ $EUID -ne 0 ]]; then
    echo "debian_initrds: must be root: it works in the tree by chroot" >&2
    exit 77
fi
rm -rf "$initrds" "$initrds.new"
mkdir -p "$initrds.new"
# All of it, keys too, so that nothing is left that is carried no more.
"$program" boot uninstall --root "$tree" >&2 || echo "debian_initrds: what was there stays" >&2
"$program" boot install --root "$tree" --binary "$program" --initramfs-tools --dracut --systemd "$@" >&2

# in_tree COMMAND...: with a /proc of its own, which goes away with its mount namespace
in_tree() {
    # shellcheck disable=SC2016  # for the inner shell
    unshare --mount --propagation private sh -euc '
        tree=$1
        shift
        mount -t proc proc "$tree/proc"
        mount -t sysfs -o ro sysfs "$tree/sys"
        mount -t tmpfs tmpfs "$tree/tmp"
        # Where the makers of initrds look for what a kernel can do.
        mount -t tmpfs tmpfs "$tree/boot"
        for modules in "$tree"/usr/lib/modules/*; do
            cp "$modules/config" "$tree/boot/config-${modules##*/}"
        done
        mount --bind "$ASHLAR_INITRDS" "$tree/mnt"
        exec chroot "$tree" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp "$@"
    ' sh "$tree" "$@" >>"$log" 2>&1
}

export ASHLAR_INITRDS=$initrds.new
tell() { [[ $1 -eq 0 ]] || tail -n 20 "$log" >&2; }
trap 'tell $?' EXIT
: >"$log"
while read -r name version; do
    dracut=(dracut --quiet --no-hostonly --zstd --force --kver "$version")
    in_tree mkinitramfs -c zstd -o "/mnt/$name.initramfs-tools" "$version"
    in_tree "${dracut[@]}" "/mnt/$name.dracut"
    [[ $name != 6.12 ]] ||
        in_tree "${dracut[@]}" --omit 'systemd systemd-initrd dracut-systemd crypt' "/mnt/$name.dracut-sh"
done <"$tree.kernels"
echo "$recipe" >"$initrds.new/recipe"
mv "$initrds.new" "$initrds"
echo "$initrds"
