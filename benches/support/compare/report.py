"""What do the measurements say? Medians, ratios, goals and floors, computed from the same JSON that is kept.

Nothing here measures, so a report can be made again from an earlier run's file. `markdown` and `page` only show.
"""

import dataclasses
import statistics

from . import floor
from .measure import OVERLAY
from .systems import SYSTEMS
from .workloads import WORKLOADS

TEMPERS = ("cold", "warm")
AGAINST = ("erofs", "erofs-lz4", "squashfs")  # whom the goals name
READING = ("read", "read4", "big", "random", "small", "touch", "exec", "grep", "python", "boot")  # cold, they expand blocks

# Cold goals on the Debian root, as ratios of our median to EROFS zstd's, EROFS lz4hc's and squashfs's.
GOALS = {
    "read": (0.75, 1.1, 0.6),
    "read4": (0.80, 1.2, 0.6),
    "big": (0.60, 1.2, 0.45),
    "random": (0.55, 1.1, 0.6),
    "walk": (0.50, 0.7, 0.9),
    "touch": (0.90, 1.2, 0.8),
    "exec": (0.90, 1.2, 0.8),
    "read" + OVERLAY: (0.90, None, None),
}
WARM_GOAL = 1.10  # of EROFS zstd's time, every workload
PEER_GOAL, PEER_GOAL_ZSTD = 1.0, 0.5  # of a FUSE peer's time
GUARDS_GOAL = 1.02  # of the time without them, as the geometric mean of all rows: one alone is noisier than that
MEMORY_GOALS_MIB = {"ashlar": 96, "ashlar128": 96, "ashlar8m": 24}
SIZE_GOAL = 0.97  # of squashfs's image with the same block size
MOUNT_GOAL_SECONDS, MOUNT_GOAL_NAMES = 0.010, 1_000_000


@dataclasses.dataclass
class Goal:
    """`measured` by system of ours; `missed` names what is over the limit, so that no loss hides behind a sum."""

    what: str
    against: str
    limit: str
    measured: dict[str, str]
    reached: dict[str, bool | None]
    missed: dict[str, list[str]] = dataclasses.field(default_factory=dict)


class Report:
    def __init__(self, data: dict):
        self.data = data
        self.systems = data["systems"]
        self.workloads = data["workloads"]
        # Goals name also who was not measured this time.
        self.labels = {one.name: one.label for one in SYSTEMS + WORKLOADS}
        self.labels |= {one.name + OVERLAY: f"{one.label}, overlayfs" for one in WORKLOADS}
        self.labels |= {one["name"]: one["label"] for one in self.systems + self.workloads}
        self.by_cell: dict[tuple[str, str, str], list[dict]] = {}
        for run in data["runs"]:
            self.by_cell.setdefault((run["system"], run["workload"], run["temper"]), []).append(run)

    # --- single figures ------------------------------------------------------------------------

    def values(self, system: str, workload: str, temper: str, field: str = "seconds") -> list[float]:
        runs = self.by_cell.get((system, workload, temper), [])
        return [run[field] for run in runs if run[field] is not None]

    def median(self, system: str, workload: str, temper: str, field: str = "seconds") -> float | None:
        values = self.values(system, workload, temper, field)
        return statistics.median(values) if values else None

    def cpu(self, system: str, workload: str, temper: str) -> tuple[float, float, float] | None:
        """CPU seconds of the reader, the server and the kernel's threads, in the median each."""
        if (system, workload, temper) not in self.by_cell:
            return None
        fields = ("cpu_reader", "cpu_server", "cpu_kernel")
        return tuple(self.median(system, workload, temper, field) or 0.0 for field in fields)

    def ratio(self, system: str, against: str, workload: str, temper: str) -> float | None:
        ours, theirs = (self.median(name, workload, temper) for name in (system, against))
        return ours / theirs if ours is not None and theirs else None

    def over_all(self, system: str, field: str, of=max) -> float | None:
        values = [run[field] for run in self.data["runs"] if run["system"] == system and run[field] is not None]
        return of(values) if values else None

    def image(self, system: dict) -> dict | None:
        return self.data["built"].get(system["image"])

    def ours(self) -> list[dict]:
        return [system for system in self.systems if system["group"] == "ours"]

    def measured_workloads(self) -> list[dict]:
        return [workload for workload in self.workloads if not workload["why"]]

    # --- the floor -----------------------------------------------------------------------------

    def floor(self, system: dict, workload: str) -> dict[str, float] | None:
        """By part, for a cold run of a system of ours, from the blocks that it needed and the questions it was asked."""
        name = system["name"]
        stored = self.median(name, workload, "cold", "stored_bytes")
        image = self.image(system)
        if stored is None or not image:
            return None
        content = stored * self.data["tree"]["bytes"] / image["bytes"]
        copied = self.median(name, workload, "cold", "content_bytes") or 0
        return floor.parts(self.data["rates"], stored, content, copied, self.median(name, workload, "cold", "upcalls") or 0)

    # --- the goals -----------------------------------------------------------------------------

    def goals(self) -> list[Goal]:
        goals = [self.time_goal(workload, against, limit)
                 for workload, limits in GOALS.items()
                 for against, limit in zip(AGAINST, limits) if limit]  # fmt: skip
        goals.append(self.every_row("every workload, warm", "erofs", [(None, "warm", WARM_GOAL)]))
        for peer in self.systems:
            if peer["group"] == "fuse":
                limits = [(READING, "cold", PEER_GOAL_ZSTD if peer["expands_zstd"] else PEER_GOAL),
                          (None, "cold", PEER_GOAL), (None, "warm", PEER_GOAL)]  # fmt: skip
                goals.append(self.every_row("every workload, cold and warm", peer["name"], limits))
        return [*goals, self.guards_goal(), self.memory_goal(), self.size_goal(), self.mount_goal()]

    def time_goal(self, workload: str, against: str, limit: float) -> Goal:
        ratios = {one["name"]: self.ratio(one["name"], against, workload, "cold") for one in self.ours()}
        return Goal(self.labels.get(workload, workload) + ", cold", self.labels.get(against, against), f"≤ {limit:.2f}×",
                    {name: times(ratio) for name, ratio in ratios.items()},
                    {name: None if ratio is None else ratio <= limit for name, ratio in ratios.items()})  # fmt: skip

    def every_row(self, what: str, against: str, limits: list[tuple[tuple[str, ...] | None, str, float]]) -> Goal:
        """One goal over many rows: the first limit that fits a row holds. Rows over theirs are named."""
        told = " or ".join(dict.fromkeys(f"≤ {limit:.2f}×" for *_, limit in limits))
        goal = Goal(what, self.labels.get(against, against), told, {}, {})
        for one in self.ours():
            name, rows, missed = one["name"], 0, []
            for workload in self.measured_workloads():
                for temper in TEMPERS:
                    plain_name = workload["name"].removesuffix(OVERLAY)
                    fitting = [limit for names, of_temper, limit in limits
                               if of_temper == temper and (names is None or plain_name in names)]  # fmt: skip
                    limit = fitting[0] if fitting else None
                    ratio = self.ratio(name, against, workload["name"], temper)
                    if limit is None or ratio is None:
                        continue
                    rows += 1
                    if ratio > limit:
                        missed.append(f"{workload['label']}, {temper} {times(ratio)} (≤ {limit:.2f})")
            goal.measured[name] = f"{rows - len(missed)} of {rows} rows within" if rows else "–"
            goal.reached[name] = not missed if rows else None
            goal.missed[name] = missed
        return goal

    def guards_goal(self) -> Goal:
        """What it costs that another process stands by, that bytes are healed and that the server may do little."""
        ratios = [ratio for workload in self.measured_workloads() for temper in TEMPERS
                  if (ratio := self.ratio("ashlar", "ashlarbare", workload["name"], temper)) is not None]  # fmt: skip
        mean = statistics.geometric_mean(ratios) if ratios else None
        told = f"{mean:.3f}× (single rows {min(ratios):.2f} to {max(ratios):.2f})" if ratios else "–"
        names = [one["name"] for one in self.ours()]
        return Goal("all rows, geometric mean", self.labels["ashlarbare"], f"≤ {GUARDS_GOAL:.2f}×",
                    {name: told if name == "ashlar" else "–" for name in names},
                    {name: mean <= GUARDS_GOAL if mean is not None and name == "ashlar" else None
                     for name in names})  # fmt: skip

    def memory_goal(self) -> Goal:
        limits = {one["name"]: MEMORY_GOALS_MIB.get(one["name"]) for one in self.ours()}
        peaks = {name: self.over_all(name, "server_peak_mib") for name in limits}
        return Goal("memory of the server, all runs", "–", "≤ 96 MiB, 24 with 8M",
                    {name: "–" if peak is None else f"{peak:.1f} MiB" for name, peak in peaks.items()},
                    {name: None if peak is None or not limits[name] else peak <= limits[name]
                     for name, peak in peaks.items()})  # fmt: skip

    def size_goal(self) -> Goal:
        """Only Ashlar with squashfs's block size has this goal; the others' ratios are shown beside it."""
        reference = next((self.image(one) for one in self.systems if one["name"] == "squashfs"), None)
        ratios = {one["name"]: built["bytes"] / reference["bytes"] if reference and (built := self.image(one)) else None
                  for one in self.ours()}  # fmt: skip
        return Goal("size of the image", self.labels.get("squashfs", "squashfs"), f"≤ {SIZE_GOAL:.2f}×",
                    {name: "–" if ratio is None else f"{ratio:.3f}×" for name, ratio in ratios.items()},
                    {name: ratio <= SIZE_GOAL if ratio is not None and name == "ashlar128" else None
                     for name, ratio in ratios.items()})  # fmt: skip

    def mount_goal(self) -> Goal:
        seconds = {one["name"]: self.over_all(one["name"], "mount_seconds", statistics.median) for one in self.ours()}
        counts = self.data["tree"]["names"] >= MOUNT_GOAL_NAMES
        return Goal("mount to the first lstat, 1,000,000 names", "–", f"≤ {MOUNT_GOAL_SECONDS * 1000:.0f} ms",
                    {name: "–" if took is None else f"{took * 1000:.1f} ms" + " (fewer names)" * (not counts)
                     for name, took in seconds.items()},
                    {name: took <= MOUNT_GOAL_SECONDS if took is not None and counts else None
                     for name, took in seconds.items()})  # fmt: skip


def times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}×"


def verdict(reached: bool | None) -> str:
    return {True: "reached", False: "missed", None: "–"}[reached]


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"
