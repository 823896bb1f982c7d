#!/usr/bin/env bash
# Makes the Debian root that the virtual machines boot, with the modules of three kernels, once; prints where it lies.
# As root.
#
# usage: TREE=$(vm-tests/support/debian_vm_tree.sh)
#
# A kernel is TREE/usr/lib/modules/VERSION/vmlinuz. TREE.kernels has a line `NAME VERSION` for each:
# 6.1 (bookworm: FUSE is a module), 6.12 (bookworm-backports), 7 (sid).
#
# The tree stays in ASHLAR_TEST_CACHE (default: target/test-cache) until this script changes.
# Packages come from wherever this machine's own apt gets them.
#
# On the serial line root needs no password. A kernel argument `ashlar-vm=WORD` makes ashlar-vm-report.service tell how
# the boot went, between two lines that a harness can wait for, and then do WORD: poweroff, reboot or stay.
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
cache=${ASHLAR_TEST_CACHE:-${CARGO_TARGET_DIR:-$top/target}/test-cache}/vm
tree=$cache/debian-initrd
suite=bookworm
# A server with a network, a login, containers, a compiler, an interpreter and manuals.
packages=systemd,systemd-sysv,systemd-resolved,libpam-systemd,udev,dbus,kmod,iproute2,openssh-server
packages+=,initramfs-tools,dracut-core,busybox,zstd,xz-utils,cpio
packages+=,python3,man-db,gcc,libc6-dev,podman,crun,netavark,ca-certificates,curl
packages+=,acl,attr,libcap2-bin,less,file,procps,e2fsprogs
fewest_files=20000

recipe=$(sha256sum <"$0" | cut -d' ' -f1)
if [[ $(cat "$tree.recipe" 2>/dev/null) == "$recipe" && -d $tree ]]; then
    echo "$tree"
    exit
fi
if [[ $EUID -ne 0 ]]; then
    echo "debian_vm_tree: must be root: device nodes and owners cannot be made otherwise" >&2
    exit 1
fi
# shellcheck disable=SC2016  # apt's own $(SITE)
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null | head -n 1)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
if [[ -z $mirror || ! -e $keyring ]]; then
    echo "debian_vm_tree: this machine's apt knows no Debian mirror (or has no $keyring)" >&2
    exit 1
fi
mkdir -p "$cache"
rm -rf "$tree" "$tree.new" "$tree.recipe" "$tree.kernels" "$cache/apt" "$cache/unpacked"

# Kernels: unpacked, not installed, so that nothing they depend on comes along. By a private apt, which leaves this
# system's lists and package database as they are; the archive's signature is checked as always.
mkdir -p "$cache"/apt/{lists/partial,archives/partial,empty.d,debs} "$cache/unpacked"
for from in $suite $suite-backports sid; do
    echo "deb [signed-by=$keyring arch=amd64] $mirror $from main"
done >"$cache/apt/sources.list"
: >"$cache/apt/status"
private_apt() {
    local command=$1
    shift
    "$command" -qq \
        -o Dir::Etc::SourceList="$cache/apt/sources.list" -o Dir::Etc::SourceParts="$cache/apt/empty.d" \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts="$cache/apt/empty.d" \
        -o Dir::State="$cache/apt" -o Dir::State::Lists="$cache/apt/lists" \
        -o Dir::State::Status="$cache/apt/status" \
        -o Dir::Cache="$cache/apt" -o Dir::Cache::Archives="$cache/apt/archives" \
        -o APT::Sandbox::User=root -o APT::Architecture=amd64 -o Acquire::Languages=none \
        -o Debug::NoLocking=true "$@"
}
private_apt apt-get update >&2

# newest PATTERN: of the packages that the pattern names whole
newest() { private_apt apt-cache pkgnames | grep -xE "$1" | sort -V | tail -n 1; }

fetch_kernel() { # fetch_kernel NAME PATTERN: unpacks it, and writes down its version
    local name=$1 package version one unpacked=$cache/unpacked/$1
    package=$(newest "$2")
    if [[ -z $package ]]; then
        echo "debian_vm_tree: the archive has no kernel that matches $2" >&2
        return 1
    fi
    version=${package#linux-*-}
    mkdir "$unpacked"
    # Newer kernels come in parts.
    for one in "$package" $(private_apt apt-cache pkgnames | grep -xE "linux-(binary|modules|base)-${version//[+.]/.}"); do
        (cd "$cache/apt/debs" && private_apt apt-get download "$one" >&2)
        dpkg-deb --extract "$cache/apt/debs/${one}"_*.deb "$unpacked"
    done
    [[ ! -d $unpacked/lib/modules ]] || { mkdir -p "$unpacked/usr/lib" && mv "$unpacked/lib/modules" "$unpacked/usr/lib/"; }
    [[ -e $unpacked/usr/lib/modules/$version/vmlinuz ]] ||
        mv "$unpacked/boot/vmlinuz-$version" "$unpacked/usr/lib/modules/$version/vmlinuz"
    # Generators of an initramfs ask for it.
    [[ -e $unpacked/usr/lib/modules/$version/config ]] ||
        mv "$unpacked/boot/config-$version" "$unpacked/usr/lib/modules/$version/config"
    echo "$name $version"
}
{
    fetch_kernel 6.1 'linux-image-6\.1\.0-[0-9]+-cloud-amd64'
    fetch_kernel 6.12 'linux-image-6\.12\.[0-9+.a-z]+-cloud-amd64'
    fetch_kernel 7 'linux-image-7\.[0-9+.a-z]+-cloud-amd64'
} >"$cache/kernels.new"

own_sources() {
    local file
    for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        if grep -qs "$suite" "$file"; then
            echo "$file"
            return
        fi
    done
}
# shellcheck disable=SC2046  # no file of sources means no argument
mmdebstrap --quiet --variant=important --include="$packages" "$suite" "$tree.new" $(own_sources) >&2

while read -r name version; do
    mkdir -p "$tree.new/usr/lib/modules"
    cp -a "$cache/unpacked/$name/usr/lib/modules/$version" "$tree.new/usr/lib/modules/"
    chroot "$tree.new" depmod "$version"
done <"$cache/kernels.new"
rm -rf "$cache/unpacked" "$cache/apt"

# --- A machine that anybody may log in to, on its serial line only.
chroot "$tree.new" passwd --delete root >/dev/null 2>&1
echo ashlar-vm >"$tree.new/etc/hostname"
: >"$tree.new/etc/machine-id"
rm -f "$tree.new/var/lib/dbus/machine-id"
printf '127.0.0.1 localhost\n127.0.1.1 ashlar-vm\n' >"$tree.new/etc/hosts"
ln -sfn ../run/systemd/resolve/stub-resolv.conf "$tree.new/etc/resolv.conf"
# The data partition is mounted by the initramfs, and nothing else is: a line for `/` would be remounted at boot.
echo '# nothing: the initramfs mounts what there is' >"$tree.new/etc/fstab"
cat >"$tree.new/etc/systemd/network/80-dhcp.network" <<'END'
[Match]
Name=en* eth*

[Network]
DHCP=yes

[Link]
RequiredForOnline=no
END
mkdir -p "$tree.new/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$tree.new/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf" <<'END'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I vt220
END
cat >"$tree.new/usr/lib/systemd/system/ashlar-vm-report.service" <<'END'
[Unit]
Description=Tells the test harness how the boot went
ConditionKernelCommandLine=ashlar-vm
After=multi-user.target
# Not held back by what it waits for.
DefaultDependencies=no
Conflicts=shutdown.target

[Service]
# Not oneshot: the boot would not be over before the report is, and the report waits for that.
Type=simple
ExecStart=/usr/lib/ashlar-vm/report
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console

[Install]
WantedBy=multi-user.target
END
mkdir -p "$tree.new/usr/lib/ashlar-vm"
cat >"$tree.new/usr/lib/ashlar-vm/report" <<'END'
#!/bin/sh
# How did the boot go? For the test harness, on the console.
word=
for argument in $(cat /proc/cmdline); do
    case $argument in ashlar-vm=*) word=${argument#ashlar-vm=} ;; esac
done
state=$(timeout 300 systemctl is-system-running --wait)
report=$(
    echo '=== ashlar-vm: report begins'
    echo "state: $state"
    systemctl list-units --failed --plain --no-legend --no-pager | while read -r unit _; do
        echo "failed: $unit"
        journalctl --boot --unit "$unit" --lines 4 --output cat --no-pager | sed "s/^/log: $unit: /"
    done
    echo "kernel: $(uname -r)"
    echo "root: $(findmnt --noheadings --raw --output SOURCE,FSTYPE,OPTIONS --mountpoint /)"
    systemd-analyze time | sed 's/^/time: /'
    echo '=== ashlar-vm: report ends'
)
# At once: others write to the console, too.
printf '\n%s\n' "$report"
# What an image or a state directory wants to have done in there: the last word is the harness's.
for script in /usr/lib/ashlar-vm/run.d/* /var/lib/ashlar-vm/run.d/*; do
    [ -x "$script" ] || continue
    echo "=== ashlar-vm: run $script"
    "$script"
    echo "=== ashlar-vm: ran $script: $?"
done
case $word in
    poweroff | reboot) systemctl --no-block "$word" ;;
esac
END
chmod 755 "$tree.new/usr/lib/ashlar-vm/report"
chroot "$tree.new" systemctl --quiet enable systemd-networkd.service serial-getty@ttyS0.service \
    ashlar-vm-report.service
# Nothing here is to wait for a network that may not be there, nor to start what nobody asked for.
chroot "$tree.new" systemctl --quiet disable systemd-networkd-wait-online.service podman.service podman-restart.service \
    podman-auto-update.timer apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service
: >"$tree.new/etc/motd"
touch "$tree.new/root/.hushlogin"
# Host keys are made here: a read-only root could not keep any.
chroot "$tree.new" ssh-keygen -A >/dev/null

found=$(find "$tree.new" -xdev | wc -l)
if [[ $found -lt $fewest_files ]]; then
    echo "debian_vm_tree: $found files, need $fewest_files" >&2
    exit 1
fi
mv "$tree.new" "$tree"
mv "$cache/kernels.new" "$tree.kernels"
echo "$recipe" >"$tree.recipe"
echo "debian_vm_tree: $found files in $tree" >&2
echo "$tree"
