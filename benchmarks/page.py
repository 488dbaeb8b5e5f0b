"""report.html: one file with every table and plot, without scripts, and with nothing loaded from elsewhere.

matplotlib draws the plots in placeholder colours that become the page's CSS variables, so that plots follow the
reader's light or dark theme. Text stays text, in the page's font, and a mark carries its figures as a tooltip.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from benchmarks.quality import fid
from benchmarks.report import Limit, Measured, Report
from benchmarks.tables import all_tables, of_bundle, verdict

OPEN = 3  # tables that are shown at once; the others unfold
WIDTH, HEIGHT, STRIP = 380, 250, 30  # units; at this width a phone shows text of 11 units legibly
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 38  # margins
LINE = 12  # units between the names of guides
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆"}  # matplotlib's, and the legend's
COLOURS = 12

_PLACEHOLDERS = {
    name: f"#abcd{number:02x}"
    for number, name in enumerate(("ink", "faint", "rule", "panel", *(f"c{number}" for number in range(COLOURS))))
}
_INK, _FAINT, _RULE, _PANEL, *_COLOURS = _PLACEHOLDERS.values()
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    **dict.fromkeys(("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"), 11),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), _INK),
    **dict.fromkeys((f"axes.spines.{edge}" for edge in ("left", "right", "top", "bottom")), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 1,
    "lines.linewidth": 1.6,
    "lines.markersize": 7.5,
    "axes.labelpad": 5,
    "lines.markeredgecolor": _PANEL,
    "lines.markeredgewidth": 0.8,
}
_TOOLTIP = "tooltip "

Point = tuple[float, float]
Series = Mapping[str, Sequence[Point]]
Styles = Mapping[str, tuple[str, str]]
"""Colour and marker of each row."""


@dataclass(frozen=True)
class Plot:
    """What is shown, and how to read it."""

    title: str
    svg: str
    note: str = ""


def as_html(report: Report) -> str:
    """The page."""
    templates = Environment(
        loader=PackageLoader("benchmarks"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = sorted({one.case.row for one in of_bundle(report)})
    markers = list(MARKERS)
    styles = {name: (_COLOURS[n % COLOURS], markers[n % len(markers)]) for n, name in enumerate(names)}
    tables = all_tables(report)
    with matplotlib.rc_context(_STYLE):
        plots = all_plots(report, styles)
    return templates.get_template("report.html").render(
        report=report,
        verdict=verdict(report),
        plots=plots,
        legend=[(name, f"c{n % COLOURS}", MARKERS[styles[name][1]]) for n, name in enumerate(names)],
        shown=tables[:OPEN],
        folded=tables[OPEN:],
    )


def all_plots(report: Report, styles: Styles) -> list[Plot]:
    """Those for which there are enough cases."""
    if not report.cases:
        return []
    found = [
        _speed_against_fidelity(report, styles),
        _speed_against_quality(report, styles),
        _distributions(report, styles),
        _roofline(report, styles),
        _against(report, styles, "batch"),
        _against(report, styles, "threads"),
        _against_side(report, styles),
    ]
    return [plot for plot in found if plot]


def _speed_against_fidelity(report: Report, styles: Styles) -> Plot | None:
    cases, where = _one_condition(report)
    points = {
        one.case.row: [(_each(one), facts.differences.psnr)]
        for one in cases
        if (facts := report.facts(one.case)) and facts.differences.psnr is not None and facts.differences.psnr < 200
    }
    labels = "milliseconds per picture", "PSNR against PyTorch in fp32, dB"
    return _chart("Speed against fidelity", labels, points, styles, f"{where}; up and left is better.")


def _speed_against_quality(report: Report, styles: Styles) -> Plot | None:
    cases, where = _one_condition(report)
    distances = {one.row: value for one in report.quality if (value := fid(one)) is not None}
    points = {one.case.row: [(_each(one), distances[one.case.row])] for one in cases if one.case.row in distances}
    labels = "milliseconds per picture", "FID"
    return _chart("Speed against quality", labels, points, styles, f"{where}; down and left is better.")


def _distributions(report: Report, styles: Styles) -> Plot:
    """One strip per row: a dot per call, a bar from p50 to p90, a tick at p99."""
    cases, where = _one_condition(report)
    figure, axes = _figure(TOP + BOTTOM + STRIP * len(cases), left=8)
    calls = [call for one in cases for calls in one.request.rounds for call in calls]
    _scale(axes, "x", calls, logarithmic=True)
    axes.set_xlabel("milliseconds")
    axes.set_ylim(len(cases) * STRIP, 0)
    axes.yaxis.set_major_locator(NullLocator())
    for number, one in enumerate(cases):
        name, request, y = one.case.row, one.request, STRIP * number + 20
        colour, _ = styles[name]
        dots = [call for calls in request.rounds for call in calls]
        axes.plot(dots, [y] * len(dots), "o", color=colour, markersize=4, markeredgewidth=0, alpha=0.35)
        axes.barh(y, request.p90 - request.p50, 10, request.p50, color=colour, alpha=0.55, edgecolor=colour, zorder=2)
        axes.vlines(request.p99, y - 6, y + 6, colour, linewidth=1.6)
        axes.text(0, y - 9, f"{name}: {request.p50:.1f}", transform=axes.get_yaxis_transform())
    note = f"{where}. A dot is a call, the box reaches from the median to p90, the tick is p99."
    return _plot("Latency of whole requests", figure, note)


def _roofline(report: Report, styles: Styles) -> Plot | None:
    cases, where = _one_condition(report)
    limit = _limit(report, cases[0])
    points = {}
    for one in cases:
        if facts := report.facts(one.case):
            batch = one.case.batch
            moved = facts.weight_megabytes + batch * (facts.megabytes - facts.weight_megabytes)
            work = 1000 * batch * facts.gflop
            points[one.case.row] = [(work / moved, work / one.generator.p50)]
    if not limit or not limit.bandwidth or not points:
        return None
    rates = {name: rate for name in ("fp32", "fp16", "bf16", "int8") if (rate := getattr(limit, name))}
    figure, axes = _figure()
    intensities = [x for ((x, _),) in points.values()]
    low, high = min(intensities) / 4, max(intensities) * 4
    _scale(axes, "x", (1.25 * low, high / 1.25), logarithmic=True)
    _scale(axes, "y", [*(y for ((_, y),) in points.values()), *rates.values()], logarithmic=True)
    start = min(max(low, axes.get_ylim()[0] / limit.bandwidth), high)
    for rate in rates.values():
        bend = min(max(rate / limit.bandwidth, start), high)  # memory limits what lies left of it
        line = [(x, min(rate, x * limit.bandwidth)) for x in (start, bend, high)]
        axes.plot(*zip(*line, strict=True), color=_FAINT, linestyle=(0, (5, 3)), linewidth=1.2)
    _name_guides(axes, {f"{name} {rate:.0f}": min(rate, high * limit.bandwidth) for name, rate in rates.items()})
    _draw(axes, points, styles)
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("10⁹ operations per second")
    note = (
        f"The generator, {where}. Lines: this machine's matrix products, and left of the bend its memory "
        f"({limit.bandwidth:.0f} GB/s)."
    )
    return _plot("Roofline", figure, note)


def _name_guides(axes: Axes, guides: Mapping[str, float]) -> None:
    """Writes each name at the right end of its guide; names of close guides keep `LINE` units apart."""
    below = -math.inf
    for name, value in sorted(guides.items(), key=lambda guide: guide[1]):
        height = axes.transData.transform((axes.get_xlim()[1], value))[1]
        below = max(height + 4, below + LINE)
        axes.annotate(
            name,
            (1, value),
            (-3, below - height),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            color=_FAINT,
            fontsize=9.5,
        )


def _against(report: Report, styles: Styles, what: str) -> Plot | None:
    """Time per picture against the batch, with all threads, or against threads, with the smallest batch."""
    cases = [one for one in of_bundle(report) if one.case.device == "cpu"]
    other, choose = ("threads", max) if what == "batch" else ("batch", min)
    if not cases:
        return None
    fixed = choose(getattr(one.case, other) for one in cases)
    cases = [one for one in cases if getattr(one.case, other) == fixed]
    if len({getattr(one.case, what) for one in cases}) < 2:
        return None
    series = _series((one.case.row, getattr(one.case, what), _each(one)) for one in cases)
    labels = what, "request, ms per picture"
    return _chart(f"Time against {what}", labels, series, styles, f"{other} {fixed}.", marked=True)


def _against_side(report: Report, styles: Styles) -> Plot | None:
    cases = [one for one in report.cases if one.case.network != report.network.name and one.case.row in styles]
    if not cases:
        return None
    series = _series((one.case.row, one.case.side, one.generator.p50) for one in cases)
    note = f"The paper's network at other sides, random weights, batch 1, threads {cases[0].case.threads}."
    labels = "R, pixels", "generator, ms"
    return _chart("Time against picture side", labels, series, styles, note, marked=True, logarithmic=True)


def _chart(
    title: str,
    labels: tuple[str, str],
    series: Series,
    styles: Styles,
    note: str,
    marked: bool = False,
    logarithmic: bool = False,
) -> Plot | None:
    """Marks joined by lines between two axes; `marked`: the axis across names just the values that there are."""
    if not series:
        return None
    figure, axes = _figure()
    xs, ys = ([point[axis] for points in series.values() for point in points] for axis in range(2))
    _scale(axes, "x", xs, logarithmic=marked)
    if marked:
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(xs))))
    _scale(axes, "y", ys, logarithmic)
    _draw(axes, series, styles)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    return _plot(title, figure, note)


def _figure(height: int = HEIGHT, left: int = LEFT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    room = (left / WIDTH, BOTTOM / height, (WIDTH - left - RIGHT) / WIDTH, (height - TOP - BOTTOM) / height)
    return figure, figure.add_axes(room)


def _scale(axes: Axes, name: str, values: Sequence[float], logarithmic: bool) -> None:
    """Gives the axis `x` or `y` room for all values, from zero where it is linear, and at least three round ticks."""
    low, high = (min(values) / 1.25, max(values) * 1.25) if logarithmic else (0.0, max(values) * 1.08)
    axes.set(**{f"{name}scale": "log" if logarithmic else "linear", f"{name}lim": (low, high)})
    axis: Axis = getattr(axes, f"{name}axis")
    locators = [LogLocator(subs=subs) for subs in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8))]
    for locator in locators if logarithmic else [MaxNLocator(5, steps=(1, 2, 5, 10))]:
        ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
        if len(ticks) >= 3:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:.3g}")
    axis.set_minor_locator(NullLocator())


def _draw(axes: Axes, series: Series, styles: Styles) -> None:
    for name, points in series.items():
        colour, marker = styles[name]
        axes.plot(*zip(*points, strict=True), color=colour)
        for x, y in points:
            axes.plot(x, y, marker, color=colour, clip_on=False, gid=f"{_TOOLTIP}{name}: {x:g}, {y:.4g}")


def _plot(title: str, figure: Figure, note: str) -> Plot:
    """The figure as SVG: themed, sized by the page, with tooltips in place of ids, which a page must not have twice."""
    file = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title}):
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    svg = file.getvalue().partition("<svg")[2].partition(">")[2]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(rf'<g id="{_TOOLTIP}([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    for name, placeholder in _PLACEHOLDERS.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    return Plot(title, f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{svg}', note)


def _series(points: Iterable[tuple[str, float, float]]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for name, *point in sorted(points):
        found.setdefault(name, []).append((point[0], point[1]))
    return found


def _one_condition(report: Report) -> tuple[Sequence[Measured], str]:
    """The cases of the smallest batch with the most threads, which a person at a desk would see."""
    cases = [one for one in of_bundle(report) if one.case.device == "cpu"] or of_bundle(report) or list(report.cases)
    batch = min(one.case.batch for one in cases)
    threads = max(one.case.threads for one in cases if one.case.batch == batch)
    chosen = [one for one in cases if (one.case.batch, one.case.threads) == (batch, threads)]
    return chosen, f"batch {batch}, threads {threads}"


def _limit(report: Report, one: Measured) -> Limit | None:
    found = (limit for limit in report.limits if (limit.device, limit.threads) == (one.case.device, one.case.threads))
    return next(found, None)


def _each(one: Measured) -> float:
    return one.request.p50 / one.case.batch
