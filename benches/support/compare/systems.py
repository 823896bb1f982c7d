"""Who is compared? How each makes its image and serves it, and that nothing stays mounted afterwards."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .machine import LIMIT, TARGET, THREADS, UNMOUNT_LIMIT, Command, Unavailable, end, is_mounted, first_line, run
from .machine import unmount, wait_until, words

SERVER_LIMIT = 30  # seconds until a server has to have mounted, and to end after unmounting
STATUS_TRIES = 20
BINARIES = {"profile": "release"}  # the self-test takes `debug`


@dataclasses.dataclass
class System:
    """One way to serve a tree: over a loop device by `kernel_type`, or by a server in the foreground."""

    name: str
    label: str
    group: str  # ours, kernel, fuse or plain
    image: str | None = None
    build: Callable[[Path, Path], Command] | None = None
    serve: Callable[[Path, Path, str], Command] | None = None
    kernel_type: str | None = None
    expands_zstd: bool = False


def binary(name: str) -> Path:
    return TARGET / BINARIES["profile"] / name


def mkimage(block_size: str, *options: str) -> Callable[[Path, Path], Command]:
    return lambda tree, image: [binary("mkimage"), "-q", "-b", block_size, "-z", "zstd,19", "-j", str(THREADS), *options,
                                tree, image]  # fmt: skip


def mkimage_traced(tree: Path, image: Path) -> Command:
    return mkimage("64K", "--order", str(image.parent / "boot.trace"))(tree, image)


def serve_ashlar(*options: str) -> Callable[[Path, Path, str], Command]:
    """In the foreground, where nobody stands by to take over unless asked, as all servers here."""
    return lambda image, point, digest: [binary("ashlar"), "mount", "-f", *options, "--root-digest", digest,
                                         image, point]  # fmt: skip


def mksquashfs(tree: Path, image: Path) -> Command:
    return ["mksquashfs", tree, image, "-noappend", "-quiet", "-no-progress", "-comp", "zstd",
            "-Xcompression-level", "19", "-b", "128K", "-processors", str(THREADS)]  # fmt: skip


def mkfs_erofs(*options: str) -> Callable[[Path, Path], Command]:
    return lambda tree, image: ["mkfs.erofs", "--quiet", *options, f"--workers={THREADS}", image, tree]


DEFAULTS = ("-o", "takeover")  # of `ashlar mount` in the background
EROFS_ZSTD = mkfs_erofs("-zzstd,9", "-C65536")
SYSTEMS = [
    System("ashlar", "Ashlar", "ours", "ashlar-64k.img", mkimage("64K"), serve_ashlar(*DEFAULTS)),
    System("ashlar128", "Ashlar 128K", "ours", "ashlar-128k.img", mkimage("128K"), serve_ashlar(*DEFAULTS)),
    System("ashlartraced", "Ashlar, by the trace", "ours", "ashlar-traced.img", mkimage_traced, serve_ashlar(*DEFAULTS)),
    System("ashlar8m", "Ashlar, cachesize=8M", "ours", "ashlar-64k.img", mkimage("64K"),
           serve_ashlar(*DEFAULTS, "-o", "cachesize=8M")),
    System("ashlarbare", "Ashlar, unguarded", "ours", "ashlar-64k.img", mkimage("64K"),
           serve_ashlar("-o", "notakeover,noconfine,on_corruption=eio,watchdog=0")),
    System("erofs", "EROFS zstd", "kernel", "erofs-zstd.img", EROFS_ZSTD, kernel_type="erofs"),
    System("erofs-lz4", "EROFS lz4hc", "kernel", "erofs-lz4hc.img", mkfs_erofs("-zlz4hc,9", "-C65536"),
           kernel_type="erofs"),
    System("erofs-plain", "EROFS uncompressed", "kernel", "erofs-plain.img", mkfs_erofs(), kernel_type="erofs"),
    System("squashfs", "squashfs", "kernel", "squashfs.img", mksquashfs, kernel_type="squashfs"),
    System("squashfuse", "squashfuse_ll", "fuse", "squashfs.img", mksquashfs,
           lambda image, point, _: ["squashfuse_ll", "-f", image, point], expands_zstd=True),
    System("erofsfuse", "erofsfuse", "fuse", "erofs-zstd.img", EROFS_ZSTD,
           lambda image, point, _: ["erofsfuse", "-f", image, point], expands_zstd=True),
    System("plain", "plain directory", "plain"),
]  # fmt: skip

# What exactly each name above stands for, told once below the tables.
OPTIONS = (
    "Ashlar: zstd-19, 64K blocks, every block verified, defaults unless said; by the trace: laid out by the boot trace that is replayed, "
    "whose blocks it expands ahead; unguarded: verified, but nobody takes over, nothing is healed and the server may do everything. "
    "EROFS zstd: zstd,9 -C65536. EROFS lz4hc: lz4hc,9 -C65536. squashfs: zstd-19, 128K blocks. squashfuse_ll serves the squashfs image, erofsfuse the EROFS zstd one. "
    "Only Ashlar verifies."
)


@dataclasses.dataclass
class Built:
    key: str  # of everything that went into it
    bytes: int
    seconds: float
    cpu_seconds: float  # of all threads: holds still when something else wants the processors
    peak_mib: float
    root_digest: str


def build_key(command: Command, tree_answer: str) -> str:
    """Two builds with one key make one image: the same words by the same builder, of a tree and a trace that read the same."""
    builder = str(shutil.which(command[0]) or "")
    with contextlib.suppress(OSError), open(builder, "rb") as file:
        builder += hashlib.file_digest(file, "sha256").hexdigest()
    traces = [Path(word).read_bytes() for word in words(command) if word.endswith(".trace")]
    return hashlib.sha256(repr((words(command), builder, traces, tree_answer)).encode()).hexdigest()


def build(command: Command, image: Path, key: str) -> Built:
    image.unlink(missing_ok=True)
    start = time.monotonic()
    # Not subprocess.run: only wait4 tells one child's peak memory.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
        try:
            builder = subprocess.Popen(words(command), stdin=subprocess.DEVNULL, stdout=out, stderr=said)
        except OSError as error:
            raise Unavailable(f"{command[0]}: {error.strerror}") from None
        try:
            status, usage = wait4(builder.pid, LIMIT)
        except BaseException:
            builder.kill()
            raise
        builder.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        out.seek(0), said.seek(0)
        printed = out.read().decode(errors="replace").split()
        if builder.returncode != 0:
            image.unlink(missing_ok=True)
            raise Unavailable(f"{Path(command[0]).name}: status {builder.returncode}{first_line(said.read())}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    digest = printed[0] if printed else ""
    return Built(key, image.stat().st_size, seconds, cpu_seconds, usage.ru_maxrss / 1024, digest)


def wait4(pid: int, limit: float):
    ended = None

    def has_ended() -> bool:
        nonlocal ended
        got, status, usage = os.wait4(pid, os.WNOHANG)
        ended = (status, usage) if got else None
        return ended is not None

    if not wait_until(has_ended, limit, step=0.01):
        raise Unavailable(f"the builder was not done after {limit} s")
    return ended


@dataclasses.dataclass
class Served:
    top: Path
    pids: tuple[int, ...] = ()  # of the server, and of whoever stands by to take over
    mount_seconds: float | None = None  # until the first lstat of the root was answered


@contextlib.contextmanager
def serving(system: System, image: Path, point: Path, digest: str, reader: Path) -> Iterator[Served]:
    """Mounts afresh. `reader` is the program of workload.c, which asks the first question."""
    start = time.monotonic()

    def answers() -> float:
        visible = time.monotonic() - start
        asked = run([reader, "stat", point], limit=SERVER_LIMIT, text=True)
        return visible + float(asked.stdout.split()[0])

    if system.kernel_type:
        try:
            run(["mount", "-t", system.kernel_type, "-o", "loop,ro", image, point], limit=UNMOUNT_LIMIT)
            yield Served(point, (), answers())
        finally:
            unmount(point)
        return
    with tempfile.TemporaryFile() as said:
        try:
            # In a session of its own: Ctrl-C is for the driver, which then unmounts.
            server = subprocess.Popen(words(system.serve(image, point, digest)), start_new_session=True,
                                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)  # fmt: skip
        except OSError as error:
            raise Unavailable(f"the server: {error.strerror}") from None
        try:
            mounted = wait_until(lambda: is_mounted(point) or server.poll() is not None, SERVER_LIMIT)
            if not mounted or server.poll() is not None:
                said.seek(0)
                raise Unavailable(f"the server did not mount (status {server.poll()}){first_line(said.read())}")
            seconds = answers()
            yield Served(point, ashlar_pids(point) if system.group == "ours" else (server.pid,), seconds)
        finally:
            unmount(point)
            end(server, SERVER_LIMIT if server.poll() is None and not is_mounted(point) else 0)


def ashlar_status(point: Path) -> dict:
    """What our server tells of itself; it answers the kernel a moment before it answers here."""
    for _ in range(STATUS_TRIES):
        with contextlib.suppress(Unavailable):
            return json.loads(run([binary("ashlar"), "status", "--json", point], limit=UNMOUNT_LIMIT).stdout)
        time.sleep(0.05)
    raise Unavailable("`ashlar status` gets no answer")


def ashlar_pids(point: Path) -> tuple[int, ...]:
    said = ashlar_status(point)
    pids = [said.get("server_pid") or said["pid"], said.get("holder_pid")]
    return tuple(pid for pid in pids if pid is not None)


@contextlib.contextmanager
def overlaid(lower: Path, room: Path) -> Iterator[Path]:
    """An overlayfs over `lower` whose changes would go to memory, as a machine with a read-only root has it."""
    merged = room / "merged"
    try:
        run(["mount", "-t", "tmpfs", "tmpfs", room], limit=UNMOUNT_LIMIT)
        for name in ("upper", "work", "merged"):
            (room / name).mkdir()
        options = f"lowerdir={lower},upperdir={room}/upper,workdir={room}/work"
        run(["mount", "-t", "overlay", "overlay", "-o", options, merged], limit=UNMOUNT_LIMIT)
        yield merged
    finally:
        unmount(merged)
        unmount(room)
