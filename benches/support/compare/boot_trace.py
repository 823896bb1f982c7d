"""What does a boot read, in which order? A recorded trace, or a sample made from the tree by a fixed recipe.

A trace is what `ashlar mount --record-trace` writes: a head, then lines `OFFSET LENGTH /PATH`.
"""

import fnmatch
import random
from pathlib import Path

from .trees import SEED

Range = tuple[int, int, str]

HEAD = "ashlar trace 1"

WINDOW = 128 << 10
# In the order a Debian machine comes up: the kernel's first program and what it links, its units, the devices,
# the settings, then the services and whoever logs in.
SAMPLE = """usr/lib/*/ld-linux* usr/lib/systemd/systemd usr/lib/*/systemd/libsystemd* usr/lib/*/libc.so* usr/lib/*/lib*.so*
usr/lib/systemd/system-generators/* usr/lib/systemd/system/* etc/systemd/* usr/lib/systemd/systemd-* usr/lib/udev/rules.d/*
usr/lib/udev/* usr/lib/modules/* etc/modprobe.d/* usr/bin/udevadm usr/lib/tmpfiles.d/* usr/lib/sysusers.d/* etc/ld.so.cache
etc/passwd etc/group etc/nsswitch.conf etc/pam.d/* usr/lib/*/security/* usr/bin/dbus-daemon usr/share/dbus-1/* usr/sbin/sshd
etc/ssh/* usr/lib/locale/* usr/sbin/agetty usr/bin/login usr/bin/bash etc/profile* usr/bin/journalctl usr/bin/systemctl"""
SAMPLE_FILES_MAX = 1500
SAMPLE_LIBRARIES_MAX = 60  # a system's programs share them; not every one is loaded at boot
ELSE_FILES = 400  # of a tree that is nobody's root


def given(trace: Path, files: list[tuple[int, str]]) -> tuple[list[Range], str]:
    """What a recorded trace names; lines that name no regular file of this tree are counted, not followed."""
    known = {path for _, path in files}
    ranges, strange = [], 0
    head, *lines = trace.read_text(errors="surrogateescape").split("\n")
    if head != HEAD:
        raise SystemExit(f"compare: {trace} is no trace: `ashlar mount --record-trace` writes them")
    for number, line in enumerate(filter(None, lines), start=2):
        try:
            offset, length, path = line.split(" ", 2)
            one = (int(offset), int(length), path.lstrip("/"))
        except ValueError:
            raise SystemExit(f"compare: {trace}:{number}: want OFFSET LENGTH /PATH") from None
        if one[2] in known:
            ranges.append(one)
        else:
            strange += 1
    left_out = f", {strange} lines name no regular file of the tree" if strange else ""
    return ranges, f"{trace.name}: {len(ranges)} ranges{left_out}"


def text(ranges: list[Range]) -> str:
    """The same as a trace, for `mkimage --order`."""
    return "".join([f"{HEAD}\n", *(f"{offset} {length} /{path}\n" for offset, length, path in ranges)])


def sample(files: list[tuple[int, str]]) -> tuple[list[Range], str]:
    """Small files whole; of programs and libraries the head and then half of their windows, as page faults do."""
    dice = random.Random(SEED)
    sizes = {path: size for size, path in files if size}
    chosen: dict[str, None] = {}
    for pattern in SAMPLE.split():
        matching = sorted(fnmatch.filter(sizes, pattern))
        if pattern.endswith("lib*.so*"):
            matching = dice.sample(matching, min(len(matching), SAMPLE_LIBRARIES_MAX))
        chosen.update(dict.fromkeys(matching))
    kind = "a Debian machine coming up"
    if len(chosen) < ELSE_FILES // 4:
        kind = "a tree without a system"
        chosen = dict.fromkeys(dice.sample(sorted(sizes), min(len(sizes), ELSE_FILES)))
    ranges: list[Range] = []
    for path in list(chosen)[:SAMPLE_FILES_MAX]:
        windows = list(range(0, sizes[path], WINDOW))
        if len(windows) > 2:
            ranges.append((0, 4096, path))
            windows = dice.sample(windows, len(windows) // 2)
        ranges += [(at, min(WINDOW, sizes[path] - at), path) for at in windows]
    return ranges, f"sample made by rule ({kind}): {len(ranges)} ranges"
