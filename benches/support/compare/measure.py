"""How is one run measured, and in which order do they come? Every answer is checked here before its time counts."""

import contextlib
import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import floor
from .machine import LIMIT, TOP, UNMOUNT_LIMIT, Unavailable, WrongAnswer, drop_caches, note, run
from .systems import Built, Served, System, ashlar_status, build, build_key, overlaid, serving
from .workloads import ENVIRONMENT, Plan, Workload, warm_up

KTHREADD = 2
OVERLAY = "@overlay"  # behind the name of a workload that goes through an overlayfs

Seen = tuple[str, ...]  # items, bytes, checksum


@dataclasses.dataclass
class Run:
    """One measured run; what does not exist for a system is None."""

    turn: int
    system: str
    workload: str
    temper: str  # cold or warm
    seconds: float
    cpu_reader: float  # the workload's own process and its children
    cpu_server: float | None
    cpu_kernel: float  # the kernel's own threads: read-ahead, expansion, loop devices
    server_peak_mib: float | None  # so far, since it was started for this run
    page_cache_mib: float
    mount_seconds: float | None = None
    upcalls: int | None = None
    stored_bytes: int | None = None  # read and verified
    content_bytes: int = 0  # that the workload saw


class Bench:
    def __init__(self, tree: Path, work: Path, trace: Path | None):
        self.tree, self.work = tree, work
        self.point, self.room = work / "mnt", work / "overlay"
        for directory in (self.point, self.room):
            directory.mkdir(exist_ok=True)
        self.reader, self.wakeup = self.compile("workload"), self.compile("wakeup")
        self.plan = Plan(tree, work, trace)
        self.built: dict[str, Built] = {}
        self.runs: list[Run] = []
        self.truth: dict[str, Seen] = {}
        self.unavailable: dict[str, str] = {}  # system: why
        self.skipped: dict[str, str] = {}  # workload: why

    def compile(self, name: str) -> Path:
        source = TOP / "benches/support" / f"{name}.c"
        run(["cc", "-O3", "-march=native", "-pthread", "-o", self.work / name, source])
        return self.work / name

    # --- before the rounds ---------------------------------------------------------------------

    def learn_truth(self, workloads: list[Workload]) -> None:
        """What the directory itself answers, twice: what changes by itself proves nothing. Leaves it in the page cache."""
        if any(workload.name == "git" for workload in workloads) and not self.plan.no_subtree:
            self.plan.make_repository()
        for workload in workloads:
            why = workload.missing(self.plan)
            if not why:
                try:
                    first, second = (self.ask(self.tree, workload)[1] for _ in range(2))
                    why = None if first == second else "the directory itself does not give the same answer twice"
                    self.truth[workload.name] = first
                except Unavailable as error:
                    why = f"not on the directory itself: {error}"
            if why:
                self.skipped[workload.name] = why
                note(f"skipped: {workload.label}: {why}")

    def build_all(self, chosen: list[System], reuse: bool) -> None:
        record = self.work / "built.json"
        known = json.loads(record.read_text()) if record.exists() else {}
        answer = repr([self.ask_words(["walk", self.tree])[1], self.ask_words(["read", self.tree, "1"])[1]])
        for system in chosen:
            image = self.work / system.image if system.image else None
            if not image or image.name in self.built:
                continue
            key = build_key(system.build(self.tree, image), answer)
            kept = known.get(image.name)
            if reuse and kept and kept["key"] == key and image.exists():
                self.built[image.name] = Built(**kept)
                continue
            note(f"building: {system.label}")
            with self.or_unavailable(system):
                self.built[image.name] = build(system.build(self.tree, image), image, key)
                # At once, and beside what others have left: an image is reused whoever asked for it.
                known[image.name] = dataclasses.asdict(self.built[image.name])
                record.write_text(json.dumps(known, indent=1))

    def check_content(self, chosen: list[System]) -> None:
        """All bytes once more, by a hash that nobody can be lucky with."""
        expected = self.content(self.tree)
        for system in chosen:
            if system.name in self.unavailable or not system.image:
                continue
            note(f"comparing by SHA-256: {system.label}")
            with self.or_unavailable(system), self.serving(system) as served:
                if self.content(served.top) != expected:
                    raise WrongAnswer(f"{system.label}: content differs from the tree's")

    def content(self, top: Path) -> str:
        script = Path(__file__).with_name("content.py")
        return run([sys.executable, "-B", script, top], text=True).stdout.strip()

    def rates(self) -> floor.Rates:
        images = [self.work / name for name in self.built]
        large = [self.tree / path for size, path in self.plan.files if size >= floor.BLOCK]
        samples = large[:: max(1, len(large) // floor.SAMPLE_BLOCKS)][: floor.SAMPLE_BLOCKS]
        largest = max(images, key=lambda image: image.stat().st_size, default=None)
        return floor.measure(largest, samples, self.wakeup)

    # --- the rounds ----------------------------------------------------------------------------

    def measure(self, chosen: list[System], workloads: list[Workload], overlay: str, rounds: int) -> None:
        through = [(workload, is_overlaid) for workload in workloads for is_overlaid in (False, True)
                   if not is_overlaid or overlay == "all" or overlay == "default" and workload.overlaid]  # fmt: skip
        for turn in range(rounds):
            for workload, is_overlaid in through:
                if workload.name in self.skipped:
                    continue
                note(f"round {turn + 1} of {rounds}: {workload.label}{' through overlayfs' * is_overlaid}")
                shift = turn % len(chosen)
                for system in chosen[shift:] + chosen[:shift]:
                    if system.name not in self.unavailable:
                        with self.or_unavailable(system):
                            self.run(turn, system, workload, is_overlaid)

    @contextlib.contextmanager
    def or_unavailable(self, system: System) -> Iterator[None]:
        """A peer that fails leaves the comparison and the reason stays; our own failure ends it."""
        try:
            yield
        except Unavailable as error:
            if system.group == "ours":
                raise
            self.unavailable[system.name] = str(error)
            note(f"{system.label} is not available: {error}")

    def serving(self, system: System) -> contextlib.AbstractContextManager[Served]:
        if not system.image:
            return contextlib.nullcontext(Served(self.tree))
        if system.image not in self.built:
            raise Unavailable("its image could not be built")
        digest = self.built[system.image].root_digest
        return serving(system, self.work / system.image, self.point, digest, self.reader)

    def ask(self, top: Path, workload: Workload) -> tuple[float, Seen]:
        return self.ask_words(workload.arguments(self.plan, top))

    def ask_words(self, arguments: list) -> tuple[float, Seen]:
        seconds, *seen = run([self.reader, *arguments], text=True, env=ENVIRONMENT).stdout.split()
        return float(seconds), tuple(seen)

    def run(self, turn: int, system: System, workload: Workload, is_overlaid: bool) -> None:
        with contextlib.ExitStack() as stack:
            served = stack.enter_context(self.serving(system))
            top = stack.enter_context(overlaid(served.top, self.room)) if is_overlaid else served.top
            told = counts(system, served)
            drop_caches()
            # What asks shall be warm: the reader, and the host's programs that do its work.
            subprocess.run([self.reader], stderr=subprocess.DEVNULL, timeout=LIMIT)
            warm_up(workload.programs)
            for temper in ("cold", "warm"):
                one = self.measured(served, top, system, workload, temper)
                one.turn = turn
                one.workload = workload.name + OVERLAY * is_overlaid
                if temper == "cold":
                    one.mount_seconds = served.mount_seconds
                if told:
                    now = counts(system, served)
                    one.upcalls, one.stored_bytes = (after - before for after, before in zip(now, told))
                    told = now
                self.runs.append(one)

    def measured(self, served: Served, top: Path, system: System, workload: Workload, temper: str) -> Run:
        cached = page_cache_mib()
        kernel, server, reader = kernel_cpu(), server_cpu(served.pids), reader_cpu()
        seconds, seen = self.ask(top, workload)
        reader, server, kernel = reader_cpu() - reader, server_cpu(served.pids) - server, kernel_cpu() - kernel
        if seen != self.truth[workload.name]:
            raise WrongAnswer(f"{system.label}, {workload.label}, {temper}: wrong answer {seen}, "
                              f"the directory gives {self.truth[workload.name]}")  # fmt: skip
        has_server = bool(served.pids)
        return Run(0, system.name, "", temper, seconds, reader, server if has_server else None, kernel,
                   peak_memory_mib(served.pids) if has_server else None, page_cache_mib() - cached,
                   content_bytes=int(seen[1]))  # fmt: skip


# --- what the kernel tells ---------------------------------------------------------------------


def reader_cpu() -> float:
    """Of all children that have ended: between two calls that is the reader and whom it started."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def server_cpu(pids: tuple[int, ...]) -> float:
    """Of all their threads, to the nanosecond: the clock that clock_getcpuclockid(3) names."""
    try:
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)
    except OSError:
        raise Unavailable("its server has died") from None


def kernel_cpu() -> float:
    """Of the kernel's threads, in which loop devices, read-ahead and EROFS work for whoever reads."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(KTHREADD):
                total += int(stat.with_name("schedstat").read_text().split()[0])
    return total / 1e9


def page_cache_mib() -> float:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("Cached", "Buffers")) / 1024


def peak_memory_mib(pids: tuple[int, ...]) -> float:
    """The sum of each one's most: of programs that are shared, all of it each time."""
    peaks = []
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            peaks += [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")]
    if len(peaks) != len(pids):
        raise Unavailable("its server has died")
    return sum(peaks)


def counts(system: System, served: Served) -> tuple[int, int] | None:
    """How often our server was asked, and the stored bytes that it has verified; nobody else tells."""
    if system.group != "ours":
        return None
    said = ashlar_status(served.top)
    return sum(said["upcalls"].values()), said["bytes_verified"]
