"""What can no system be faster than? This machine's own rates, measured in seconds, and what they make of a run.

No part of a run can cost less than the bytes it needed at the rate of the disk, of zstd on all processors, of one
copy in memory, or its upcalls at the least price of a question to another process. The best system there can be does
all four at the same time: the floor is the largest of them, not their sum.
"""

import ctypes
import ctypes.util
import dataclasses
import mmap
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .machine import THREADS, Unavailable, note, run
from .trees import SEED

BLOCK = 128 << 10
LEVEL = 19
SAMPLE_BLOCKS = 64
EXPAND_SECONDS = 0.7
DISK_BYTES = 384 << 20
DISK_REQUEST = 2 << 20
DISK_DEPTH = 4  # requests at a time: what read-ahead keeps in flight
RANDOM_READS = 400


@dataclasses.dataclass
class Rates:
    """None where it could not be measured here."""

    disk_mb_s: float | None  # sequential, past the page cache
    disk_4k_us: float | None  # one random page, one at a time
    zstd_mb_s: float | None  # content, all processors together
    copy_mb_s: float
    wake_same_us: float | None  # a question and its answer, both sides on one processor
    wake_other_us: float | None  # on two, each idle while the other works


def measure(image: Path | None, samples: list[Path], wakeup: Path) -> Rates:
    sequential = random_page = None
    if image:
        try:
            sequential, random_page = disk(image)
        except OSError as error:
            note(f"no disk speed: {image.name}: {error.strerror}")
    same, other = wake_up(wakeup)
    return Rates(sequential, random_page, zstd(samples), copy(), same, other)


def wake_up(program: Path) -> tuple[float | None, float | None]:
    try:
        same, other = map(float, run([program], limit=60, text=True).stdout.split())
        return same, other or None
    except Unavailable as error:
        note(f"no price of an upcall: {error}")
        return None, None


def disk(image: Path) -> tuple[float, float]:
    handle = os.open(image, os.O_RDONLY | os.O_DIRECT)
    try:
        length = min(os.fstat(handle).st_size, DISK_BYTES) // DISK_REQUEST * DISK_REQUEST
        if length == 0:
            raise OSError(0, "too small to tell")
        buffers = [mmap.mmap(-1, DISK_REQUEST) for _ in range(DISK_DEPTH)]  # a map is aligned, as O_DIRECT wants it

        def lane(nth: int) -> int:
            offsets = range(nth * DISK_REQUEST, length, DISK_DEPTH * DISK_REQUEST)
            return sum(os.preadv(handle, [buffers[nth]], at) for at in offsets)

        start = time.perf_counter()
        with ThreadPoolExecutor(DISK_DEPTH) as pool:
            done = sum(pool.map(lane, range(DISK_DEPTH)))
        sequential = done / 1e6 / (time.perf_counter() - start)
        dice = random.Random(SEED)
        page = mmap.mmap(-1, 4096)
        start = time.perf_counter()
        for _ in range(RANDOM_READS):
            os.preadv(handle, [page], dice.randrange(length // 4096) * 4096)
        return sequential, (time.perf_counter() - start) / RANDOM_READS * 1e6
    finally:
        os.close(handle)


def head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(BLOCK)


def zstd(samples: list[Path]) -> float | None:
    """Blocks of the tree's own content, packed at our level, expanded by all processors at once."""
    name = ctypes.util.find_library("zstd")
    blocks = [block for block in map(head, samples) if block]
    if not name or not blocks:
        note("no rate of zstd: " + ("nothing to expand" if name else "this machine has no libzstd"))
        return None
    library = ctypes.CDLL(name)
    for function in (library.ZSTD_compress, library.ZSTD_decompressDCtx, library.ZSTD_compressBound):
        function.restype = ctypes.c_size_t
    library.ZSTD_createDCtx.restype = ctypes.c_void_p
    room = library.ZSTD_compressBound(ctypes.c_size_t(BLOCK))

    def pack(block: bytes) -> tuple[bytes, int]:
        out = ctypes.create_string_buffer(room)
        size = library.ZSTD_compress(out, ctypes.c_size_t(room), block, ctypes.c_size_t(len(block)), LEVEL)
        return out.raw[:size], len(block)

    def expand(packed: list[tuple[bytes, int]]) -> float:
        context = ctypes.c_void_p(library.ZSTD_createDCtx())
        out = ctypes.create_string_buffer(BLOCK)
        done, start = 0, time.perf_counter()
        while (took := time.perf_counter() - start) < EXPAND_SECONDS:
            for stored, length in packed:
                got = library.ZSTD_decompressDCtx(context, out, ctypes.c_size_t(BLOCK), stored,
                                                  ctypes.c_size_t(len(stored)))  # fmt: skip
                if got != length:
                    raise RuntimeError("zstd does not give back what it got")
                done += got
        return done / 1e6 / took

    with ThreadPoolExecutor(THREADS) as pool:
        packed = list(pool.map(pack, blocks))
        return sum(pool.map(expand, [packed] * THREADS))


def copy() -> float:
    source, target = bytearray(64 << 20), bytearray(64 << 20)
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        target[:] = source
        best = max(best, len(source) / 1e6 / (time.perf_counter() - start))
    return best


def parts(rates: dict, stored: float, content: float, copied: float, upcalls: float) -> dict[str, float]:
    """Seconds that a run's bytes and questions cost at least; what was not measured is left out."""
    found = {}
    if rates["disk_mb_s"]:
        found["disk"] = stored / 1e6 / rates["disk_mb_s"]
    if rates["zstd_mb_s"]:
        found["zstd"] = content / 1e6 / rates["zstd_mb_s"]
    found["copy"] = copied / 1e6 / rates["copy_mb_s"]
    if rates["wake_same_us"]:
        found["upcalls"] = upcalls * rates["wake_same_us"] / 1e6
    return found
