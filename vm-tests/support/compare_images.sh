#!/usr/bin/env bash
# Makes what the case `compare` boots: one Debian tree, and images of it by everybody else. Prints the directory. As root.
#
# usage: IMAGES=$(vm-tests/support/compare_images.sh PROGRAM)
#
# PROGRAM is the static program (`cargo boot-binary`), which installs its own files into the tree.
#
#     tree/               the tree: that of debian_vm_tree.sh with one kernel's modules, and what starts the measuring
#     ext4.img erofs.img squashfs.img erofs-verity.img squashfs-verity.img
#     NAME.verity         root digest, number of blocks and offset of the digests of an image with dm-verity
#     vmlinuz release     the kernel
#     modules/ load/      modules, uncompressed, and in which order each of ext4, erofs, squashfs, verity needs them
#     veritysetup/        the program that opens an image with dm-verity, and what it is linked with
#     expected            digests of what will be read, as the tree has it
#     versions            of the programs that made the images
#
# They stay until the tree, Ashlar's files in it, or this script change. ASHLAR_COMPARE_LEVEL, a level of zstd, makes
# images faster than is fair to those who made them, to try the case itself.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
program=$(realpath "${1:?usage: compare_images.sh PROGRAM}")
PATH=$PATH:/usr/sbin:/sbin
for command in veritysetup:cryptsetup-bin modprobe:kmod mkfs.ext4:e2fsprogs xz:xz-utils ldd:libc-bin; do
    if ! command -v "${command%:*}" >/dev/null; then
        echo "compare_images: no ${command%:*}: install ${command#*:}" >&2
        exit 77
    fi
done
if [[ $EUID -ne 0 ]]; then
    echo "compare_images: must be root: device nodes and owners cannot be copied otherwise" >&2
    exit 77
fi

# How large a set of files to read is, and how many files are the biggest.
set_files=300
biggest_files=8
kernel=6.12

source=$("$here/debian_vm_tree.sh")
images=${source%/*}/compare
guest=$top/vm-tests/guest
# PROGRAM itself is taken out again: it changes often. What runs it finds it on the data partition.
erofs_level=${ASHLAR_COMPARE_LEVEL:-9}
squashfs_level=${ASHLAR_COMPARE_LEVEL:-19}
recipe=$({
    echo "$erofs_level $squashfs_level"
    cat "$source.recipe" "$0" "$guest/compare-walk.sh" "$guest/compare.service"
    find "$top/src/integration" -type f -print0 | sort -z | xargs -0 cat
} | sha256sum | cut -d' ' -f1)
if [[ $(cat "$images/recipe" 2>/dev/null) == "$recipe" ]]; then
    echo "$images"
    exit
fi
peers=$("$top/tests/support/peers.sh")
rm -rf "$images" "$images.new"
mkdir -p "$images.new"/{tree,modules,load,veritysetup}
cd "$images.new"

# --- The tree.
read -r _ release < <(grep "^$kernel " "$source.kernels")
echo "$release" >release
modules_dir=usr/lib/modules/$release
others=()
while read -r _ other; do
    [[ $other == "$release" ]] || others+=(--exclude "./usr/lib/modules/$other")
done <"$source.kernels"
tar --create --one-file-system --directory "$source" --acls --xattrs --xattrs-include='*' --numeric-owner \
    "${others[@]}" . |
    tar --extract --directory tree --acls --xattrs --xattrs-include='*' --numeric-owner --same-permissions
"$program" boot install --root tree --binary "$program" --systemd >&2
ln -sf /var/lib/ashlar-vm/ashlar tree/usr/lib/ashlar/ashlar
install -m 644 "$guest/compare.service" tree/usr/lib/systemd/system/ashlar-vm-measure.service
mkdir -p tree/usr/lib/systemd/system/multi-user.target.wants
# It fails without a network, after a while.
chroot tree systemctl --quiet disable podman-auto-update.service
ln -s ../ashlar-vm-measure.service tree/usr/lib/systemd/system/multi-user.target.wants/

# What is read. Nothing that a boot reads; in an order that is nobody's, and always the same.
lists=tree/usr/lib/ashlar-vm
(cd tree && find usr/share/man usr/share/perl usr/lib/x86_64-linux-gnu/perl* usr/lib/python3* usr/include \
    usr/share/doc usr/lib/gcc usr/share/bash-completion -xdev -type f -size +0 -size -2048k) |
    LC_ALL=C sort | sed 's|^|/|' | shuf -n $((set_files * 2)) --random-source=<(yes ashlar) >all
head -n "$set_files" all >$lists/first
tail -n +$((set_files + 1)) all >$lists/second
(cd tree && find . -xdev -type f -printf '%s /%P\n') |
    grep -v ' /var/' | sort -k1,1nr -k2 | sed -n "1,${biggest_files}s/^[0-9]* //p" >$lists/biggest
[[ $(wc -l <$lists/second) -eq $set_files && $(wc -l <$lists/biggest) -eq $biggest_files ]]
rm all

expect() { # expect NAME: the digest of standard input
    echo "$1 $(sha256sum | cut -d' ' -f1)" >>expected
}
for list in first second biggest; do
    (cd tree && sed 's|^/||' ../$lists/$list | xargs -d '\n' cat) | expect "$list"
    echo "bytes-$list $(cd tree && sed 's|^/||' ../$lists/$list | xargs -d '\n' cat | wc -c)" >>expected
done
# shellcheck source=../guest/compare-walk.sh
source "$guest/compare-walk.sh"
walk "$PWD/tree" | LC_ALL=C sort | expect walk

# --- The images.
mkfs_ext4() { mkfs.ext4 -q -F -m 0 -L root -d tree "$1" "$2"; }
size=$(du -s --block-size=1M tree | cut -f1)
mkfs_ext4 ext4.img "$((size * 5 / 4 + 64))M"
"$peers/mkfs.erofs" --quiet -zzstd,"$erofs_level" -C65536 erofs.img tree >&2
"$peers/mksquashfs" tree squashfs.img -noappend -quiet -no-progress -comp zstd -Xcompression-level "$squashfs_level" -b 128K >&2
for name in erofs squashfs; do
    cp "$name.img" "$name-verity.img"
    truncate --size=%4096 "$name-verity.img"
    len=$(stat -c %s "$name-verity.img")
    digest=$(veritysetup format --hash-offset="$len" --salt="$(printf '%064d' 7)" \
        --uuid=00000000-0000-4000-8000-000000000007 "$name-verity.img" "$name-verity.img" |
        sed -n 's/^Root hash:[[:space:]]*//p')
    [[ ${#digest} -eq 64 ]]
    echo "$digest $len" >"$name-verity.verity"
done
{
    "$peers/mkfs.erofs" --version | head -n 1
    "$peers/mksquashfs" -version | head -n 1
    veritysetup --version
} >versions

# --- The kernel, and what mounts the images.
cp "tree/$modules_dir/vmlinuz" vmlinuz
module_order() { # module_order NAME...: files to load, those first that others need
    modprobe --dirname "$PWD/tree" --set-version "$release" --show-depends --all "$@" |
        sed -n 's|^insmod \([^ ]*\).*|\1|p' | awk '!seen[$0]++'
}
load() { # load FOR NAME...
    local for=$1 file name
    shift
    : >"load/$for"
    module_order "$@" | while read -r file; do
        name=${file##*/}
        case $name in
        *.xz) xz --decompress --stdout "$file" >"modules/${name%.xz}" ;;
        *) cp "$file" modules/ ;;
        esac
        echo "${name%.xz}" >>"load/$for"
    done
}
load ext4 ext4
load erofs erofs
load squashfs squashfs
# With the fastest SHA-256 that the processor can do, as modprobe would load it.
load verity sha256-ssse3 sha256_generic dm-verity
load ashlar fuse
for file in "$(command -v veritysetup)" $(ldd "$(command -v veritysetup)" | grep -o '/[^ ]*'); do
    mkdir -p "veritysetup/$(dirname "$file")"
    cp --dereference "$file" "veritysetup/$file"
done

echo "$recipe" >recipe
mv "$images.new" "$images"
echo "$images"
