#!/bin/bash
# How fast was the boot, and how fast is the root? Says figures on the console, then switches off.
here=${0%/*}
# shellcheck source=compare-walk.sh
source "$here/walk"

lists=/usr/lib/ashlar-vm
helper=$here/ashlar
say() { echo "<1>ASHLAR-VM: $*" >/dev/kmsg; }
figure() { say "figure $*"; }
argument() { # argument NAME: vm.NAME= of the kernel's command line
    local word
    for word in $(</proc/cmdline); do
        case $word in "vm.$1="*) echo "${word#*=}" ;; esac
    done
}
timed() { # timed NAME COMMAND...: milliseconds it takes
    local name=$1 start=$EPOCHREALTIME end
    shift
    "$@" </dev/null || say "fail $name"
    end=$EPOCHREALTIME
    figure "$name-ms $(((${end/./} - ${start/./}) / 1000))"
}
read_list() { xargs -d '\n' cat <"$lists/$1" >/dev/null; }
digest() { echo "$1 $(sha256sum | cut -d' ' -f1)"; }
drop_caches() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
}
meminfo() { # meminfo WHEN
    local name value
    while read -r name value _; do
        case $name in
        MemTotal: | MemFree: | MemAvailable: | Cached: | Buffers: | Slab: | SReclaimable: | SUnreclaim: | AnonPages: | Mlocked:)
            figure "$1-${name%:}-kib $value" ;;
        esac
    done </proc/meminfo
}
server_pid() {
    local process
    for process in /proc/[0-9]*; do
        read -r -d '' name 2>/dev/null <"$process/cmdline" || continue
        [[ $name != @ashlar ]] || echo "${process#/proc/}"
    done
}
# What the server did so far: its memory, its time, and what it was asked.
server() { # server WHEN
    local pid fields
    pid=$(server_pid)
    [[ -n $pid ]] || return 0
    figure "$1-server-rss-kib $(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status")"
    read -ra fields <"/proc/$pid/stat"
    figure "$1-server-user-ms $((fields[13] * 10))"
    figure "$1-server-system-ms $((fields[14] * 10))"
    figure "$1-server-switches $(cat /proc/"$pid"/task/*/status | awk '/ctxt_switches/ { sum += $2 } END { print sum }')"
    [[ ! -x $helper ]] || say "status $1 $("$helper" status --json / | tr -d ' \n' | sed 's/.*"blocks_verified"/{"blocks_verified"/')"
}
processor() { # processor WHEN: time of all processors, in the kernel's ticks of 10 ms
    local fields
    read -ra fields </proc/stat
    figure "$1-user-ms $(((fields[1] + fields[2]) * 10))"
    figure "$1-system-ms $(((fields[3] + fields[6] + fields[7]) * 10))"
    figure "$1-idle-ms $(((fields[4] + fields[5]) * 10))"
}
timestamp() { # timestamp PROPERTY [UNIT]: microseconds since the start of the kernel
    systemctl show --property "$1" --value ${2:+"$2"}
}

state=$(timeout 300 systemctl is-system-running --wait)
processor boot
server boot
trace=/run/initramfs/ashlar/trace
[[ ! -e $trace ]] || cp "$trace" "$here/trace"
say "state $state"
systemctl list-units --failed --plain --no-legend --no-pager | while read -r unit _; do say "unit $unit failed"; done
started=$(timestamp UserspaceTimestampMonotonic)
figure "init-ms $((started / 1000))"
figure "multi-user-ms $((($(timestamp ActiveEnterTimestampMonotonic multi-user.target) - started) / 1000))"
figure "finish-ms $((($(timestamp FinishTimestampMonotonic) - started) / 1000))"
while read -r name value; do figure "$name $value"; done </run/ashlar-vm-initramfs
say "root $(findmnt --noheadings --raw --output SOURCE,FSTYPE,OPTIONS --mountpoint /)"

if [[ $(argument compare) == measure ]]; then
    say "sha256 $(grep -B 1 -A 3 'name *: sha256$' /proc/crypto | sed -n 's/^driver *: //p' | tr '\n' ' ')"
    sleep 3
    meminfo rest
    # Nobody has read the files since the machine was switched on; but who reads them is there.
    find /run -maxdepth 0 >/dev/null
    xargs cat </dev/null
    timed first read_list first
    server first
    timed walk walk / >/run/walk
    timed walk-again walk / >/run/walk-again
    cmp /run/walk /run/walk-again || say "fail walk-again"
    server walk
    timed biggest read_list biggest
    server biggest
    timed python python3 -c 'import json, http.client, email.mime.text, ssl, xml.dom.minidom, decimal' >/run/python
    echo 'int main(void) { return 0; }' >/run/hello.c
    timed gcc gcc -o /run/hello /run/hello.c
    server programs
    meminfo used
    for list in first biggest; do say "digest $(xargs -d '\n' cat <$lists/$list | digest $list)"; done
    say "digest $(LC_ALL=C sort /run/walk | digest walk)"
    rm /run/walk /run/walk-again

    # The kernel forgets all it can. A server in user space keeps its own cache.
    drop_caches
    timed second read_list second
    drop_caches
    timed first-dropped read_list first
    drop_caches
    timed walk-dropped walk / >/run/walk
    say "digest $(xargs -d '\n' cat <$lists/second | digest second)"
    server end
elif [[ -x $helper && -e /run/ashlar/boot.json ]]; then
    # Boots that are measured are those of an image that was found good long ago.
    systemctl start ashlar-bless.service || say "fail bless"
fi
say "figures end"
say "off"
systemctl --no-block poweroff
