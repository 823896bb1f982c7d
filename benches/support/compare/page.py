"""How does it look? One HTML page that needs nothing else: its style and its plots are in it, scripts there are none."""

from html import escape
from pathlib import Path

from . import plots, tables
from .plots import SHAPES, Bar
from .report import AGAINST, Report, seconds, times, verdict
from .systems import OPTIONS

STYLE = Path(__file__).with_name("page.css")
GROUPS = [("ours", "Ashlar: verifies every block"), ("kernel", "in the kernel"), ("fuse", "other FUSE servers"),
          ("plain", "the directory")]  # fmt: skip
STACKED = [("reader", "reader"), ("server", "server"), ("threads", "kernel threads")]


def render(report: Report) -> str:
    tree = report.data["tree"]
    body = [
        f"<header><h1>Ashlar beside its peers</h1><p>{escape(tree['name'])}: {tree['names']:,} names, "
        f"{tree['files']:,} files, {tree['bytes'] / 1e6:,.0f} MB. "
        f"{escape(report.data['date'])}, {report.data['processors']} processors, "
        f"{report.data['rounds']} rounds.</p></header>",
        tiles(report),
        *(section("Faster or slower", overview(report, system)) for system in report.ours()[:1]),
        section("Goals", "<p>For the Debian root on 2 processors, cold unless said.</p>" + goals(report)),
        section("Cold", "<p>Mounted afresh, page cache dropped; seconds. Bars are medians, dots single runs, the dashed "
                "line Ashlar's floor on this machine.</p>" + plots.legend(GROUPS) + times_panels(report, "cold")),
        section("Warm", "<p>The same again at once.</p>" + plots.legend(GROUPS) + times_panels(report, "warm")),
        section("Processor time, cold", plots.legend(STACKED) + cpu_panels(report)),
        section("Images and memory", resource_panels(report) + prose_and_table(tables.systems(report))),
        section("The floor", prose_and_table(tables.floors(report))),
        section("All ratios", "<p>Ashlar's time over the other's; what we lose is bold.</p>"
                + "".join(f"<h3>{escape(s['label'])}</h3>{table(tables.ratios(report, s))}" for s in report.ours())),
        section("How it was measured", how(report)),
    ]  # fmt: skip
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
            "<title>Ashlar beside its peers</title>"
            f"<style>{STYLE.read_text()}</style></head>\n<body>{chr(10).join(body)}</body></html>\n")  # fmt: skip


def section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def tiles(report: Report) -> str:
    found = [goal.reached["ashlar"] for goal in report.goals() if goal.reached.get("ashlar") is not None]
    shown = [(f"{sum(found)} of {len(found)}", "goals reached")]
    for against in AGAINST:
        ratio = report.ratio("ashlar", against, "read", "cold")
        if ratio:
            shown.append((times(ratio), f"{report.labels[against]}’s time to read everything, cold"))
    peak = report.over_all("ashlar", "server_peak_mib")
    if peak is not None:
        shown.append((f"{peak:.0f} MiB", "most memory of the server"))
    cells = "".join(f"<div><strong>{escape(number)}</strong><span>{escape(what)}</span></div>" for number, what in shown)
    return f'<div class="tiles">{cells}</div>'


def overview(report: Report, system: dict) -> str:
    rivals = [name for name in AGAINST if name in report.labels]
    labels = [report.labels[name] for name in rivals]
    said = f"{system['label']}: time as a ratio to others’"
    drawn = []
    for temper in ("cold", "warm"):
        rows = [(one["label"], [report.ratio(system["name"], rival, one["name"], temper) for rival in rivals])
                for one in report.measured_workloads()]  # fmt: skip
        drawn.append(plots.ratios(f"{said}, {temper}", rows, labels))
    keys = [(shape, f"against {label}") for shape, label in zip(SHAPES, labels)]
    return "<p>Left of the line Ashlar is faster.</p>" + plots.legend(keys) + "".join(drawn)


def goals(report: Report) -> str:
    ours = report.ours()
    head = "".join(f"<th>{escape(text)}</th>" for text in ["", "against", "goal", *(one["label"] for one in ours)])
    rows = []
    for goal in report.goals():
        cells = "".join(f"<td>{escape(text)}</td>" for text in (goal.what, goal.against, goal.limit))
        for one in ours:
            said = verdict(goal.reached[one["name"]])
            badge = f' <span class="badge {said}">{said}</span>' if said != "–" else ""
            missed = goal.missed.get(one["name"], [])
            listed = "".join(f"<li>{escape(row)}</li>" for row in missed)
            more = f"<details open><summary>{len(missed)} over the limit</summary><ul>{listed}</ul></details>" if missed else ""
            cells += f"<td>{escape(goal.measured[one['name']])}{badge}{more}</td>"
        rows.append(f"<tr>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def times_panels(report: Report, temper: str) -> str:
    panels = []
    for workload in report.measured_workloads():
        rows = []
        for system in report.systems:
            median = report.median(system["name"], workload["name"], temper)
            if median is not None:
                single = report.values(system["name"], workload["name"], temper)
                rows.append(Bar(system["label"], system["group"], [(median, system["group"], "")], single))
        first = report.ours()[:1]
        parts = report.floor(first[0], workload["name"]) if first and temper == "cold" else None
        mark = max(parts.values()) if parts else None
        panels.append(plots.bars(workload["label"], rows, seconds, mark, f"floor: {seconds(mark)} s"))
    return f'<div class="panels">{"".join(panels)}</div>'


def cpu_panels(report: Report) -> str:
    panels = []
    for workload in report.measured_workloads():
        rows = []
        for system in report.systems:
            cpu = report.cpu(system["name"], workload["name"], "cold")
            if cpu:
                stacked = [(value, style, style) for value, style in zip(cpu, ("reader", "server", "threads"))]
                rows.append(Bar(system["label"], system["group"], stacked))
        panels.append(plots.bars(workload["label"], rows, seconds))
    return f'<div class="panels">{"".join(panels)}</div>'


def resource_panels(report: Report) -> str:
    def panel(title: str, value, number) -> str:
        rows = [Bar(one["label"], one["group"], [(value(one), one["group"], "")])
                for one in report.systems if value(one) is not None]  # fmt: skip
        return plots.bars(title, rows, number) if rows else ""

    def size(system: dict) -> float | None:
        image = report.image(system)
        return image["bytes"] / 1e6 if image else None

    drawn = [
        panel("Image, MB", size, "{:.1f}".format),
        panel("Memory of the server, MiB", lambda one: report.over_all(one["name"], "server_peak_mib"), "{:.1f}".format),
        panel("Page cache after reading everything, MiB",
              lambda one: report.median(one["name"], "read", "cold", "page_cache_mib"), "{:.0f}".format),
    ]  # fmt: skip
    return f'<div class="panels">{"".join(drawn)}</div>'


def how(report: Report) -> str:
    data = report.data
    said = [*data["versions"], OPTIONS, f"Boot trace: {data['trace']}."]
    said += [f"{one['label']}: not available: {one['why']}" for one in report.systems if one["why"]]
    said += [f"{one['label']}: not measured: {one['why']}" for one in report.workloads if one["why"]]
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in said) + "</ul>"


def prose_and_table(told: tuple[str, tables.Rows]) -> str:
    return f"<p>{escape(told[0])}</p>{table(told[1])}"


def table(rows: tables.Rows) -> str:
    head, *body = rows
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(map(cell_html, row)) + "</tr>" for row in body)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


def cell_html(cell: str) -> str:
    is_lost = cell.startswith("**")
    return f'<td{" class=lost" if is_lost else ""}>{escape(cell.strip("*"))}</td>'
