"""Plots as SVG, drawn for a page of 380 units' width so that a phone shows them legibly.

Colours are classes (`c0`, `c1`, …, and `ink`, `faint`) that the page's style sheet fills in, light or dark.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 38
LINE = 15  # so that the lower name stands below both lines
COLOURS = 12
MARKS = ("circle", "square", "triangle", "diamond")

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A scale between two values; `logarithmic` where every tenfold takes as much room."""

    label: str
    low: float
    high: float
    logarithmic: bool = False
    marked: tuple[float, ...] = ()
    """Values to name instead of round ones."""

    @classmethod
    def around(cls, label: str, values: Iterable[float], logarithmic: bool = False) -> "Axis":
        """Room for all values, from zero where it is linear."""
        found = list(values) or [1.0]
        if logarithmic:
            return cls(label, min(found) / 1.25, max(found) * 1.25, True)
        return cls(label, 0.0, max(found) * 1.08 or 1.0)

    @classmethod
    def of(cls, label: str, values: Iterable[float]) -> "Axis":
        """A logarithmic scale that names just these values."""
        return replace(cls.around(label, values := sorted(set(values)), logarithmic=True), marked=tuple(values))

    def part(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Those that are marked, or round values within, four to seven of them or so."""
        if self.marked:
            return list(self.marked)
        if not self.logarithmic:
            rough = (self.high - self.low) / 5
            step = 10 ** math.floor(math.log10(rough))
            step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
            return [step * number for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
            found = [factor * 10.0**decade for decade in decades for factor in factors]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) >= 3:
                return found
        return found


@dataclass(frozen=True)
class Series:
    """Points of one row, in its colour, joined by a line or not."""

    name: str
    points: Sequence[Point]
    joined: bool = True


@dataclass(frozen=True)
class Guide:
    """A line that is no row: a limit of the machine, with its name at its end."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Plot:
    """What is shown, and how."""

    title: str
    svg: str
    note: str = ""


def chart(title: str, across: Axis, up: Axis, series: Sequence[Series], colours: Mapping[str, int],
          guides: Sequence[Guide] = (), note: str = "") -> Plot:  # fmt: skip
    """Points and lines between two axes."""
    parts = [*_axes(across, up)]
    lines = [([_place(across, up, point) for point in guide.points], guide.name) for guide in guides]
    above = -math.inf
    for places, name in sorted(lines, key=lambda line: line[0][-1][1]):
        parts.append(_polyline(places, "guide"))
        x, y = places[-1]
        above = max(y - 4, TOP + 6, above + LINE)  # lines that are close keep their names apart
        parts.append(_text(min(x, WIDTH - RIGHT) - 3, above, name, "small end"))
    for one in series:
        number = colours[one.name]
        places = [_place(across, up, point) for point in one.points]
        if one.joined and len(places) > 1:
            parts.append(_polyline(places, f"line c{number}"))
        parts += [_mark(place, number, f"{one.name}: {point[0]:g}, {point[1]:.4g}")
                  for place, point in zip(places, one.points, strict=True)]  # fmt: skip
    return Plot(title, _svg(title, HEIGHT, parts), note)


def strips(title: str, label: str, rows: Sequence[tuple[str, Sequence[float]]], colours: Mapping[str, int],
           note: str = "") -> Plot:  # fmt: skip
    """One strip for each row: a dot for each call, a box from p50 to p90, and a tick at p99."""
    across = Axis.around(label, [call for _, calls in rows for call in calls], logarithmic=True)
    pitch = 30
    bottom = TOP + pitch * len(rows)
    left = 8
    room = WIDTH - left - RIGHT
    parts = []
    for tick in across.ticks():
        x = left + room * across.part(tick)
        parts += [f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>',
                  _text(x, bottom + 14, _number(tick), "middle")]  # fmt: skip
    parts.append(_text(left + room / 2, bottom + 30, label, "middle"))
    for number, (name, calls) in enumerate(rows):
        ordered, y, colour = sorted(calls), TOP + pitch * number + 20, colours[name]
        p50, p90, p99 = (left + room * across.part(_quantile(ordered, part)) for part in (0.5, 0.9, 0.99))
        parts += [
            f'<circle class="dot c{colour}" cx="{left + room * across.part(call):.1f}" cy="{y}" r="2"/>'
            for call in ordered
        ]
        parts.append(
            f'<rect class="box c{colour}" x="{p50:.1f}" y="{y - 5}" width="{max(1.5, p90 - p50):.1f}" height="10"/>'
        )
        parts.append(f'<line class="line c{colour}" x1="{p99:.1f}" x2="{p99:.1f}" y1="{y - 6}" y2="{y + 6}"/>')
        parts.append(_text(left, y - 9, f"{name}: {_quantile(ordered, 0.5):.1f}", ""))
    return Plot(title, _svg(title, bottom + BOTTOM, parts), note)


def _axes(across: Axis, up: Axis) -> Iterable[str]:
    for tick in across.ticks():
        x = _place(across, up, (tick, up.low))[0]
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield _text(x, HEIGHT - BOTTOM + 13, _number(tick), "middle")
    for tick in up.ticks():
        y = _place(across, up, (across.low, tick))[1]
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(LEFT - 5, y + 4, _number(tick), "end")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, across.label, "middle")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield f'<text class="middle" x="11" y="{middle}" transform="rotate(-90 11 {middle})">{escape(up.label)}</text>'


def _place(across: Axis, up: Axis, point: Point) -> Point:
    x = LEFT + (WIDTH - LEFT - RIGHT) * across.part(point[0])
    return x, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up.part(point[1])


def _svg(title: str, height: float, parts: Iterable[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'
    return "\n".join([head, *parts, "</svg>"])


def _polyline(places: Iterable[Point], kind: str) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'


def _mark(place: Point, number: int, title: str) -> str:
    x, y = place
    shapes = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"',
        "square": f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"',
        "triangle": f'<path d="M{x:.1f} {y - 4.6:.1f}l4.4 8h-8.8z"',
        "diamond": f'<path d="M{x:.1f} {y - 5:.1f}l5 5-5 5-5-5z"',
    }
    return (
        f'{shapes[MARKS[number % len(MARKS)]]} class="mark c{number}"><title>{escape(title)}</title></{_tag(number)}>'
    )


def _tag(number: int) -> str:
    return {"circle": "circle", "square": "rect"}.get(MARKS[number % len(MARKS)], "path")


def key(number: int) -> str:
    """A row's mark by itself, for a legend."""
    return f'<svg class="key" viewBox="0 0 12 12" aria-hidden="true">{_mark((6, 6), number, "")}</svg>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:.3g}"


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, math.floor(part * len(ordered)))]
