#!/usr/bin/env python3
"""Adds what a fresh Debian root lacks: one of everything that is hard to carry.

usage: hard_cases.py ROOT        (as root; ROOT/srv/hard-cases must not exist yet)

Every case here is one that some archiver, filesystem or backup tool is known to lose.
Standard library only; `setfacl` and `setcap` come from the packages acl and libcap2-bin.
"""

import os
import random
import socket
import subprocess
import sys

ROOT = os.fsencode(sys.argv[1])
HERE = os.path.join(ROOT, b"srv/hard-cases")
SECOND = 1_000_000_000


def path(name: bytes) -> bytes:
    return os.path.join(HERE, name)


def write(name: bytes, content: bytes = b"") -> bytes:
    with open(path(name), "wb") as file:
        file.write(content)
    return path(name)


def names() -> None:
    os.mkdir(path(b"names"))
    for name in [
        b"latin1-caf\xe9",  # not UTF-8
        b"invalid-\xff\xfe\x80",
        "unicode-Ω-é-e\u0301".encode(),  # composed and decomposed stay two different spellings
        b"new\nline",
        b"tab\tand space",
        b"back\\slash",
        b"-rf",
        b"..dots",
        b"\x01control\x7f",
        b"n" * 255,
        b"N" * 255,
    ]:
        write(b"names/" + name, name)
    deep = path(b"deep")
    for level in range(40):
        deep = os.path.join(deep, b"level-%02d-%s" % (level, b"x" * 60))
    # A path longer than PATH_MAX/2, still short enough for tools that know nothing of openat.
    os.makedirs(deep)
    with open(os.path.join(deep, b"bottom"), "wb") as file:
        file.write(b"found\n")


def owners_modes_times() -> None:
    for mode in (0o000, 0o111, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777):
        os.chmod(write(b"mode-%04o" % mode, b"%o\n" % mode), mode)
    os.mkdir(path(b"sticky-setgid"))
    os.chmod(path(b"sticky-setgid"), 0o3777)
    os.chown(write(b"owner-32-bit"), 100_000, 4_000_000_000)
    os.chown(write(b"owner-largest"), 0xFFFF_FFFE, 0xFFFF_FFFE)
    for name, when in {
        b"time-epoch": 0,
        b"time-before-1970": -2 * SECOND + 1,
        b"time-last-nanosecond": 1_600_000_000 * SECOND + 999_999_999,
        b"time-after-2038": 4_000_000_000 * SECOND + 7,
        b"time-after-2106": 5_000_000_000 * SECOND + 8,
    }.items():
        os.utime(write(name), ns=(when, when))


def links() -> None:
    first = write(b"link-1", b"one inode, three names\n")
    os.link(first, path(b"link-2"))
    os.link(first, path(b"names/link-3"))
    os.symlink(b"t" * 4095, path(b"symlink-longest"))
    os.symlink(b"to-\xff-nowhere", path(b"symlink-dangling"))
    os.symlink(b"symlink-itself", path(b"symlink-itself"))
    os.lchown(path(b"symlink-itself"), 1000, 1000)
    os.utime(path(b"symlink-itself"), ns=(5, 5), follow_symlinks=False)
    os.mknod(path(b"fifo-1"), 0o010640)
    os.link(path(b"fifo-1"), path(b"fifo-2"))


def special_files() -> None:
    os.mknod(path(b"block-largest-numbers"), 0o060660, os.makedev(4095, 1_048_575))
    os.mknod(path(b"block-sda1"), 0o060660, os.makedev(8, 1))
    os.mknod(path(b"char-tty63"), 0o020620, os.makedev(4, 63))
    with socket.socket(socket.AF_UNIX) as server:
        # sun_path holds 108 bytes; go there rather than name the whole path.
        before = os.getcwd()
        os.chdir(HERE)
        server.bind(b"socket")
        os.chdir(before)


def xattrs() -> None:
    file = write(b"xattrs", b"attributed\n")
    os.setxattr(file, b"user.empty", b"")
    os.setxattr(file, b"user.binary", bytes(range(256)))
    os.setxattr(file, b"user." + b"n" * 200, b"a long name")
    os.setxattr(file, b"trusted.for-root", b"yes")
    os.setxattr(file, b"security.selinux", b"system_u:object_r:etc_t:s0\0")
    os.setxattr(write(b"xattr-large"), b"user.large", random.Random(1).randbytes(3000))
    os.setxattr(write(b"xattr-same-1"), b"user.shared", b"same value")
    os.setxattr(write(b"xattr-same-2"), b"user.shared", b"same value")
    os.symlink(b"xattrs", path(b"xattr-symlink"))
    os.setxattr(path(b"xattr-symlink"), b"trusted.on-symlink", b"itself", follow_symlinks=False)
    os.setxattr(ROOT, b"user.on-the-root", b"top")
    os.mkdir(path(b"acl-default"))
    subprocess.run(["setfacl", "-m", "u:1000:rx,d:u:1000:rwx,d:g:2000:-", path(b"acl-default")], check=True)
    subprocess.run(["setfacl", "-m", "u:1000:rw,g:2000:r,m:rw", write(b"acl-file")], check=True)
    subprocess.run(["setcap", "cap_net_raw,cap_sys_admin+ep", write(b"capable", b"#!/bin/true\n")], check=True)


def contents() -> None:
    noise = random.Random(2)
    write(b"empty")
    write(b"one-byte", b"1")
    write(b"zeroes", bytes(1 << 20))
    write(b"incompressible", noise.randbytes(1 << 20))
    for at in (4096, 65536, 131072, 262144):
        for size in (at - 1, at, at + 1):
            write(b"size-%d" % size, noise.randbytes(size // 2) + bytes(size - size // 2))
    twin = noise.randbytes(300_000)
    write(b"twin-1", twin)
    write(b"twin-2", twin)
    write(b"twin-longer", twin + b"tail")
    with open(path(b"sparse"), "wb") as file:  # data in the middle, holes on both sides
        file.truncate(8 << 20)
        for at in (1 << 20, (5 << 20) + 12_345):
            file.seek(at)
            file.write(noise.randbytes(100_000))
    with open(path(b"sparse-all-hole"), "wb") as file:
        file.truncate(3 << 20)
    os.mkdir(path(b"many"))
    for index in range(3000):
        write(b"many/entry-%05d" % index, b"%d\n" % index if index % 3 else b"")
    os.mkdir(path(b"empty-directory"))


os.umask(0o022)
os.mkdir(HERE)
names()
owners_modes_times()
links()
special_files()
xattrs()
contents()
# Written last: the work above has touched these directories.
for directory, _, _ in os.walk(HERE, topdown=False):
    os.utime(directory, ns=(1_700_000_000 * SECOND + 1, 1_700_000_000 * SECOND + 123_456_789))
