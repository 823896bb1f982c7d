"""How does it read on a terminal? Markdown tables, one row a workload, one column a system."""

from . import tables
from .report import Report, verdict
from .systems import OPTIONS

CPU_NOTE = "In brackets CPU seconds of reader, server and kernel threads together."


def told(prose_and_rows: tuple[str, tables.Rows]) -> tuple[str, str]:
    return prose_and_rows[0], table(prose_and_rows[1])


def table(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def render(report: Report) -> str:
    parts = [headline(report), "## Cold", CPU_NOTE, table(tables.medians(report, "cold")),
             "## Warm", table(tables.medians(report, "warm"))]  # fmt: skip
    for system in report.ours():
        parts += [f"## {system['label']}: its time as a ratio to the others'", table(tables.ratios(report, system))]
    parts += ["## Goals", goals(report), "## The floor", *told(tables.floors(report)),
              "## Systems", *told(tables.systems(report))]  # fmt: skip
    skipped = [f"* {one['label']}: {one['why']}" for one in report.workloads if one["why"]]
    if skipped:
        parts += ["## Not measured", "\n".join(skipped)]
    return "\n\n".join(parts)


def headline(report: Report) -> str:
    data = report.data
    tree = data["tree"]
    return (f"# {tree['name']}: {tree['names']} names, {tree['files']} files, {tree['bytes'] / 1e6:.0f} MB\n\n"
            f"{data['date']}, {data['processors']} processors, {data['rounds']} rounds; medians in seconds.\n"
            f"{'; '.join(data['versions'])}.\n{OPTIONS}\nBoot trace: {data['trace']}.")  # fmt: skip


def goals(report: Report) -> str:
    ours = report.ours()
    rows = [["", "against", "goal", *(one["label"] for one in ours)]]
    missed = []
    for goal in report.goals():
        told = [(goal.measured[one["name"]], verdict(goal.reached[one["name"]])) for one in ours]
        cells = [f"{measured} {said}".removesuffix(" –") for measured, said in told]
        rows.append([goal.what, goal.against, goal.limit, *cells])
        for one in ours:
            missed += [f"* {one['label']} against {goal.against}: {row}" for row in goal.missed.get(one["name"], [])]
    below = "\n\nRows over their limit:\n\n" + "\n".join(missed) if missed else ""
    return "These are goals for the Debian root on 2 processors.\n\n" + table(rows) + below
