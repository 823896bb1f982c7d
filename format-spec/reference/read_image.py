#!/usr/bin/env python3
"""A second reader of the Ashlar image format, version 1, written from ../SPEC.md alone.

It is a check on that page and on the main implementation, so it shares no code with it, and prefers being plain to
being fast. It needs Python 3.11 and the packages `blake3` and `zstandard`. Each rule S-nn of the page is checked
where `fail("S-nn", ...)` stands below. Nothing recurses over image data, and every length is held against the
length of the file or of its section before anything of that length is read.

    read_image.py inspect IMAGE
    read_image.py ls [-R] IMAGE [PATH]
    read_image.py cat IMAGE PATH
    read_image.py verify IMAGE
    read_image.py manifest IMAGE
    read_image.py check-vectors DIR

All commands but the last take `--root-digest HEX`; without it the root digest is computed from the superblock, which
then tells damage but proves nothing. Exit status: 0 good, 1 a vector failed, or there is no such path, 2 wrong
use, 4 the image is damaged.
"""
import argparse
import functools
import itertools
import os
import pathlib
import re
import stat
import struct
import sys
import unicodedata
from array import array
from typing import NamedTuple

import zstandard
from blake3 import blake3

NONE = 0xFFFFFFFF
SUPERBLOCK_LEN, ENTRY_LEN, PAGE_ENTRIES, INODE_LEN, RUN_LEN, DIRENT_LEN, PREFETCH_LEN = (
    4096, 48, 1024, 64, 12, 12, 4)
SECTIONS = ("inodes", "runs", "directories", "links", "xattrs", "prefetch")
TYPES = {0x1000: "fifo", 0x2000: "char", 0x4000: "dir", 0x6000: "block", 0x8000: "file", 0xA000: "link", 0xC000: "sock"}
DIR, REG, LINK, CHAR, BLOCK = 0x4000, 0x8000, 0xA000, 0x2000, 0x6000
ACL_PREFIX, COMPAT_ACL = b"system.posix_acl_", 1
MAX_DEPTH = 2048

RULES = {
    "untrusted": {
        "S-01": "Superblock", "S-02": "Truncated", "S-03": "Backup", "S-04": "Trailing", "S-20": "PageList",
        "S-21": "TablePage", "S-22": "Block", "S-80": "Trailer", "S-81": "Signature", "S-82": "Parity"},
    "unsupported": {"S-11": "Version", "S-12": "Features"},
    "corrupt": {
        "S-10": "NotAnImage", "S-13": "SuperblockReserved", "S-14": "BlockSize", "S-15": "ImageLayout",
        "S-16": "SectionLayout", "S-17": "SectionLength", "S-18": "Label", "S-23": "Codec", "S-24": "EntryReserved",
        "S-25": "EntryLength", "S-26": "EntryOffset", "S-30": "Expansion", "S-31": "SectionBlock", "S-40": "InodeType",
        "S-41": "Root", "S-42": "InodeReserved", "S-43": "InodeTime", "S-44": "LinkCount", "S-45": "FileSize",
        "S-46": "SymlinkTarget", "S-47": "DeviceNumber", "S-48": "Unreachable", "S-49": "LinkLayout",
        "S-50": "RunsOutside", "S-51": "RunOrder", "S-52": "RunSplit", "S-53": "RunBlock", "S-54": "RunBlockLength",
        "S-55": "Tail", "S-56": "BlockUnused", "S-57": "RunLayout", "S-58": "PrefetchBlock",
        "S-59": "PrefetchTwice", "S-60": "DirectoryRecord", "S-61": "NameLength", "S-62": "NameBytes",
        "S-63": "NameOrder", "S-64": "EntryInode", "S-65": "EntryType", "S-66": "Parent", "S-67": "DirentReserved",
        "S-68": "Depth", "S-69": "DirectoryLayout", "S-70": "XattrOutside", "S-71": "XattrName", "S-72": "XattrOrder",
        "S-73": "XattrSize", "S-74": "XattrReserved", "S-75": "AclFlag", "S-76": "XattrLayout"},
}


class Violation(Exception):
    """A broken rule: its number, what it is called, its class, and the numbers that broke it."""

    def __init__(self, rule, details):
        self.rule, self.details = rule, details
        self.kind, self.name = next((kind, names[rule]) for kind, names in RULES.items() if rule in names)
        super().__init__(f"{self.kind} {self.name} {rule}: {details}")


def fail(rule, details):
    raise Violation(rule, details)


def digest(context, data):
    return blake3(data, derive_key_context="ashlar format v1: " + context).digest()


def ceil_div(a, b):
    return -(-a // b)


def escape(raw, also=b""):
    return "".join(chr(c) if 0x21 <= c <= 0x7E and c != 0x5C and c not in also else f"\\x{c:02x}" for c in raw)


# ---------------------------------------------------------------------------------------------- bytes of the file

class Source:
    """The file or device that holds an image, which starts at `base` (0 but in a vector file)."""

    def __init__(self, path, base=0):
        self.fd, self.base = os.open(path, os.O_RDONLY | os.O_CLOEXEC), base
        self.regular = stat.S_ISREG(os.fstat(self.fd).st_mode)
        self.length = os.lseek(self.fd, 0, os.SEEK_END) - base

    def close(self):
        os.close(self.fd)

    def read(self, offset, length):
        if offset + length > self.length:
            fail("S-02", f"bytes [{offset}:{offset + length}] of a file of {self.length}")
        parts, got = [], 0
        while got < length:
            part = os.pread(self.fd, length - got, self.base + offset + got)
            if not part:
                fail("S-02", f"the file ends at {offset + got} while it is being read")
            parts.append(part)
            got += len(part)
        return b"".join(parts)


# ---------------------------------------------------------------------------------------------- §3, the superblock

class Superblock:
    def __init__(self, raw):
        if raw[:8] != b"ASHLAR\x1a\n":
            fail("S-10", f"the image starts with {raw[:8].hex()}")
        self.format_version, reserved_0, self.incompat, self.compat = struct.unpack_from("<IIQQ", raw, 0x08)
        if self.format_version != 1:
            fail("S-11", f"format version {self.format_version}")
        if self.incompat:
            fail("S-12", f"incompat bits {self.incompat:#x}")
        self.image_len, self.image_version, self.build_time = struct.unpack_from("<QQq", raw, 0x20)
        self.block_bits, self.metadata_block_bits = raw[0x38], raw[0x39]
        self.block_count, self.data_block_count, self.table_offset = struct.unpack_from("<IIQ", raw, 0x40)
        self.page_list_digest = raw[0x50:0x70]
        self.section_len = dict(zip(SECTIONS, struct.unpack_from("<6Q", raw, 0x70)))
        if reserved_0 or any(raw[0x3A:0x40]) or any(raw[0xE0:]):
            fail("S-13", "a reserved byte of the superblock is not zero")
        if not (12 <= self.block_bits <= 20 and 12 <= self.metadata_block_bits <= 20):
            fail("S-14", f"block_bits {self.block_bits}, metadata_block_bits {self.metadata_block_bits}")
        self.block_size, self.metadata_block_size = 1 << self.block_bits, 1 << self.metadata_block_bits
        self.page_count = ceil_div(self.block_count, PAGE_ENTRIES)
        self.page_list_offset = self.table_offset + ENTRY_LEN * self.block_count
        want = self.page_list_offset + 32 * self.page_count + SUPERBLOCK_LEN
        if self.table_offset < SUPERBLOCK_LEN or self.image_len != want:
            fail("S-15", f"table_offset {self.table_offset}, block_count {self.block_count}, image_len "
                         f"{self.image_len} instead of {want}")
        blocks = self.data_block_count
        self.section_block = {}  # section -> index of its first block
        for name in SECTIONS:
            self.section_block[name] = blocks
            blocks += ceil_div(self.section_len[name], self.metadata_block_size)
        if self.block_count >= NONE or self.block_count != blocks:
            fail("S-16", f"block_count {self.block_count}, while the sections make it {blocks}")
        length = self.section_len
        self.inode_count = length["inodes"] // INODE_LEN
        if (length["inodes"] % INODE_LEN or not 1 <= self.inode_count < NONE or length["runs"] % RUN_LEN
                or length["xattrs"] > NONE or length["prefetch"] % PREFETCH_LEN
                or length["prefetch"] > PREFETCH_LEN * self.data_block_count):
            fail("S-17", ", ".join(f"{name}_len {length[name]}" for name in SECTIONS))
        label, _, rest = raw[0xA0:0xE0].partition(b"\0")
        try:
            self.label = label.decode("utf-8")
        except UnicodeDecodeError as error:
            fail("S-18", f"label {label.hex()}: {error}")
        if any(rest) or any(unicodedata.category(c) == "Cc" for c in self.label):
            fail("S-18", f"label {raw[0xA0:0xE0].hex()}")


# ---------------------------------------------------------------------------------------------- §4, §5, blocks

class Entry(NamedTuple):
    """One entry of the digest table."""
    digest: bytes
    offset: int
    codec: int
    stored_len: int
    content_len: int


def expand(index, stored, content_len):
    """What the frame of a block holds. The frame is followed here by RFC 8878, §3.1.1, to find where it ends and what
    it declares, before the library gets to see it."""
    def bad(why):
        fail("S-30", f"block {index}, {len(stored)} bytes stored, {content_len} of content: {why}")

    if stored[:4] != b"\x28\xb5\x2f\xfd" or len(stored) < 6:
        bad("it does not start with a frame")
    if stored[4] & 0x3F != 0x20:
        bad(f"its frame header descriptor is {stored[4]:#x}")
    size_len = (1, 2, 4, 8)[stored[4] >> 6]
    at = 5
    declared = int.from_bytes(stored[at:at + size_len], "little") + (256 if size_len == 2 else 0)
    if declared != content_len:
        bad(f"it declares a content of {declared}")
    at += size_len
    last = False
    while not last:
        header = int.from_bytes(stored[at:at + 3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        at += 3 + (1 if kind == 1 else size)
        if at > len(stored):
            bad("its frame is cut off")
    if at != len(stored):
        bad(f"its frame ends at {at}")
    try:
        content = zstandard.ZstdDecompressor().decompress(stored, max_output_size=content_len)
    except zstandard.ZstdError as error:
        bad(error)
    if len(content) != content_len:
        bad(f"it expands to {len(content)} bytes")
    return content


def without_x86_filter(content):
    """Undoes the filter of codec 2, §5.1."""
    out, i, reach = bytearray(content), 0, 1 << 26
    while i + 6 <= len(out):
        if out[i] & 0xFE == 0xE8:
            p = i + 1
        elif out[i] & 0xF9 == 0x89 and out[i + 1] & 0xC7 == 0x05:
            p = i + 2
        else:
            i += 1
            continue
        v = int.from_bytes(out[p:p + 4], "little", signed=True)
        if -reach <= v < reach:
            v = (v + reach - p) % (2 * reach) - reach
            out[p:p + 4] = v.to_bytes(4, "little", signed=True)
        i = p + 4
    return bytes(out)


def without_arm64_filter(content):
    """Undoes the filter of codec 3, §5.1."""
    out = bytearray(content)
    for p in range(0, len(out) - 3, 4):
        word = int.from_bytes(out[p:p + 4], "little")
        if word >> 26 == 0b100101:
            word = 0b100101 << 26 | (word - p // 4) % (1 << 26)
            out[p:p + 4] = word.to_bytes(4, "little")
    return bytes(out)


FILTERS = {2: without_x86_filter, 3: without_arm64_filter}


# ---------------------------------------------------------------------------------------------- §6, inodes

class Inode(NamedTuple):
    mode: int
    reserved_0: int
    nlink: int
    uid: int
    gid: int
    size: int
    mtime_sec: int
    mtime_nsec: int
    xattrs: int
    at: int
    a: int
    b: int
    c: int
    reserved_1: int

    @property
    def type(self):
        return self.mode & 0xF000

    def check(self, index, sb):
        """The rules that need no more than the inode itself and the lengths of the sections."""
        text, kind = f"inode {index}", self.type
        if kind not in TYPES:
            fail("S-40", f"{text}: mode {self.mode:#o}")
        if index == 0 and (kind != DIR or self.b != 0):
            fail("S-41", f"{text}: mode {self.mode:#o}, parent {self.b}")
        device = kind in (CHAR, BLOCK)
        zero = [self.reserved_0, self.reserved_1]
        if kind == DIR:
            zero += [self.c]
        elif kind == LINK:
            zero += [self.a, self.b, self.c]
        elif kind != REG:
            zero += [self.size, self.at, self.c] + ([] if device else [self.a, self.b])
        if any(zero):
            fail("S-42", f"{text}, a {TYPES[kind]}: {self}")
        if self.mtime_nsec >= 1_000_000_000:
            fail("S-43", f"{text}: mtime_nsec {self.mtime_nsec}")
        if self.nlink < (2 if kind == DIR else 1):
            fail("S-44", f"{text}, a {TYPES[kind]}: nlink {self.nlink}")
        if self.size >= 1 << 63:
            fail("S-45", f"{text}: size {self.size}")
        if kind == LINK and not (1 <= self.size <= 4095 and self.at + self.size <= sb.section_len["links"]):
            fail("S-46", f"{text}: target [{self.at}:{self.at + self.size}] of {sb.section_len['links']}")
        if device and (self.a >= 1 << 12 or self.b >= 1 << 20):
            fail("S-47", f"{text}: device {self.a}:{self.b}")
        if kind == DIR:
            room = sb.section_len["directories"]
            if self.at + max(self.size, DIRENT_LEN * self.a) > room or (self.a == 0 and (self.at or self.size)):
                fail("S-60", f"{text}: {self.a} entries in [{self.at}:{self.at + self.size}] of {room}")
        if kind == REG:
            full, tail = divmod(self.size, sb.block_size)
            if full >= 1 << 32 or (self.a == 0) != (full == 0) or (self.a == 0 and self.at != 0):
                fail("S-50", f"{text}: {self.a} runs at {self.at} for {full} blocks")
            records = sb.section_len["runs"] // RUN_LEN
            if self.a > 1 and self.at + self.a > records:
                fail("S-50", f"{text}: run records [{self.at}:{self.at + self.a}] of {records}")
            if (tail == 0 and self.b != NONE) or (self.b == NONE and self.c != 0) or (
                    self.b != NONE and self.b >= sb.data_block_count):
                fail("S-55", f"{text}: tail of {tail} at {self.c} of block {self.b}")


# ---------------------------------------------------------------------------------------------- the image

class Image:
    def __init__(self, source, root=None):
        self.source = source
        self.superblock_bytes = source.read(0, SUPERBLOCK_LEN)
        self.root = digest("superblock", self.superblock_bytes)
        if root is not None and self.root != root:
            fail("S-01", f"the superblock's digest is {self.root.hex()}, not {root.hex()}")
        self.sb = sb = Superblock(self.superblock_bytes)
        self.page_list = source.read(sb.page_list_offset, 32 * sb.page_count)
        if digest("page list", self.page_list) != sb.page_list_digest:
            fail("S-20", f"page list of {sb.page_count} pages at {sb.page_list_offset}")
        self.page = functools.lru_cache(16)(self.read_page)
        self.block = functools.lru_cache(32)(self.read_block)
        self.inode = functools.lru_cache(1024)(self.read_inode)

    def read_page(self, number):
        """The entries of a page of the digest table."""
        sb, first = self.sb, number * PAGE_ENTRIES
        count = min(PAGE_ENTRIES, sb.block_count - first)
        raw = self.source.read(sb.table_offset + ENTRY_LEN * first, ENTRY_LEN * count)
        if digest("table page", raw) != self.page_list[32 * number:32 * number + 32]:
            fail("S-21", f"table page {number}")
        entries, end = [], None if number else SUPERBLOCK_LEN
        for index, fields in enumerate(struct.iter_unpack("<32s6sBBII", raw), first):
            block_digest, offset, codec, reserved, stored_len, content_len = fields
            offset = int.from_bytes(offset, "little")
            text = f"block {index}"
            if codec > 3:
                fail("S-23", f"{text}: codec {codec}")
            if reserved:
                fail("S-24", f"{text}: reserved byte {reserved:#x}")
            most = sb.block_size if index < sb.data_block_count else sb.metadata_block_size
            if not 1 <= content_len <= most or not (
                    1 <= stored_len < content_len if codec else stored_len == content_len):
                fail("S-25", f"{text}: codec {codec}, stored_len {stored_len}, content_len {content_len} of {most}")
            if offset < SUPERBLOCK_LEN or end not in (None, offset):
                fail("S-26", f"{text} at {offset}, the one before it ends at {end}")
            end = offset + stored_len
            if end > sb.table_offset or (index == sb.block_count - 1 and end != sb.table_offset):
                fail("S-26", f"{text} ends at {end}, the table starts at {sb.table_offset}")
            if index >= sb.data_block_count:
                self.check_section_block(index, content_len)
            entries.append(Entry(block_digest, offset, codec, stored_len, content_len))
        return entries

    def check_section_block(self, index, content_len):
        size = self.sb.metadata_block_size
        name = [n for n in SECTIONS if self.sb.section_block[n] <= index and self.sb.section_len[n]][-1]
        want = min(size, self.sb.section_len[name] - (index - self.sb.section_block[name]) * size)
        if content_len != want:
            fail("S-31", f"block {index} of the section {name}: content_len {content_len} instead of {want}")

    def entry(self, index):
        return self.page(index // PAGE_ENTRIES)[index % PAGE_ENTRIES]

    def read_block(self, index):
        """The content of a block; `self.block` is the same with a cache."""
        entry, is_data = self.entry(index), index < self.sb.data_block_count
        stored = self.source.read(entry.offset, entry.stored_len)
        if digest("data block" if is_data else "metadata block", stored) != entry.digest:
            fail("S-22", f"block {index}, [{entry.offset}:{entry.offset + entry.stored_len}]")
        if entry.codec == 0:
            return stored
        content = expand(index, stored, entry.content_len)
        return FILTERS[entry.codec](content) if entry.codec in FILTERS else content

    def read(self, section, offset, length):
        """Content bytes of a section. Callers have checked the range, and ask for small ones only."""
        assert offset + length <= self.sb.section_len[section] and length <= 1 << 16
        size, parts = self.sb.metadata_block_size, []
        while length:
            number, start = divmod(offset, size)
            parts.append(self.block(self.sb.section_block[section] + number)[start:start + length])
            offset, length = offset + len(parts[-1]), length - len(parts[-1])
        return b"".join(parts)

    def read_inode(self, index):
        """An inode whose own fields keep the rules; `self.inode` is the same with a cache."""
        raw = self.read("inodes", index * INODE_LEN, INODE_LEN)
        inode = Inode(*struct.unpack("<HHIIIQqIIQIIII", raw))
        inode.check(index, self.sb)
        return inode

    def target(self, index, inode):
        target = self.read("links", inode.at, inode.size)
        if b"\0" in target:
            fail("S-46", f"inode {index}: a zero byte in its target {escape(target)}")
        return target

    # ------------------------------------------------------------------------------------- §6.2, the prefetch list

    def prefetch_list(self):
        """The data blocks that will be wanted first, in that order."""
        for number in range(self.sb.section_len["prefetch"] // PREFETCH_LEN):
            (block,) = struct.unpack("<I", self.read("prefetch", number * PREFETCH_LEN, PREFETCH_LEN))
            if block >= self.sb.data_block_count:
                fail("S-58", f"entry {number} of the prefetch list is block {block} of {self.sb.data_block_count}")
            yield block

    # ------------------------------------------------------------------------------------------ §6.1, content

    def runs(self, index, inode):
        """The runs of a regular file, as (block or None, count)."""
        full = inode.size // self.sb.block_size
        end, before = 0, None
        for number in range(inode.a):
            if inode.a == 1:
                start, block, count = 0, inode.at, full
            else:
                raw = self.read("runs", (inode.at + number) * RUN_LEN, RUN_LEN)
                start, block, count = struct.unpack("<III", raw)
            text = f"inode {index}, run {number} of {inode.a}: {count} blocks from {block} at file block {start}"
            if start != end or count == 0 or end + count > full:
                fail("S-51", f"{text}, the one before it ends at {end}, the file at {full}")
            if before and (block == NONE if before[0] == NONE else block == sum(before)):
                fail("S-52", f"{text}, continuing {before[1]} from {before[0]}")
            if block != NONE and block + count > self.sb.data_block_count:
                fail("S-53", f"{text} of {self.sb.data_block_count}")
            end, before = start + count, (block, count)
            yield (None if block == NONE else block), count
        if end != full:
            fail("S-51", f"inode {index}: its runs end at {end}, the file at {full}")

    def check_tail(self, index, inode, content_len):
        if inode.c + inode.size % self.sb.block_size > content_len:
            fail("S-55", f"inode {index}: tail of {inode.size % self.sb.block_size} at {inode.c} of block {inode.b}, "
                         f"which has {content_len}")

    def content(self, index, inode):
        """The bytes of a regular file, in pieces."""
        size = self.sb.block_size
        for block, count in self.runs(index, inode):
            for number in range(count):
                if block is None:
                    yield bytes(size)
                    continue
                if (length := self.entry(block + number).content_len) != size:
                    fail("S-54", f"inode {index}: block {block + number} has {length} bytes, not {size}")
                yield self.block(block + number)
        tail = inode.size % size
        if inode.b != NONE:
            self.check_tail(index, inode, self.entry(inode.b).content_len)
            yield self.block(inode.b)[inode.c:inode.c + tail]
        else:
            yield bytes(tail)

    # ------------------------------------------------------------------------------------------ §7, directories

    def entries(self, index, inode):
        """The entries of a directory, as (name, inode, type), without a look at the inodes they name."""
        names, end, before = inode.at + DIRENT_LEN * inode.a, 0, None
        names_len = 0
        if inode.a:
            names_len = struct.unpack("<I", self.read("directories", names - DIRENT_LEN + 4, 4))[0]
        if inode.size != DIRENT_LEN * inode.a + names_len:
            fail("S-60", f"inode {index}: {inode.a} entries, {names_len} bytes of names, size {inode.size}")
        for number in range(inode.a):
            raw = self.read("directories", inode.at + number * DIRENT_LEN, DIRENT_LEN)
            child, name_end, kind, reserved = struct.unpack("<IIHH", raw)
            text = f"directory {index}, entry {number} of {inode.a}"
            if not 1 <= name_end - end <= 255 or name_end > names_len:
                fail("S-61", f"{text}: a name in [{end}:{name_end}] of {names_len}")
            name = self.read("directories", names + end, name_end - end)
            if b"\0" in name or b"/" in name or name in (b".", b".."):
                fail("S-62", f"{text}: name {escape(name)}")
            if before is not None and name <= before:
                fail("S-63", f"{text}: {escape(name)} after {escape(before)}")
            if not 0 < child < self.sb.inode_count:
                fail("S-64", f"{text}: inode {child} of {self.sb.inode_count}")
            if reserved:
                fail("S-67", f"{text}: reserved {reserved:#x}")
            yield name, child, kind
            end, before = name_end, name

    def children(self, index, inode):
        """The entries of a directory, as (name, index, inode), held against the inodes they name."""
        for name, child, kind in self.entries(index, inode):
            found = self.inode(child)
            check_entry(index, name, child, kind, found.type, found.b)
            yield name, child, found

    def lookup(self, path):
        index, inode = 0, self.inode(0)
        for part in os.fsencode(path).split(b"/"):
            if part:
                if inode.type != DIR:
                    sys.exit(f"{path}: {escape(part)} is looked for in what is no directory")
                found = [(i, n) for name, i, n in self.children(index, inode) if name == part]
                if not found:
                    sys.exit(f"{path}: no {escape(part)}")
                index, inode = found[0]
        return index, inode

    def walk(self):
        """Every path of the tree as (path, index, inode), ascending by the bytes of the path. A directory stands twice
        among its siblings: by its name, and by its name and `/` for what is in it."""
        root = self.inode(0)
        yield b"/", 0, root
        seen = bytearray(ceil_div(self.sb.inode_count, 8))
        stack = [(b"/", self.walk_one(0, root))]
        while stack:
            prefix, rest = stack[-1]
            name, index, inode = next(rest, (None, None, None))
            if name is None:
                stack.pop()
            elif not name.endswith(b"/"):
                yield prefix + name, index, inode
            else:
                if seen[index >> 3] >> (index & 7) & 1:
                    fail("S-66", f"directory {index} is named more than once")
                seen[index >> 3] |= 1 << (index & 7)
                if len(stack) > MAX_DEPTH:
                    fail("S-68", f"directory {index} is {len(stack)} below the root")
                stack.append((prefix + name, self.walk_one(index, inode)))

    def walk_one(self, index, inode):
        found = list(self.children(index, inode))
        found += [(name + b"/", i, n) for name, i, n in found if n.type == DIR]
        return iter(sorted(found, key=lambda item: item[0]))

    # ------------------------------------------------------------------------------------------ §8, xattrs

    def xattrs(self, index, inode):
        """The xattrs of an inode, as (name, value)."""
        if inode.xattrs == NONE:
            return
        room, at = self.sb.section_len["xattrs"], inode.xattrs

        def take(length):
            nonlocal at
            if at + length > room:
                fail("S-70", f"inode {index}: bytes [{at}:{at + length}] of {room}")
            at += length
            return self.read("xattrs", at - length, length)

        count = int.from_bytes(take(2), "little")
        if count == 0:
            fail("S-73", f"inode {index}: an empty set at {inode.xattrs}")
        names_len, before = 0, None
        for number in range(count):
            head = take(8)
            name_len, value_len = head[0], int.from_bytes(head[4:], "little")
            text = f"inode {index}, xattr {number} of the set at {inode.xattrs}"
            if any(head[1:4]):
                fail("S-74", f"{text}: reserved {head[1:4].hex()}")
            names_len += name_len + 1
            if value_len > 65536 or names_len > 65536:
                fail("S-73", f"{text}: value_len {value_len}, names so far {names_len}")
            name = take(name_len)
            prefix = name.partition(b".")[0]
            if prefix not in (b"user", b"trusted", b"security", b"system") or len(name) < len(prefix) + 2 or 0 in name:
                fail("S-71", f"{text}: name {escape(name)}")
            if before is not None and name <= before:
                fail("S-72", f"{text}: {escape(name)} after {escape(before)}")
            before = name
            yield name, take(value_len)


def check_entry(directory, name, child, kind, child_type, child_parent):
    text = f"directory {directory}, entry {escape(name)}, inode {child}"
    if kind != child_type:
        fail("S-65", f"{text}: type {kind:#x}, the inode's {child_type:#x}")
    if kind == DIR and child_parent != directory:
        fail("S-66", f"{text}: its parent is {child_parent}")


# ---------------------------------------------------------------------------------------------- verifying the whole

def check_rest(source, image_len, with_code):
    """The length of trailer and parity. On a device anything may follow."""
    start = image_len + check_trailer(source, image_len)
    end = start + check_parity(source, start, with_code)
    if source.regular and source.length != end:
        extra = source.length - end
        if end == image_len and extra >= 8 and source.read(source.length - 8, 8) == b"ASHLTAIL":
            fail("S-80", "the trailer has the magic at its end but not at its start")
        fail("S-04", f"{extra} bytes that are neither trailer nor parity after {end}")
    return end - image_len


def check_trailer(source, image_len):
    """The length of the trailer, 0 when there is none."""
    extra = source.length - image_len
    least, most = 48 + 5 + 16, 48 + 16 * (4 + 4096) + 16
    if source.read(image_len, min(8, extra)) != b"ASHLSIGS":
        rest = source.read(image_len, min(most, extra))
        for match in re.finditer(b"(?=(.{4})\0{4}ASHLTAIL)", rest, re.DOTALL):
            if int.from_bytes(match[1], "little") == match.start() + 16:
                fail("S-80", f"a foot ends at {match.start() + 16}, and no head starts there")
        return 0
    if extra < least:
        fail("S-80", f"a trailer of {extra} bytes")
    length, count = struct.unpack("<II", source.read(image_len + 8, 8))
    if not least <= length <= min(most, extra) or not 1 <= count <= 16:
        fail("S-80", f"trailer_len {length} of {extra}, count {count}")
    raw = source.read(image_len, length)
    if raw[-16:] != struct.pack("<II8s", length, 0, b"ASHLTAIL"):
        fail("S-80", f"the trailer of {length} bytes ends with {raw[-16:].hex()}")
    if digest("trailer", raw[:16] + bytes(32) + raw[48:]) != raw[16:48]:
        fail("S-80", "the trailer's checksum")
    at = 48
    for number in range(count):
        size = int.from_bytes(raw[at:at + 4], "little")
        at += 4 + size
        if not 1 <= size <= 4096 or at > length - 16:
            fail("S-80", f"signature {number} of {count}: {size} bytes, up to {at} of {length}")
    if at != length - 16:
        fail("S-80", f"the signatures end at {at} of {length}")
    return length


# ---------------------------------------------------------------------------------------------- §10, parity

PARITY_HEAD_LEN, SHARD_UNIT = 96, 4096


class Field:
    """The field of §10.1, by its logarithms. Numbers are symbols; their sum is `^`."""

    BASIS = (0x0001, 0xACCA, 0x3C0E, 0x163E, 0xC582, 0xED2E, 0x914C, 0x4012,
             0x6C98, 0x10D8, 0x6A72, 0xB900, 0xFDB8, 0xFB34, 0xFF38, 0x991E)

    def __init__(self):
        element = [0] * 65536  # of each symbol, as a polynomial
        for bit, basis in enumerate(self.BASIS):
            for low in range(1 << bit):
                element[low | 1 << bit] = element[low] ^ basis
        symbol, power = {e: s for s, e in enumerate(element)}, 1
        self.exp, self.log = [0] * 65535, [0] * 65536
        for exponent in range(65535):
            self.exp[exponent] = symbol[power]
            self.log[symbol[power]] = exponent
            power <<= 1
            if power >> 16:
                power ^= 0x1002D

    def mul(self, a, log_b):
        return self.exp[(self.log[a] + log_b) % 65535] if a else 0


def parity_head(source, at):
    """The covered length, the number of parity shards and the table's digest; None when there is no head at `at`."""
    if at < 0 or at + PARITY_HEAD_LEN > source.length:
        return None
    raw = source.read(at, PARITY_HEAD_LEN)
    covered, count, reserved = struct.unpack_from("<QII", raw, 8)
    if (raw[:8] != b"ASHLFECS" or raw[-8:] != b"ASHLFECE" or reserved
            or digest("parity head", raw[:0x38] + bytes(32) + raw[0x58:]) != raw[0x38:0x58]
            or not 1 <= covered <= 1 << 48 or not 2 <= count <= 4096):
        return None
    return covered, count, raw[0x18:0x38]


def check_parity(source, start, with_code):
    """The length of the parity of the first `start` bytes, 0 when there is none. `with_code`: what §10.1 says, too."""
    if source.length == start:
        return 0
    front = ceil_div(start, SHARD_UNIT) * SHARD_UNIT
    heads = [head for head in (parity_head(source, front), parity_head(source, source.length - PARITY_HEAD_LEN))
             if head and head[0] == start]
    if not heads:
        head = source.read(front, min(PARITY_HEAD_LEN, source.length - front)) if front < source.length else b""
        last = source.read(source.length - 8, 8) if source.regular and source.length - start >= 8 else b""
        if head.startswith(b"ASHLFECS") or head.endswith(b"ASHLFECE") or last == b"ASHLFECE":
            fail("S-82", f"no head of the first {start} bytes")
        return 0
    covered, parity_count, table_digest = heads[0]
    shard_len = SHARD_UNIT * ceil_div(covered, SHARD_UNIT * 32768)
    data_count = ceil_div(covered, shard_len)
    count = data_count + parity_count
    end_len = ceil_div(PARITY_HEAD_LEN + 4 * count, SHARD_UNIT) * SHARD_UNIT
    end = front + 2 * end_len + parity_count * shard_len
    if end > source.length:
        fail("S-82", f"parity ends at {end}, the file at {source.length}")
    for at in (front, end - PARITY_HEAD_LEN):
        if parity_head(source, at) != heads[0]:
            fail("S-82", f"the head at {at}")
    table = source.read(front + PARITY_HEAD_LEN, 4 * count)
    if digest("parity table", table) != table_digest:
        fail("S-82", "the first table")
    if source.read(end - end_len, 4 * count) != table:
        fail("S-82", "the second table")
    zeros_len = end_len - PARITY_HEAD_LEN - 4 * count
    for at, length in ((start, front - start), (front + end_len - zeros_len, zeros_len),
                       (end - PARITY_HEAD_LEN - zeros_len, zeros_len)):
        if any(source.read(at, length)):
            fail("S-82", f"a byte of [{at}:{at + length}] is not zero")
    shards = []
    # A reader need not look at data shards, and the code takes long: vectors are small.
    for shard in range(0 if with_code else data_count, count):
        is_data = shard < data_count
        at = shard * shard_len if is_data else front + end_len + (shard - data_count) * shard_len
        raw = source.read(at, min(shard_len, covered - at) if is_data else shard_len)
        if digest("shard", raw)[:4] != table[4 * shard:4 * shard + 4]:
            fail("S-82", f"the checksum of shard {shard}")
        shards.append(raw.ljust(shard_len, b"\0") if with_code else None)
    if with_code and not check_code(shards[:data_count], shards[data_count:]):
        fail("S-82", "parity is not that of what it covers")
    return end - start


def symbols(shard):
    return [low | high << 8 for at in range(0, len(shard), 64)
            for low, high in zip(shard[at:at + 32], shard[at + 32:at + 64])]


def check_code(data, parity):
    field, chunk = Field(), 1
    while chunk < len(parity):
        chunk *= 2
    whole = sum(field.log[k] for k in range(1, chunk))
    data = [symbols(shard) for shard in data]
    for j, shard in enumerate(parity):
        sums = [0] * len(data[0])
        for p, shard_symbols in enumerate(data, chunk):
            factor = sum(field.log[p ^ k] for k in range(chunk)) - whole - field.log[j ^ p]
            sums = [total ^ field.mul(symbol, factor) for total, symbol in zip(sums, shard_symbols)]
        if sums != symbols(shard):
            return False
    return True


class Layout:
    """Records of files, directories and symlinks lie back to back in the order of their inodes."""

    def __init__(self, sb):
        self.rules = {REG: ("S-57", sb.section_len["runs"] // RUN_LEN), DIR: ("S-69", sb.section_len["directories"]),
                      LINK: ("S-49", sb.section_len["links"])}
        self.due = dict.fromkeys(self.rules, 0)

    def place(self, index, inode):
        kind = inode.type
        length = (inode.a if inode.a > 1 else 0) if kind == REG else inode.size if kind in (DIR, LINK) else 0
        if length:
            if inode.at != self.due[kind]:
                fail(self.rules[kind][0], f"the record of inode {index} is at {inode.at}, not at {self.due[kind]}")
            self.due[kind] += length

    def finish(self):
        for kind, (rule, length) in self.rules.items():
            if self.due[kind] != length:
                fail(rule, f"the last record ends at {self.due[kind]}, the section at {length}")


def verify(image, with_code=False):
    """Checks every rule; returns the number of bytes that belong to the image and its trailer, each of them read."""
    sb, source = image.sb, image.source
    if source.length < sb.image_len:
        fail("S-02", f"{source.length} bytes, image_len {sb.image_len}")
    if source.read(sb.image_len - SUPERBLOCK_LEN, SUPERBLOCK_LEN) != image.superblock_bytes:
        fail("S-03", "the backup superblock differs")
    checked = 2 * SUPERBLOCK_LEN + len(image.page_list) + check_rest(source, sb.image_len, with_code)
    data_len, end = array("I"), SUPERBLOCK_LEN  # content_len of every data block
    for number in range(sb.page_count):
        page = image.page(number)
        if page[0].offset != end:
            fail("S-26", f"block {number * PAGE_ENTRIES} at {page[0].offset}, the one before it ends at {end}")
        end = page[-1].offset + page[-1].stored_len
        checked += ENTRY_LEN * len(page)
        data_len.extend(entry.content_len for entry in page[:max(0, sb.data_block_count - number * PAGE_ENTRIES)])
    for index in range(sb.block_count):
        image.read_block(index)
        checked += image.entry(index).stored_len

    types, parents, nlinks, has_acl = array("H"), array("I"), array("I"), False
    short = array("I", itertools.accumulate((n != sb.block_size for n in data_len), initial=0))  # such blocks so far
    uses = array("q", bytes(8 * (sb.data_block_count + 1)))  # uses of a block, as differences to the one before it
    sets, layout = {}, Layout(sb)  # the end of each xattr set; where the records of the other sections are due
    for index in range(sb.inode_count):
        inode = image.read_inode(index)
        layout.place(index, inode)
        types.append(inode.type)
        parents.append(inode.b if inode.type == DIR else 0)
        nlinks.append(inode.nlink)
        if inode.type == LINK:
            image.target(index, inode)
        if inode.type == REG:
            for block, count in image.runs(index, inode):
                if block is not None:
                    if short[block] != short[block + count]:
                        fail("S-54", f"inode {index}: a block of [{block}:{block + count}] is short of {sb.block_size}")
                    uses[block] += 1
                    uses[block + count] -= 1
            if inode.b != NONE:
                image.check_tail(index, inode, data_len[inode.b])
                uses[inode.b] += 1
                uses[inode.b + 1] -= 1
        if inode.xattrs != NONE and inode.xattrs not in sets:
            end = inode.xattrs + 2
            for name, value in image.xattrs(index, inode):
                has_acl |= name.startswith(ACL_PREFIX)
                end += 8 + len(name) + len(value)
            sets[inode.xattrs] = end
    layout.finish()
    due = 0
    for start, end in sorted(sets.items()):
        if start != due:
            fail("S-76", f"an xattr set at {start}, the one before it ends at {due}")
        due = end
    if due != sb.section_len["xattrs"]:
        fail("S-76", f"the last xattr set ends at {due}, the section at {sb.section_len['xattrs']}")

    listed = bytearray(sb.data_block_count)
    for number, block in enumerate(image.prefetch_list()):
        if listed[block]:
            fail("S-59", f"entry {number} of the prefetch list names block {block} again")
        listed[block] = 1

    named, subdirs = array("I", bytes(4 * len(types))), array("I", bytes(4 * len(types)))
    for index in range(sb.inode_count):
        if types[index] == DIR:
            for name, child, kind in image.entries(index, image.inode(index)):
                check_entry(index, name, child, kind, types[child], parents[child])
                named[child] += 1
                if kind == DIR:
                    subdirs[index] += 1
                    if named[child] > 1:
                        fail("S-66", f"directory {child} is named more than once")
    for index in range(1, sb.inode_count):
        if not named[index]:
            fail("S-48", f"inode {index}, a {TYPES[types[index]]}")
    check_depth(types, parents)
    for index in range(sb.inode_count):
        want = 2 + subdirs[index] if types[index] == DIR else named[index]
        if nlinks[index] != want:
            fail("S-44", f"inode {index}, a {TYPES[types[index]]}: nlink {nlinks[index]} instead of {want}")
    for index, count in enumerate(itertools.accumulate(uses[:-1])):
        if not count:
            fail("S-56", f"data block {index}")
    if bool(sb.compat & COMPAT_ACL) != has_acl:
        fail("S-75", f"compat {sb.compat:#x}, and {'some' if has_acl else 'no'} inode has an ACL")
    assert checked == source.length or not source.regular  # follows from S-15, S-26 and S-04
    return checked


def check_depth(types, parents):
    """Follows every directory, each by now named by its parent once, up to the root. SPEC.md does not say that a
    ring of directories that name each other is `Unreachable`, but it can hardly be anything else."""
    depth = array("i", [-1]) * len(types)  # -1: not known, -2: on the way up that is being followed
    depth[0] = 0
    for index in range(len(types)):
        if types[index] != DIR:
            continue
        trail, here = [], index
        while depth[here] == -1:
            depth[here] = -2
            trail.append(here)
            here = parents[here]
        if depth[here] == -2:
            fail("S-48", f"directory {index}: its parents never lead to the root")
        for number, found in enumerate(reversed(trail), depth[here] + 1):
            depth[found] = number
            if number > MAX_DEPTH:
                fail("S-68", f"directory {found} is {number} below the root")


# ---------------------------------------------------------------------------------------------- commands

def manifest(image):
    """The lines of the manifest, as text."""
    hashes = {}  # of files with more than one name
    for path, index, inode in image.walk():
        kind, content = inode.type, "-"
        if kind == REG:
            content = hashes.get(index)
            if content is None:
                hasher = blake3()
                for piece in image.content(index, inode):
                    hasher.update(piece)
                content = hasher.hexdigest()
                if inode.nlink > 1:
                    hashes[index] = content
        yield "\t".join((
            escape(path), TYPES[kind], f"{inode.mode & 0o7777:04o}", str(inode.uid), str(inode.gid),
            "-" if kind == DIR else str(inode.size), "-" if kind == DIR else str(inode.nlink),
            f"{inode.mtime_sec}.{inode.mtime_nsec:09d}",
            f"{inode.a}:{inode.b}" if kind in (CHAR, BLOCK) else "-",
            escape(image.target(index, inode)) if kind == LINK else "-",
            ";".join(f"{escape(n, b';=')}={v.hex()}" for n, v in image.xattrs(index, inode)) or "-",
            content)) + "\n"


def inspect(image):
    sb = image.sb
    yield f"root digest      {image.root.hex()}\n"
    for name in ("format_version", "incompat", "compat", "image_len", "image_version", "build_time", "label",
                 "block_size", "metadata_block_size", "data_block_count", "block_count", "table_offset",
                 "page_list_offset", "page_count", "inode_count"):
        yield f"{name:16} {getattr(sb, name)}\n"
    for name in SECTIONS:
        yield f"{name:16} {sb.section_len[name]} bytes from block {sb.section_block[name]}\n"


def ls(image, path, recursive):
    index, inode = image.lookup(path)
    if inode.type != DIR:
        yield escape(os.fsencode(path)) + "\n"
    elif not recursive:
        yield from (escape(name) + "\n" for name, _, _ in image.children(index, inode))
    else:
        prefix = b"/" + b"/".join(part for part in os.fsencode(path).split(b"/") if part)
        for found, _, _ in image.walk():
            if found == prefix or found.startswith(prefix.rstrip(b"/") + b"/"):
                yield escape(found) + "\n"


def read_vector(path):
    """The header of a vector file as a dictionary, and where its image starts."""
    with open(path, "rb") as file:
        head, blank, _ = file.read(65536).partition(b"\n\n")
    if not blank:
        sys.exit(f"{path}: no blank line after its header")
    lines = (line.partition(":") for line in head.decode("utf-8").split("\n"))
    return {key.strip(): value.strip() for key, _, value in lines}, len(head) + len(blank)


def check_vector(header, source):
    """What came of the vector's image, in the words of its `expect`, and the details."""
    try:
        root = header.get("root", "-")
        image = Image(source, None if root == "-" else bytes.fromhex(root))
        verify(image, with_code=True)
        if "content" in header:
            hasher = blake3()
            for line in manifest(image):
                hasher.update(line.encode())
            if hasher.hexdigest() != header["content"]:
                return "ok with another manifest", hasher.hexdigest()
        return "ok", ""
    except Violation as violation:
        return f"{violation.kind} {violation.name}", f"{violation.rule}: {violation.details}"


def check_vectors(directory):
    passed = failed = skipped = 0
    for path in sorted(pathlib.Path(directory).glob("*.vec")):
        header, start = read_vector(path)
        if "key" in header:
            skipped += 1
            print(f"skip {path.name}: signatures are not checked here")
            continue
        source = Source(path, start)
        outcome, details = check_vector(header, source)
        source.close()
        good = outcome == header["expect"]
        passed, failed = passed + good, failed + (not good)
        print(f"{'ok  ' if good else 'FAIL'} {path.name}: {header.get('spec', '-')}: {outcome}"
              + ("" if good else f", expected {header['expect']}") + (f" ({details})" if details else ""))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed + skipped else 0


def main():
    parser = argparse.ArgumentParser(description="A second reader of the Ashlar image format.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("inspect", "ls", "cat", "verify", "manifest"):
        command = commands.add_parser(name)
        command.add_argument("--root-digest", type=bytes.fromhex, metavar="HEX")
        command.add_argument("image")
        if name == "ls":
            command.add_argument("-R", dest="recursive", action="store_true")
        if name in ("ls", "cat"):
            command.add_argument("path", **({"nargs": "?", "default": "/"} if name == "ls" else {}))
    commands.add_parser("check-vectors").add_argument("directory")
    args = parser.parse_args()
    if args.command == "check-vectors":
        return check_vectors(args.directory)
    try:
        image = Image(Source(args.image), args.root_digest)
        if args.command == "verify":
            print(f"ok, {verify(image)} of {image.source.length} bytes checked, root digest {image.root.hex()}")
        elif args.command == "cat":
            index, inode = image.lookup(args.path)
            if inode.type != REG:
                sys.exit(f"{args.path}: a {TYPES[inode.type]}")
            for piece in image.content(index, inode):
                sys.stdout.buffer.write(piece)
        else:
            lines = {"inspect": lambda: inspect(image), "manifest": lambda: manifest(image),
                     "ls": lambda: ls(image, args.path, args.recursive)}[args.command]()
            for line in lines:
                sys.stdout.write(line)
    except Violation as violation:
        sys.stdout.flush()
        print(violation, file=sys.stdout if args.command == "verify" else sys.stderr)
        return 4
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        sys.exit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
