#!/bin/sh
# PID 1 of the small root: does all work that a root has to do? It speaks on the console, then switches off.
export PATH=/bin:/sbin
say() { echo "<1>ASHLAR-VM: $*" >/dev/kmsg; }
argument() { # argument NAME DEFAULT: the last vm.NAME= of the kernel's command line
    found=$2
    for word in $(cat /proc/cmdline); do
        case $word in "vm.$1="*) found=${word#*=} ;; esac
    done
    echo "$found"
}
sound=yes
check() { # check WHAT COMMAND...
    what=$1
    shift
    said=$("$@" 2>&1 </dev/null) && return
    say "fail $what: $(echo "$said" | tail -n 3 | tr '\n' ' ')"
    sound=no
}
is() { # is EXPECTED COMMAND...: the command says so
    expected=$1
    shift
    got=$("$@" 2>&1)
    [ "$got" = "$expected" ] || { echo "$* said $got, not $expected"; return 1; }
}

say "started"
[ "$(argument shell no)" = no ] || setsid cttyhack sh

root_is_fuse() { grep -q ' / / .* - fuse\.ashlar ' /proc/self/mountinfo || { cat /proc/self/mountinfo; return 1; }; }
reads() { sha256sum -c /content/SUMS | grep -v ': OK$'; [ "$(grep -c . /content/SUMS)" -gt 20 ] && sha256sum -cs /content/SUMS; }
large_directory() { is 500 sh -c 'ls /large | wc -l'; }
links() { is "through a link" cat /links/far && is 2 stat -c %h /links/hard; }
effective() { "$@" status Uid | cut -f 2; }
setuid() { is 0 effective probe as 1000 /probe/setuid && is 1000 effective probe as 1000 /bin/probe; }
capability() { is 0000000000800000 probe as 1000 /probe/capable status CapEff; }
device() { is 00000000 sh -c 'head -c 4 /nodes/zero | xxd -p' && echo gone >/nodes/null; }
xattr() { is "a note" probe xattr /probe/noted user.note; }
acl() { is secret probe as 1000 /bin/cat /probe/acl && ! probe as 1001 /bin/cat /probe/acl; }
room() { [ "$(stat -f -c %a /)" -gt 100 ] || { stat -f /; return 1; }; }
refuses() { # refuses COMMAND...: the command says that / is read-only
    "$@" 2>&1 | grep 'Read-only file system'
}
read_only() { refuses touch /new && refuses rm -f /content/SUMS && refuses mkdir /content/new && refuses chmod 700 /content/SUMS; }
pid_of() { # pid_of NAME
    for process in /proc/[0-9]*; do
        case $(tr '\0' ' ' <$process/cmdline) in "$1 "*) echo ${process#/proc/} ;; esac
    done
}
daemon_pid() { pid_of @ashlar; }
daemon() { # the server and its holder live in the same way
    lives_well @ashlar && lives_well @ashlar-holder
}
lives_well() { # lives_well NAME
    pid=$(pid_of $1)
    [ -d "/proc/$pid" ] && [ -n "$pid" ] || { echo "$1 is not there, or not alone: $pid"; return 1; }
    is -1000 cat /proc/$pid/oom_score_adj || return 1
    is "" ls -A /proc/$pid/root/ || return 1
    # All signals that can be blocked are, in each thread, but SIGCONT while one waits for it (`src/boot/resume.rs`).
    for status in /proc/$pid/task/*/status; do
        grep -q '^SigBlk:.*7ff[b9]feff$' $status || { grep -E '^(Name|SigBlk):' $status; return 1; }
    done
    [ "$(awk '$1 == "VmLck:" { print $2 }' /proc/$pid/status)" -gt 0 ] || { echo "its memory is not locked"; return 1; }
    # It has a session of its own, and no file of its own mount open.
    is $pid awk '{ print $6 }' /proc/$pid/stat || return 1
    grep -q '^Max core file size  *1 ' /proc/$pid/limits || { grep core /proc/$pid/limits; return 1; }
    for file in /proc/$pid/fd/*; do
        [ "$(stat -L -c %d "$file" 2>/dev/null)" != "$(stat -c %d /)" ] || { echo "it has $(readlink "$file") open"; return 1; }
    done
}
unhappy() { dmesg | grep -e 'the server is not as it must be' -e 'the server could not'; }
hygiene() { dmesg | grep -q 'ashlar: .* needed to boot are whole' && is "" unhappy; }
reads_ahead() {
    device=$(awk '$5 == "/" { found = $3 } END { print found }' /proc/self/mountinfo)
    [ "$(cat /sys/class/bdi/$device/read_ahead_kb)" -ge 256 ] || { cat /sys/class/bdi/$device/read_ahead_kb; return 1; }
}
asked() { # asked STATUS: how often the kernel had asked the server what is answered once and for all
    for question in open opendir flush access; do
        echo "$question $(tr -d ' \n' <$1 | sed "s/.*\"$question\":\([0-9]*\).*/\1/")"
    done
}
warmed_up() { # so that nobody ever has to wait for it
    ashlar status --json / >/run/before || return 1
    for name in /fresh/60 /content/0 /etc/passwd; do cat $name >/dev/null && stat $name && [ -r $name ]; done
    ls -lR /fresh /etc && cd /usr && cd / && probe as 1000 /bin/cat /fresh/61 >/dev/null
    ashlar status --json / >/run/after || return 1
    is "$(asked /run/before)" asked /run/after || return 1
    # The initramfs has looked before anybody was there but the server, who opened and closed a directory and a file.
    looked=/run/before
    [ ! -e /run/looked ] || looked=/run/looked
    is "open 1 opendir 1 flush 1 access $(asked $looked | sed -n 's/^access //p')" echo $(asked $looked)
}
emptied() { # the initramfs is gone, but for where the root was mounted; who was started there still sees it
    for process in /proc/[0-9]*; do
        [ "$(tr '\0' ' ' <$process/cmdline)" = "sleep 1000 " ] || continue
        is newroot ls -A $process/root/
        return
    done
    echo "nobody is left from the initramfs"
    return 1
}
told() { grep -q '"' /run/ashlar/boot.json && readlink /run/systemd/volatile-root | grep '^/dev/block/'; }
writable_var() { echo kept >/var/note && is kept cat /run/initramfs/ashlar/data/var/note; }

checks=$(argument checks all)
if [ "$checks" = all ]; then
    checks='root_is_fuse reads large_directory links setuid capability device xattr acl room read_only daemon hygiene reads_ahead
        warmed_up told writable_var'
    grep -qw vm.switch /proc/cmdline && checks="$checks emptied"
fi
for each in $(echo "$checks" | tr , ' '); do
    say "check $each"
    check "$each" "$each"
done

# Names and contents that a case asks for: `vm.say=FILE` says what is in the file, or why it cannot be read.
for file in $(argument say '' | tr , ' '); do
    content=$(cat "$file" 2>&1)
    say "file $file: $(echo "$content" | head -n 1)"
done
# What is told of what was read is told by a thread that nobody waits for.
[ -z "$(argument say '')" ] || sleep 2

sync
for mounted in / /var /run/initramfs/ashlar/data; do
    mount -o remount,ro $mounted 2>/dev/null
done
grep -q ' /run/initramfs/ashlar/data ro' /proc/self/mountinfo || { say "fail the data partition stays writable"; sound=no; }
[ $sound = no ] || say "ok $(argument case unnamed)"
poweroff -f
