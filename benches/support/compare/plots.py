"""How is it drawn? Inline SVG, in the page's own colours, so that light and dark both fit."""

import dataclasses
import math
from html import escape

LABEL, BAR, NUMBER, ROW = 150, 230, 62, 19  # widths and the height of one row, in SVG's pixels
GAP = 8


@dataclasses.dataclass
class Bar:
    """`segments` are stacked: values with the style each has. `single` are the runs behind a median."""

    label: str
    style: str
    segments: list[tuple[float, str, str]]  # value, style, what it is
    single: list[float] = dataclasses.field(default_factory=list)

    @property
    def value(self) -> float:
        return sum(value for value, *_ in self.segments)


def bars(title: str, rows: list[Bar], number, mark: float | None = None, mark_title: str = "") -> str:
    """Horizontal bars from zero, with a dot for each single run; `mark` is a dashed line through all."""
    most = max([row.value for row in rows] + [value for row in rows for value in row.single] + [mark or 0, 1e-9])

    def x(value: float) -> float:
        return LABEL + GAP + value / most * BAR

    parts = []
    for nth, row in enumerate(rows):
        top = nth * ROW
        middle = top + ROW / 2
        strong = ' class="strong"' if row.style == "ours" else ""
        parts.append(f'<text x="{LABEL}" y="{middle + 4:.1f}" text-anchor="end"{strong}>{escape(row.label)}</text>')
        at = 0.0
        for value, style, what in row.segments:
            tip = escape(f"{row.label}{', ' + what if what else ''}: {number(value)}")
            parts.append(f'<rect class="{style}" x="{x(at):.1f}" y="{top + 3}" width="{max(x(value) - x(0), 0.5):.1f}" '
                         f'height="{ROW - 6}" rx="2"><title>{tip}</title></rect>')  # fmt: skip
            at += value
        parts += [f'<circle class="run" cx="{x(one):.1f}" cy="{middle}" r="1.8"/>' for one in row.single]
        parts.append(f'<text class="number" x="{LABEL + BAR + GAP + NUMBER}" y="{middle + 4:.1f}" text-anchor="end"{strong}>'
                     f"{number(row.value)}</text>")  # fmt: skip
    height = len(rows) * ROW + 4
    if mark:
        parts.append(f'<line class="mark" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="0" y2="{height - 4}">'
                     f"<title>{escape(mark_title)}</title></line>")  # fmt: skip
    return figure(title, LABEL + BAR + NUMBER + 2 * GAP, height, parts)


def figure(title: str, width: float, height: float, parts: list[str]) -> str:
    drawing = (f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{escape(title)}">'
               f"{''.join(parts)}</svg>")  # fmt: skip
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>"


SHAPES = ("circle", "diamond", "square")


def shape(kind: str, x: float, y: float, style: str, tip: str) -> str:
    title = f"<title>{escape(tip)}</title>"
    if kind == "circle":
        return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="5">{title}</circle>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if kind == "diamond" else ""
    return f'<rect class="{style}" x="{x - 4.3:.1f}" y="{y - 4.3:.1f}" width="8.6" height="8.6"{turn}>{title}</rect>'


def ratios(title: str, rows: list[tuple[str, list[float | None]]], against: list[str]) -> str:
    """One row a workload, one shape a rival, on a logarithmic scale: left of the line we are faster."""
    width, label, step, head = 1240, 240, 26, 26
    found = [ratio for _, row in rows for ratio in row if ratio]
    least, most = min([0.5, *found]) / 1.12, max([2.0, *found]) * 1.12

    def x(ratio: float) -> float:
        return label + 20 + math.log(ratio / least) / math.log(most / least) * (width - label - 40)

    height = head + len(rows) * step + 6
    parts = [f'<rect class="won" x="{x(least):.1f}" y="{head - 6}" width="{x(1) - x(least):.1f}" '
             f'height="{height - head}" rx="4"/>']  # fmt: skip
    for tick in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1, 1.5, 2, 4, 8, 16):
        if least <= tick <= most:
            style = "one" if tick == 1 else "tick"
            parts.append(f'<line class="{style}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{head - 6}" y2="{height - 6}"/>')
            parts.append(f'<text class="axis" x="{x(tick):.1f}" y="12" text-anchor="middle">{tick:.3g}×</text>')
    for nth, (name, row) in enumerate(rows):
        y = head + nth * step + step / 2 - 6
        parts.append(f'<text x="{label}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for kind, rival, ratio in zip(SHAPES, against, row):
            if ratio:
                style = "faster" if ratio <= 1 else "slower"
                parts.append(shape(kind, x(ratio), y, style, f"{name}: {ratio:.2f}× the time of {rival}"))
    return figure(title, width, height, parts)


def legend(entries: list[tuple[str, str]]) -> str:
    """Shapes (of `ratios`) or styles (of bars) and what they mean."""
    items = []
    for key, meaning in entries:
        drawn = f'<rect class="{key}" y="1" width="14" height="12" rx="2"/>'
        if key in SHAPES:
            drawn = shape(key, 7, 7, "plainshape", meaning)
        items.append(f'<span><svg width="14" height="14" aria-hidden="true">{drawn}</svg> {escape(meaning)}</span>')
    return f'<p class="legend">{"".join(items)}</p>'
