"""What does everybody here need of this machine? Paths, children with a time limit, mounts that go away again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target")).absolute()
THREADS = len(os.sched_getaffinity(0))
LIMIT = 1800  # seconds; far beyond anything seen, so that a hang ends
UNMOUNT_LIMIT = 60

Command = list[str | Path]


class Unavailable(Exception):
    """A peer cannot be measured here; the text says why. The others go on."""


class WrongAnswer(Exception):
    """Somebody served what the tree does not hold. Nothing else that was measured means anything then."""


def note(text: str) -> None:
    print(f"compare: {text}", file=sys.stderr, flush=True)


def words(command: Command) -> list[str]:
    return [os.fspath(word) for word in command]


def run(command: Command, limit: float = LIMIT, **options) -> subprocess.CompletedProcess:
    """A child that succeeds within its time, or is why something is unavailable."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(words(command), timeout=limit, stdin=subprocess.DEVNULL, capture_output=True, **options)
    except OSError as error:
        raise Unavailable(f"{name}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{name}: not done after {limit:g} s") from None
    if done.returncode != 0:
        raise Unavailable(f"{name}: status {done.returncode}{first_line(done.stderr)}")
    return done


def first_line(said: bytes | str) -> str:
    text = said if isinstance(said, str) else said.decode(errors="replace")
    lines = text.strip().splitlines()
    return f": {lines[0]}" if lines else ""


def support(script: str) -> str:
    """What a script of the tests prints; it tells people on stderr what it does."""
    done = subprocess.run([TOP / "tests/support" / script], stdout=subprocess.PIPE, timeout=LIMIT, text=True)
    if done.returncode != 0:
        raise Unavailable(f"tests/support/{script} failed")
    return done.stdout.strip()


def mounts_below(directory: Path) -> list[Path]:
    """Mount points at or below a directory, deepest first. Asks the kernel, never a server that may hang."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        point = Path(os.fsdecode(line.split()[4].decode("unicode_escape").encode("latin-1")))
        if point == directory or directory in point.parents:
            found.append(point)
    return found[::-1]


def is_mounted(point: Path) -> bool:
    return point in mounts_below(point)


def unmount(point: Path) -> None:
    """At once, or lazily when somebody still looks. A loop device goes with its mount."""
    for command in (["umount", point], ["umount", "-l", point]):
        if not is_mounted(point):
            return
        try:
            subprocess.run(command, timeout=UNMOUNT_LIMIT, stderr=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            continue


def sweep(directory: Path) -> None:
    """Removes what a run that was killed has left mounted. The caller holds the directory's lock."""
    for point in mounts_below(directory):
        note(f"was still mounted: {point}")
        unmount(point)


def end(process: subprocess.Popen, patience: float) -> None:
    """Waits for a server whose mount is gone, and ends it when it stays."""
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=UNMOUNT_LIMIT)


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def stop_on_signals() -> None:
    """The first signal unwinds everything, so that all is unmounted; further ones do not disturb that."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, _frame) -> None:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)

    for one in signals:
        signal.signal(one, stop)


def wait_until(condition, limit: float, step: float = 0.0005) -> bool:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(step)
    return True
