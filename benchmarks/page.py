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

from benchmarks.report import Measured, Report
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
"""Colour and marker of each target."""


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
    names = sorted({one.case.target for one in of_bundle(report)})
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
    """Those that have enough cases."""
    if not report.cases:
        return []
    found = [
        _speed_against_fidelity(report, styles),
        _speed_against_quality(report, styles),
        _distributions(report, styles),
        _roofline(report, styles),
        _against(report, styles, "batch"),
        _against(report, styles, "threads"),
        _against_resolution(report, styles),
    ]
    return [plot for plot in found if plot]


def _speed_against_fidelity(report: Report, styles: Styles) -> Plot | None:
    ratios = {one.target: one.differences.psnr for one in report.static if one.network == report.network.name}
    unequal = {target: psnr for target, psnr in ratios.items() if psnr is not None and psnr < 200}
    return _speed_against("fidelity", "PSNR against PyTorch in fp32, dB", unequal, "Up", report, styles)


def _speed_against_quality(report: Report, styles: Styles) -> Plot | None:
    distances = {one.target: one.fid for one in report.quality if one.fid is not None}
    return _speed_against("quality", "FID", distances, "Down", report, styles)


def _speed_against(
    what: str, label: str, values: Mapping[str, float], better: str, report: Report, styles: Styles
) -> Plot | None:
    cases, where = _one_condition(report)
    points = {name: [(_each(one), values[name])] for one in cases if (name := one.case.target) in values}
    labels, note = ("milliseconds per picture", label), f"{where}. {better} and left is better."
    return _chart(f"Speed against {what}", labels, points, styles, note)


def _distributions(report: Report, styles: Styles) -> Plot:
    """One strip per target: a dot per call, a bar from p50 to p90, a tick at p99."""
    cases, where = _one_condition(report)
    figure, axes = _figure(TOP + BOTTOM + STRIP * len(cases), left=8)
    calls = [call for one in cases for calls in one.request.rounds for call in calls]
    _scale(axes, "x", calls, logarithmic=True)
    axes.set_xlabel("milliseconds")
    axes.set_ylim(len(cases) * STRIP, 0)
    axes.yaxis.set_major_locator(NullLocator())
    for number, one in enumerate(cases):
        name, request, y = one.case.target, one.request, STRIP * number + 20
        colour, _ = styles[name]
        dots = [call for calls in request.rounds for call in calls]
        axes.plot(dots, [y] * len(dots), "o", color=colour, markersize=4, markeredgewidth=0, alpha=0.35)
        axes.barh(y, request.p90 - request.p50, 10, request.p50, color=colour, alpha=0.55, edgecolor=colour, zorder=2)
        axes.vlines(request.p99, y - 6, y + 6, colour, linewidth=1.6)
        axes.text(0, y - 9, f"{name}: {request.p50:.1f}", transform=axes.get_yaxis_transform())
    note = f"{where}. A dot is a call, the bar spans p50 to p90, the tick is p99."
    return _plot("Latency of whole requests", figure, note)


def _roofline(report: Report, styles: Styles) -> Plot | None:
    cases, where = _one_condition(report)
    roofline = report.roofline(cases[0].case)
    points = {}
    for one in cases:
        if static := report.static_metrics(one.case):
            batch = one.case.batch
            moved = static.weight_megabytes + batch * (static.megabytes - static.weight_megabytes)
            work = 1000 * batch * static.gflop
            points[one.case.target] = [(work / moved, work / one.generator.p50)]
    if not roofline or not roofline.bandwidth or not points:
        return None
    rates = {name: rate for name in ("fp32", "fp16", "bf16", "int8") if (rate := getattr(roofline, name))}
    figure, axes = _figure()
    intensities = [x for ((x, _),) in points.values()]
    low, high = min(intensities) / 4, max(intensities) * 4
    _scale(axes, "x", (1.25 * low, high / 1.25), logarithmic=True)
    _scale(axes, "y", [*(y for ((_, y),) in points.values()), *rates.values()], logarithmic=True)
    start = min(max(low, axes.get_ylim()[0] / roofline.bandwidth), high)
    for rate in rates.values():
        bend = min(max(rate / roofline.bandwidth, start), high)  # memory limits what lies left of it
        line = [(x, min(rate, x * roofline.bandwidth)) for x in (start, bend, high)]
        axes.plot(*zip(*line, strict=True), color=_FAINT, linestyle=(0, (5, 3)), linewidth=1.2)
    _name_guides(axes, {f"{name} {rate:.0f}": min(rate, high * roofline.bandwidth) for name, rate in rates.items()})
    _draw(axes, points, styles)
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("10⁹ operations per second")
    note = (
        f"{where}, the generator. Dashed: this machine's measured peaks of matrix products and, left of the bend, of "
        f"memory ({roofline.bandwidth:.0f} GB/s)."
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
    series = _series((one.case.target, getattr(one.case, what), _each(one)) for one in cases)
    note = f"Batch {fixed}." if other == "batch" else f"{fixed} threads."
    return _chart(f"Time against {what}", (what, "request, ms per picture"), series, styles, note, marked=True)


def _against_resolution(report: Report, styles: Styles) -> Plot | None:
    cases = [one for one in report.cases if one.case.network != report.network.name and one.case.target in styles]
    if not cases:
        return None
    series = _series((one.case.target, one.case.resolution, one.generator.p50) for one in cases)
    note = f"The paper's network with random weights, batch 1, threads {cases[0].case.threads}."
    labels = "R, pixels", "generator, ms"
    return _chart("Time against resolution", labels, series, styles, note, marked=True, logarithmic=True)


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
    """The cases of the smallest batch with the most threads, as for one person at a desk."""
    cases = [one for one in of_bundle(report) if one.case.device == "cpu"] or of_bundle(report) or list(report.cases)
    batch = min(one.case.batch for one in cases)
    threads = max(one.case.threads for one in cases if one.case.batch == batch)
    chosen = [one for one in cases if (one.case.batch, one.case.threads) == (batch, threads)]
    return chosen, f"Batch {batch}, threads {threads}"


def _each(one: Measured) -> float:
    return one.request.p50 / one.case.batch
