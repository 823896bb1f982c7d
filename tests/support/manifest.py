#!/usr/bin/env python3
"""Prints what a directory tree holds, one line per path: the test suite's idea of "equal".

usage: manifest.py DIR           (needs the Python package blake3; as root to see trusted.* xattrs)

Twelve fields, separated by one tab:

  path    type    mode    uid    gid    size    nlink    mtime    device    target    xattrs    content

  path      `/` for DIR itself, else `/` and the path below DIR, escaped
  type      file dir link char block fifo sock
  mode      permission bits with setuid, setgid and sticky, octal, four digits
  uid gid   decimal
  size      bytes, decimal; `-` for a directory
  nlink     number of names; `-` for a directory
  mtime     seconds.nanoseconds, nine digits after the point; before 1970 the seconds are rounded
            towards minus infinity, so -1.5 s is `-2.500000000`
  device    major:minor of c and b, else `-`
  target    where a symbolic link points, escaped, else `-`
  xattrs    `name=hex;name=hex`, sorted by raw name, names escaped (also `=` and `;`), else `-`
  content   BLAKE3 of a regular file's content in hex, else `-`

Escaped: every byte outside 0x21..0x7e, and the backslash, is written `\\xHH` in lower case.
Lines are sorted by the unescaped path, byte by byte. Holes are content like any other.
"""

import os
import stat
import sys

from blake3 import blake3

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "sock",
}


def escape(raw: bytes, also: bytes = b"") -> str:
    return "".join(
        chr(byte) if 0x21 <= byte <= 0x7E and byte != 0x5C and byte not in also else f"\\x{byte:02x}"
        for byte in raw
    )


def xattrs(path: bytes) -> str:
    pairs = [
        escape(name, also=b"=;") + "=" + os.getxattr(path, name, follow_symlinks=False).hex()
        for name in sorted(map(os.fsencode, os.listxattr(path, follow_symlinks=False)))
    ]
    return ";".join(pairs) or "-"


def content(path: bytes) -> str:
    hasher = blake3()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()


def line(path: bytes, shown: bytes) -> str:
    info = os.lstat(path)
    kind = TYPES[stat.S_IFMT(info.st_mode)]
    seconds, nanoseconds = divmod(info.st_mtime_ns, 1_000_000_000)
    return "\t".join(
        [
            escape(shown),
            kind,
            f"{stat.S_IMODE(info.st_mode):04o}",
            str(info.st_uid),
            str(info.st_gid),
            "-" if kind == "dir" else str(info.st_size),
            "-" if kind == "dir" else str(info.st_nlink),
            f"{seconds}.{nanoseconds:09d}",
            f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}" if kind in ("char", "block") else "-",
            escape(os.readlink(path)) if kind == "link" else "-",
            xattrs(path),
            content(path) if kind == "file" else "-",
        ]
    )


def paths_below(top: bytes) -> list[bytes]:
    found, waiting = [], [b""]
    while waiting:
        directory = waiting.pop()
        with os.scandir(top + directory) as entries:
            for entry in entries:
                path = directory + b"/" + entry.name
                found.append(path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
    return sorted(found)


def main() -> None:
    top = os.path.realpath(os.fsencode(sys.argv[1]))
    print(line(top, b"/"))
    for path in paths_below(top):
        print(line(top + path, path))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main()
