#!/usr/bin/env bash
# Makes current versions of the peers we compare with available, and prints the directory of their commands:
# mkfs.erofs (with zstd, so 1.8 or newer), erofsfuse, mksquashfs, squashfuse_ll.
#
# usage: PATH=$(tests/support/peers.sh):$PATH
#
# Debian 12 ships erofs-utils 1.5, which has no zstd. Newer packages need a newer C library, so they are
# not installed but unpacked, each with everything it depends on, below target/peers and run
# with their own dynamic loader. This system's package database and sources stay as they are; apt checks
# the archive's signature as always. The mirror is the one this machine's own apt uses.
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
peers=${CARGO_TARGET_DIR:-$top/target}/peers
suite=${ASHLAR_PEERS_SUITE:-trixie}
packages=(erofs-utils erofsfuse squashfs-tools squashfuse)
commands=(mkfs.erofs erofsfuse mksquashfs squashfuse squashfuse_ll)

# Not through `grep -q`, which would end the pipe early and with it, by SIGPIPE, the answer.
has_zstd() { [[ $("$1" --help 2>&1) == *zstd* ]]; }

recipe="$suite ${packages[*]}"
if [[ $(cat "$peers/recipe" 2>/dev/null) == "$recipe" ]] && has_zstd "$peers/bin/mkfs.erofs"; then
    echo "$peers/bin"
    exit
fi
# A system new enough needs nothing fetched.
if type -P "${commands[@]}" | wc -l | grep -qx ${#commands[@]} && has_zstd mkfs.erofs; then
    mkdir -p "$peers/bin"
    type -P "${commands[@]}" | xargs ln -sft "$peers/bin"
    echo "$recipe" >"$peers/recipe"
    echo "$peers/bin"
    exit
fi

# shellcheck disable=SC2016  # apt's own $(SITE)
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null | head -n 1)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
if [[ -z $mirror || ! -e $keyring ]]; then
    echo "peers: this machine's apt knows no Debian mirror (or has no $keyring)" >&2
    exit 1
fi

# A private apt: its own source, lists, cache, and an empty package database, so that it resolves
# all dependencies down to the C library.
rm -rf "$peers"
mkdir -p "$peers"/apt/{lists/partial,archives/partial,empty.d} "$peers"/{root,bin}
echo "deb [signed-by=$keyring] $mirror $suite main" >"$peers/apt/sources.list"
: >"$peers/apt/status"
private_apt() {
    apt-get -qq \
        -o Dir::Etc::SourceList="$peers/apt/sources.list" -o Dir::Etc::SourceParts="$peers/apt/empty.d" \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts="$peers/apt/empty.d" \
        -o Dir::State="$peers/apt" -o Dir::State::Lists="$peers/apt/lists" -o Dir::State::Status="$peers/apt/status" \
        -o Dir::Cache="$peers/apt" -o Dir::Cache::Archives="$peers/apt/archives" \
        -o APT::Sandbox::User=root -o Debug::NoLocking=true "$@" >&2
}
private_apt update
private_apt install --yes --no-install-recommends --download-only "${packages[@]}"
for package in "$peers"/apt/archives/*.deb; do
    dpkg-deb --extract "$package" "$peers/root"
done

# Some packages still ship /lib beside /usr/lib: search both.
libraries=$(find "$peers/root" -maxdepth 3 -type d -path '*/lib/*-linux-gnu*' | paste -sd:)
loader=$(find "$peers"/root -name 'ld-linux*.so.*' -o -name 'ld64.so.*' | sort | head -n 1)
for command in "${commands[@]}"; do
    binary=$(find "$peers/root" -path "*bin/$command" | head -n 1)
    printf '#!/bin/sh\nexec %q --library-path %q %q "$@"\n' "$loader" "$libraries" "$binary" >"$peers/bin/$command"
    chmod +x "$peers/bin/$command"
done
rm -rf "$peers/apt"
if ! has_zstd "$peers/bin/mkfs.erofs"; then
    echo "peers: mkfs.erofs from $suite does not run or has no zstd" >&2
    exit 1
fi
echo "$recipe" >"$peers/recipe"
echo "$peers/bin"
