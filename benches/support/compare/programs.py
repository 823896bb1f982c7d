"""Which programs of a tree can be started without running them? Those that begin with the C library's loader."""

import os
import stat
import struct
import sys
from pathlib import Path

PT_INTERP = 3
LOADERS = ("ld-linux", "ld64.so")  # glibc's; musl's does not know the mode that workload.c asks for
HEADER = 64
PROGRAM_HEADERS_MAX = 64


class Binaries:
    def __init__(self, tree: Path):
        self.tree = tree
        with open(sys.executable, "rb") as file:
            self.own_kind = kind(file.read(HEADER))

    def of(self, files: list[tuple[int, str]]) -> list[str]:
        """Each file once, whatever its names, in a fixed order."""
        found: dict[tuple[int, int], str] = {}
        for _, path in files:
            info = os.lstat(self.tree / path)
            # With such bits the loader would not listen to what it is told.
            is_plain = not info.st_mode & (stat.S_ISUID | stat.S_ISGID)
            if is_plain and info.st_mode & 0o111 and self.starts_with_loader(self.tree / path):
                found.setdefault((info.st_dev, info.st_ino), path)
        return sorted(found.values())

    def starts_with_loader(self, path: Path) -> bool:
        with open(path, "rb") as file:
            header = file.read(HEADER)
            if kind(header) != self.own_kind or kind(header) is None:
                return False
            table, = struct.unpack_from("<Q", header, 32)
            entry_len, count = struct.unpack_from("<HH", header, 54)
            for index in range(min(count, PROGRAM_HEADERS_MAX)):
                file.seek(table + index * entry_len)
                entry = file.read(56)
                if len(entry) == 56 and struct.unpack_from("<I", entry)[0] == PT_INTERP:
                    offset, = struct.unpack_from("<Q", entry, 8)
                    file.seek(offset)
                    loader = file.read(256).split(b"\0")[0].decode("latin-1")
                    # `exists` would follow a link of the tree out of it.
                    there = self.tree / loader.lstrip("/")
                    return os.path.basename(loader).startswith(LOADERS) and os.path.lexists(there)
        return False


def kind(header: bytes) -> tuple[int, int] | None:
    """Class and machine of a little-endian 64-bit ELF file; the loader and the kernel refuse any other than our own."""
    if len(header) < HEADER or header[:6] != b"\x7fELF\x02\x01":
        return None
    return header[4], struct.unpack_from("<H", header, 18)[0]
