"""Which figures stand beside which? Tables as rows of words, for Markdown and HTML alike; `**` marks what we lose."""

from .report import AGAINST, TEMPERS, Report, seconds, times

Rows = list[list[str]]


def medians(report: Report, temper: str) -> Rows:
    shown = [system for system in report.systems if not system["why"]]
    rows = [["", *(system["label"] for system in shown)]]
    for workload in report.measured_workloads():
        cells = []
        for system in shown:
            cpu = report.cpu(system["name"], workload["name"], temper)
            told = f" ({sum(cpu):.2f})" if cpu and temper == "cold" else ""
            cells.append(seconds(report.median(system["name"], workload["name"], temper)) + told)
        rows.append([workload["label"], *cells])
    return rows


def ratios(report: Report, ours: dict) -> Rows:
    """Ratios above 1 are what we lose: bold."""
    others = [one for one in report.systems if one["name"] != ours["name"] and not one["why"]]
    others.sort(key=lambda one: AGAINST.index(one["name"]) if one["name"] in AGAINST else len(AGAINST))
    rows = [["", *(one["label"] for one in others)]]
    for temper in TEMPERS:
        for workload in report.measured_workloads():
            found = [report.ratio(ours["name"], one["name"], workload["name"], temper) for one in others]
            cells = [f"**{times(ratio)}**" if ratio and ratio > 1 else times(ratio) for ratio in found]
            rows.append([f"{workload['label']}, {temper}", *cells])
    return rows


def floors(report: Report) -> tuple[str, Rows]:
    rates = report.data["rates"]
    said = [f"{name} {rates[key]:.{digits}f} {unit}" for key, name, digits, unit in RATES if rates.get(key) is not None]
    rows = [["cold", "disk", "zstd", "copy", "upcalls", "floor", "measured", "of the floor"]]
    for system in report.ours():
        for workload in report.measured_workloads():
            parts = report.floor(system, workload["name"])
            measured = report.median(system["name"], workload["name"], "cold")
            if not parts or not measured:
                continue
            least = max(parts.values())
            cells = [seconds(parts.get(name)) for name in ("disk", "zstd", "copy", "upcalls")]
            told = f"{measured / least:.1f}×" if least else "–"
            rows.append([f"{system['label']}: {workload['label']}", *cells, seconds(least), seconds(measured), told])
    return f"This machine: {'; '.join(said)}. The floor is the largest part.", rows


RATES = [
    ("disk_mb_s", "disk", 0, "MB/s"),
    ("disk_4k_us", "a random page", 0, "µs"),
    ("zstd_mb_s", "zstd on all processors", 0, "MB/s of content"),
    ("copy_mb_s", "copying", 0, "MB/s"),
    ("wake_same_us", "an upcall on one processor", 1, "µs"),
    ("wake_other_us", "on two", 1, "µs"),
]


def systems(report: Report) -> tuple[str, Rows]:
    rows = [["", "image MB", "mount ms", "server MiB", "page cache MiB", "build s", "build CPU s", "build MiB"]]
    for system in report.systems:
        if system["why"]:
            rows.append([system["label"], f"not available: {system['why']}", *[""] * 6])
            continue
        built = report.image(system)
        mount, peak = (report.over_all(system["name"], field) for field in ("mount_seconds", "server_peak_mib"))
        cached = report.median(system["name"], "read", "cold", "page_cache_mib")
        rows.append([system["label"], f"{built['bytes'] / 1e6:.1f}" if built else "–",
                     "–" if mount is None else f"{mount * 1000:.1f}", "–" if peak is None else f"{peak:.1f}",
                     "–" if cached is None else f"{cached:.0f}",
                     *([f"{built['seconds']:.1f}", f"{built['cpu_seconds']:.1f}", f"{built['peak_mib']:.0f}"] if built
                       else ["–"] * 3)])  # fmt: skip
    return ("Mount: until the first lstat, the slowest. Server: its peak over all runs. Page cache: growth by reading "
            "everything once."), rows  # fmt: skip
