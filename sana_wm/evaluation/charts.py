"""Charts as inline SVG without anything from outside; colours are classes that the page's style fills in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sana_wm.evaluation.tables import WORLD, Number

WIDTH, HEIGHT = 440, 260
FEW = 10
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 14, 40


@dataclass(frozen=True)
class Line:
    """A curve with a band: points are (x, Number)."""

    words: str
    kind: str
    points: Sequence[tuple[float, Number]]


@dataclass(frozen=True)
class Axis:
    """Maps values to places; `ticks` are what is written along it."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.stop - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        return nice_ticks(self.low, self.high)


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high].

    >>> nice_ticks(0, 67)
    [0.0, 20.0, 40.0, 60.0]
    """
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) + 0.0 for k in range(first, math.floor(high / step + 1e-9) + 1)]


def curves(lines: Sequence[Line], x_words: str, y_words: str, *, from_zero: bool = True) -> str:
    """Lines with bands of their intervals, and a legend."""
    known = [(x, n) for line in lines for x, n in line.points if n.value is not None]
    if not known:
        return ""
    ends = [v for _, n in known for v in (n.value, n.low, n.high) if v is not None]
    y_axis = _y(0.0 if from_zero else min(ends), max(ends), HEIGHT)
    x_axis = Axis(min(0.0, min(x for x, _ in known)), max(x for x, _ in known), LEFT, WIDTH - RIGHT)
    kinds = _told_apart([line.kind for line in lines])
    parts = [_frame(x_axis, y_axis, x_words, y_words, HEIGHT)]
    drawn = sorted(zip(lines, kinds, strict=True), key=lambda pair: pair[0].kind == WORLD)  # the world lies on top
    for line, _ in drawn:
        points = [(x, n) for x, n in line.points if n.value is not None]
        banded = [(x, n) for x, n in points if n.low is not None and n.high is not None]
        if len(banded) > 1:
            upper = [f"{x_axis(x)},{y_axis(n.high)}" for x, n in banded]
            lower = [f"{x_axis(x)},{y_axis(n.low)}" for x, n in reversed(banded)]
            parts.append(f'<polygon class="band {line.kind}" points="{" ".join(upper + lower)}"/>')
    for line, kind in drawn:
        points = [(x, n) for x, n in line.points if n.value is not None]
        path = " ".join(f"{x_axis(x)},{y_axis(n.value)}" for x, n in points)
        parts.append(f'<polyline class="line {kind}" points="{path}"/>')
        for x, n in points:
            parts.append(f'<circle class="dot {line.kind}" cx="{x_axis(x)}" cy="{y_axis(n.value)}" r="2.4">'
                         f"<title>{escape(line.words)}, {x:g}: {escape(n.full)}</title></circle>")  # fmt: skip
    words = [(line.words, kind) for line, kind in zip(lines, kinds, strict=True)]
    return _svg(parts, HEIGHT, f"{y_words} by {x_words}") + legend(words)


def _told_apart(kinds: Sequence[str]) -> list[str]:
    """Classes of lines: the second one of a kind is dashed."""
    return [kind + " dashed" * (kind in kinds[:k]) for k, kind in enumerate(kinds)]


def scatter(points: Sequence[tuple[str, Number, Number]], x_words: str, y_words: str) -> str:
    """Named points with the diagonal on which both would be equal."""
    points = [(words, x, y) for words, x, y in points if x.value is not None and y.value is not None]
    if not points:
        return ""
    values = [n.value for _, x, y in points for n in (x, y)]
    room = 0.08 * max(max(values) - min(values), 1e-6)
    low, high = min(values) - room, max(values) + room
    side = 340
    x_axis, y_axis = Axis(low, high, LEFT, WIDTH - RIGHT), Axis(low, high, side - BOTTOM, TOP)
    parts = [_frame(x_axis, y_axis, x_words, y_words, side)]
    parts.append(f'<line class="diagonal" x1="{x_axis(low)}" y1="{y_axis(low)}" x2="{x_axis(high)}" '
                 f'y2="{y_axis(high)}"/>')  # fmt: skip
    for words, x, y in points:
        parts.append(f'<circle class="dot world" cx="{x_axis(x.value)}" cy="{y_axis(y.value)}" r="5">'
                     f"<title>{escape(words)}: {escape(x.text)}, {escape(y.text)}</title></circle>")  # fmt: skip
    for words, x, y in _apart(points, x_axis, y_axis):
        parts.append(f'<text class="small" x="{x}" y="{y}">{escape(words)}</text>')
    return _svg(parts, side, f"{y_words} against {x_words}") + legend([("a policy", "world"), ("equal", "diagonal")])


def _apart(points, x_axis: Axis, y_axis: Axis) -> list[tuple[str, float, float]]:
    """Places for words beside points, leaving out those that would lie on one another."""
    placed: list[tuple[str, float, float]] = []
    for words, x, y in points:
        left, top = x_axis(x.value) + 8, y_axis(y.value) + 4
        width = 6.2 * len(words)
        if left + width > WIDTH - RIGHT:
            left = round(x_axis(x.value) - 8 - width, 1)
        if all(abs(top - other) > 11 or abs(left - at) > max(width, 6.2 * len(name)) for name, at, other in placed):
            placed.append((words, left, top))
    return placed


def reliability(series: Sequence[tuple[str, str, list[dict]]]) -> str:
    """How often something was so against how likely it was said to be; the diagonal is perfect calibration.

    Bins of fewer than `FEW` cases say nothing and are left out.
    """
    side = 340
    x_axis, y_axis = Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, side - BOTTOM, TOP)
    parts = [_frame(x_axis, y_axis, "probability said", "share true", side)]
    parts.append(f'<line class="diagonal" x1="{x_axis(0)}" y1="{y_axis(0)}" x2="{x_axis(1)}" y2="{y_axis(1)}"/>')
    for words, kind, all_bins in series:
        bins = [entry for entry in all_bins if entry["cases"] >= FEW]
        most = max((entry["cases"] for entry in bins), default=1)
        path = " ".join(f"{x_axis(entry['said'])},{y_axis(entry['true'])}" for entry in bins)
        parts.append(f'<polyline class="line thin {kind}" points="{path}"/>')
        for entry in bins:
            x, y = x_axis(entry["said"]), y_axis(entry["true"])
            radius = round(2.5 + 5 * math.sqrt(entry["cases"] / most), 1)
            parts.append(f'<line class="whisker {kind}" x1="{x}" y1="{y_axis(entry["low"])}" x2="{x}" '
                         f'y2="{y_axis(entry["high"])}"/>')  # fmt: skip
            told = f"{words}: said {entry['said']:.2f}, true {entry['true']:.2f} of {entry['cases']:,}"
            parts.append(f'<circle class="dot {kind}" cx="{x}" cy="{y}" r="{radius}">'
                         f"<title>{escape(told)}</title></circle>")  # fmt: skip
    words = [(words, kind) for words, kind, _ in series] + [("perfect", "diagonal")]
    return _svg(parts, side, "share true by probability said") + legend(words)


def bars(rows: Sequence[tuple[str, str, Number]], high: float | None = None, marks: Sequence[float] = ()) -> str:
    """Horizontal bars with whiskers, each (words, kind, number); `marks` are upright lines."""
    rows = [(words, kind, number) for words, kind, number in rows if number.value is not None]
    if not rows:
        return ""
    tall, left, right = 26, 176, 64
    height = len(rows) * tall + 8
    ends = [v for _, _, n in rows for v in (n.value, n.low, n.high) if v is not None] + [0.0]
    axis = Axis(min(0.0, min(ends)), max(ends) if high is None else high, left, WIDTH - right)
    if axis.high <= axis.low:
        axis = Axis(axis.low, axis.low + 1, left, WIDTH - right)
    parts = []
    for mark in (axis.low, *marks, axis.high):
        parts.append(f'<line class="grid" x1="{axis(mark)}" y1="2" x2="{axis(mark)}" y2="{height - 4}"/>')
    zero = axis(0.0)
    for k, (words, kind, number) in enumerate(rows):
        middle, end = 4 + k * tall + tall / 2, axis(number.value)
        start, length = min(zero, end), round(abs(end - zero), 1)
        parts.append(f'<text class="label" x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(words)}</text>')
        parts.append(f'<rect class="bar {kind}" x="{start}" y="{middle - 8}" width="{max(length, 1)}" height="16" '
                     f'rx="2"><title>{escape(words)}: {escape(number.full)}</title></rect>')  # fmt: skip
        edge = end
        if number.low is not None and number.high is not None:
            low, edge = axis(number.low), max(end, axis(number.high))
            parts.append(f'<path class="whisker over" d="M{low} {middle}H{axis(number.high)}M{low} {middle - 4}v8'
                         f'M{axis(number.high)} {middle - 4}v8"/>')  # fmt: skip
        parts.append(f'<text class="value" x="{round(edge + 7, 1)}" y="{middle + 4}">{escape(number.text)}</text>')
    return _svg(parts, height, "bars with 95 % intervals")


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """What colours mean, below a chart."""
    items = "".join(f'<li><span class="key {kind}"></span>{escape(words)}</li>' for words, kind in entries)
    return f'<ul class="legend">{items}</ul>'


def _y(low: float, high: float, height: float) -> Axis:
    if high <= low:
        high = low + 1
    room = 0.05 * (high - low)
    return Axis(low if low == 0 else low - room, high + room, height - BOTTOM, TOP)


def _frame(x_axis: Axis, y_axis: Axis, x_words: str, y_words: str, height: float) -> str:
    parts = []
    for tick in y_axis.ticks:
        y = y_axis(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{_tick(tick)}</text>')
    for tick in x_axis.ticks:
        x = x_axis(tick)
        parts.append(f'<text class="tick" x="{x}" y="{height - BOTTOM + 17}" text-anchor="middle">{_tick(tick)}</text>')
    base = height - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{WIDTH - RIGHT}" y2="{base}"/>')
    parts.append(f'<text class="words" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 5}" text-anchor="middle">'
                 f"{escape(x_words)}</text>")  # fmt: skip
    middle = (TOP + base) / 2
    parts.append(f'<text class="words" transform="translate(10 {middle}) rotate(-90)" text-anchor="middle">'
                 f"{escape(y_words)}</text>")  # fmt: skip
    return "".join(parts)


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _svg(parts: Sequence[str], height: float, words: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(words, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )
