#!/usr/bin/env bash
# Makes a Debian root that has one of everything, once, and prints where it lies. As root.
#
# usage: TREE=$(tests/support/debian_tree.sh)
#
# It stays in ASHLAR_TEST_CACHE (default: target/test-cache) until the recipe below changes.
# Packages come from wherever this machine's own apt gets them.
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
here=$top/tests/support
cache=${ASHLAR_TEST_CACHE:-${CARGO_TARGET_DIR:-$top/target}/test-cache}
tree=$cache/debian-root
suite=bookworm
# An appliance with a shell: an init, a network, containers (large Go binaries), a compiler (large
# C++ ones), an interpreter and manuals (many small files).
packages=systemd,systemd-sysv,udev,dbus,locales,openssh-server,ca-certificates,curl,sudo
packages+=,iputils-ping,libcap2-bin,attr,acl,python3,man-db,less,file,rsync,git,gcc,podman
fewest_files=15000

own_sources() {
    local file
    for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        if grep -qs "$suite" "$file"; then
            echo "$file"
            return
        fi
    done
    echo "debian_tree: this machine's apt knows no $suite, so mmdebstrap chooses the mirror" >&2
}

recipe=$({ echo "$suite $packages"; cat "$here/hard_cases.py"; } | sha256sum | cut -d' ' -f1)
if [[ $(cat "$tree.recipe" 2>/dev/null) == "$recipe" && -d $tree ]]; then
    echo "$tree"
    exit
fi

if [[ $EUID -ne 0 ]]; then
    echo "debian_tree: must be root: device nodes and owners cannot be made otherwise" >&2
    exit 1
fi
mkdir -p "$cache"
rm -rf "$tree" "$tree.new" "$tree.recipe"
# shellcheck disable=SC2046  # no file of sources means no argument
mmdebstrap --quiet --variant=important --include="$packages" "$suite" "$tree.new" $(own_sources) >&2
python3 "$here/hard_cases.py" "$tree.new"

found=$(find "$tree.new" -xdev | wc -l)
if [[ $found -lt $fewest_files ]]; then
    echo "debian_tree: $found files, need $fewest_files" >&2
    exit 1
fi
mv "$tree.new" "$tree"
echo "$recipe" >"$tree.recipe"
echo "debian_tree: $found files in $tree" >&2
echo "$tree"
