#!/bin/sh
# PID 1 of a small root that is asked what it keeps: each line of /run/script is a command that must succeed.
export PATH=/bin:/sbin
say() { echo "<1>ASHLAR-VM: $*" >/dev/kmsg; }
argument() { # argument NAME DEFAULT: the last vm.NAME= of the kernel's command line
    found=$2
    for word in $(cat /proc/cmdline); do
        case $word in "vm.$1="*) found=${word#*=} ;; esac
    done
    echo "$found"
}

is() { # is EXPECTED COMMAND...: the command says so
    expected=$1
    shift
    got=$("$@" 2>&1)
    [ "$got" = "$expected" ] || { echo "$* said '$got', not '$expected'"; return 1; }
}
no() { # no COMMAND...: it fails
    if got=$("$@" 2>&1); then
        echo "$*: was possible: $got"
        return 1
    fi
}
refused() { # refused WHY COMMAND...: it fails, and says why
    why=$1
    shift
    no "$@" || return 1
    case $got in *"$why"*) ;; *) echo "$* said '$got', not '$why'"; return 1 ;; esac
}
erofs() { refused 'Read-only file system' "$@"; }
write() { echo "$1" >"$2"; } # write TEXT FILE
has() { # has FILE TEXT: a line of the file has the text
    grep -qF -e "$2" "$1" || { echo "$1 has no '$2':"; tail -n 12 "$1"; return 1; }
}
there() { # there PATH...: each is there
    for path in "$@"; do
        [ -e "$path" ] || [ -L "$path" ] || { echo "$path is not there"; return 1; }
    done
}
gone() { # gone PATH...: none is there
    for path in "$@"; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            echo "$path is there"
            return 1
        fi
    done
}
mounted() { # mounted PATH: type and source of the uppermost mount there
    awk -v at="$1" '$5 == at { for (i = 1; i < NF; i++) if ($i == "-") found = $(i + 1) " " $(i + 2) } END { print found }' /proc/self/mountinfo
}
degraded() { # degraded TEXT: this is among what does not work
    ashlar boot status | grep '^degraded ' | grep -qF -e "$1" || { ashlar boot status; return 1; }
}
sound() { # nothing is among that
    got=$(ashlar boot status 2>&1) || { echo "ashlar boot status: $got"; return 1; }
    no grep '^degraded' <<END
$got
END
}
warned() { # warned TEXT: the kernel's log has it
    dmesg | grep -F 'ashlar: ' | grep -qF -e "$1" || { dmesg | grep -F 'ashlar: ' | tail -n 8; return 1; }
}
listing() { # listing DIRECTORY: all that it is, apart from what a file system adds of its own
    cd "$1" || return 1
    find . ! -type l -exec stat -c '%n %a %u %g %h %Y %F' {} + | sed '/ directory$/s/ [0-9]* \([0-9]* directory\)$/ \1/' | sort
    find . -type l -exec stat -c '%N %u %g' {} + | sort
    find . -type f -exec sha256sum {} + | sort
}
same() { # same DIRECTORY DIRECTORY: a difference of the two is not to be found
    listing "$1" >/run/left && listing "$2" >/run/right || return 1
    [ "$(wc -l </run/left)" -gt 2 ] || { echo "$1 is empty"; return 1; }
    diff /run/left /run/right
}

data=/run/initramfs/ashlar/data
lower=/run/initramfs/ashlar/lower
say "started"
[ "$(argument shell no)" = no ] || setsid cttyhack sh
sound=yes
lines=0
while IFS= read -r line; do
    case $line in '' | '#'*) continue ;; esac
    lines=$((lines + 1))
    said=$(eval "$line" 2>&1 </dev/null) && continue
    say "fail $line: $(echo "$said" | tail -n 12 | tr '\n' '|')"
    sound=no
done </run/script

sync
for mounted in / /etc /opt /var $data; do
    mount -o remount,ro $mounted 2>/dev/null
done
grep -q " $data ro" /proc/self/mountinfo || { say "fail the data partition stays writable"; sound=no; }
[ $sound = no ] || say "ok $lines lines"
poweroff -f
