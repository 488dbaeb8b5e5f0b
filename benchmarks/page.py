"""report.html: one file with every table and plot, without scripts, and with nothing loaded from elsewhere.

matplotlib draws the plots in placeholder colours that become the page's CSS variables, so that plots follow the
reader's light or dark theme. Text stays text, in the page's font, and a mark carries its figures as a tooltip.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any

import matplotlib
from markdown_it import MarkdownIt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from benchmarks.report import Measured, Report, Roofline, StaticMetrics
from benchmarks.tables import as_markdown, by_device, describe_network, of_bundle, render, thread_count, verdict

OPEN = 3  # tables that are shown open; the others are collapsed
WIDTH, HEIGHT, STRIP = 380, 250, 30  # units; at this width a phone shows text of 11 units legibly
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 38  # margins
LINE = 12  # units between the names of guides
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆"}  # matplotlib's, and the legend's
COLOURS = 12

_PLACEHOLDERS = {
    name: f"#abcd{number:02x}"
    for number, name in enumerate(("ink", "faint", "rule", "panel", *(f"c{number}" for number in range(COLOURS))))
}
_INK, _FAINT, _RULE, _PANEL, *_ = _PLACEHOLDERS.values()
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


def as_html(report: Report) -> str:
    """The page."""
    names, devices = sorted({one.case.target for one in of_bundle(report)}), by_device(report)
    marks = list(MARKERS)  # shifted by one for every time that the colours begin anew
    styles = {name: (f"c{n % COLOURS}", marks[(n + n // COLOURS) % len(marks)]) for n, name in enumerate(names)}
    with matplotlib.rc_context(_STYLE):
        plots = [
            (title, _svg(title, figure), note)
            for cases in devices
            for plot, figure, note in _plots(report, cases, styles)
            for title in [f"{plot} on {cases[0].case.device}" if len(devices) > 1 else plot]
        ]
    sections = [part.partition("\n") for part in as_markdown(report).split("\n## ")[1:]]
    render_text = MarkdownIt("commonmark", {"html": False}).enable("table").render
    tables = [(title, render_text(text)) for title, _, text in sections]
    legend = [(name, colour, MARKERS[marker]) for name, (colour, marker) in styles.items()]
    return render(
        "report.html", {}, report=report, network=describe_network(report.network), verdict=verdict(report),
        plots=plots, legend=legend, shown=tables[:OPEN], folded=tables[OPEN:],
    )  # fmt: skip


def _plots(report: Report, cases: Sequence[Measured], styles: Styles) -> Iterator[tuple[str, Figure, str]]:
    """The title, figure and note of every plot of a device that has enough cases."""
    case = cases[0].case
    device = "" if case.device == "cpu" else f" on {case.device}"
    where = f"Batch {case.batch}, {thread_count(case.threads)}{device}"
    static = {one.case.target: report.static_metrics(one.case) for one in cases}
    psnrs = {name: psnr for name, one in static.items() if (psnr := one.differences.psnr) is not None and psnr < 200}
    fids = {one.target: one.fid for one in report.quality if one.fid is not None}
    for title, label, values, better in (
        ("Speed against fidelity", "PSNR against PyTorch in fp32, dB", psnrs, "Higher"),
        ("Speed against quality", "FID", fids, "Lower"),
    ):
        points = {name: [(_each(one), values[name])] for one in cases if (name := one.case.target) in values}
        if points:
            yield (
                title,
                _chart("milliseconds per picture", label, points, styles),
                f"{where}. {better} and further left is better.",
            )
    note = f"{where}. Each dot is one request, the bar spans p50 to p90, and the tick marks p99."
    yield "Latency of whole requests", _distributions(cases, styles), note
    roofline = report.roofline(case)
    if roofline and roofline.bandwidth:
        note = (
            f"{where}, generator only. Dashed lines: this machine's measured peaks for matrix products and, where the "
            f"lines slope, for memory bandwidth ({roofline.bandwidth:.0f} GB/s)."
        )
        yield "Roofline", _roofline(cases, static, roofline, roofline.bandwidth, styles), note
    alike = [one for one in of_bundle(report) if one.case.device == case.device]
    threads = max(one.case.threads for one in alike)
    for what, key, fixed, note in (
        (
            "batch size",
            "batch",
            [one for one in alike if one.case.threads == threads],
            f"With {thread_count(threads)}{device}.",
        ),
        (
            "number of threads",
            "threads",
            [one for one in alike if one.case.batch == case.batch],
            f"Batch {case.batch}{device}.",
        ),
    ):
        series = _series((one.case.target, getattr(one.case, key), _each(one)) for one in fixed)
        if any(len(points) > 1 for points in series.values()):
            yield f"Time against {what}", _chart(what, "milliseconds per picture", series, styles, marked=True), note
    others = [one for one in report.cases if one.case.network != report.network.name]
    scaled = [one for one in others if one.case.target in styles and one.case.device == case.device]
    if series := _series((one.case.target, one.case.resolution, one.generator.p50) for one in scaled):
        figure = _chart("resolution, pixels", "generator, ms", series, styles, marked=True, logarithmic=True)
        note = "A network with the paper's channel widths and random weights, "
        note += f"at batch 1 with {thread_count(threads)}{device}."
        yield "Time against resolution", figure, note


def _distributions(cases: Sequence[Measured], styles: Styles) -> Figure:
    """One strip per target: a dot per call, a bar from p50 to p90, a tick at p99."""
    figure, axes = _figure(TOP + BOTTOM + STRIP * len(cases), left=8)
    calls = {one.case.target: [call for calls in one.request.rounds for call in calls] for one in cases}
    _scale(axes, "x", [call for some in calls.values() for call in some], logarithmic=True)
    axes.set_xlabel("milliseconds")
    axes.set_ylim(len(cases) * STRIP, 0)
    axes.yaxis.set_major_locator(NullLocator())
    for number, one in enumerate(cases):
        name, request, y = one.case.target, one.request, STRIP * number + 20
        colour = _PLACEHOLDERS[styles[name][0]]
        axes.plot(calls[name], [y] * len(calls[name]), "o", color=colour, markersize=4, markeredgewidth=0, alpha=0.35)
        axes.barh(y, request.p90 - request.p50, 10, request.p50, color=colour, alpha=0.55, edgecolor=colour, zorder=2)
        axes.vlines(request.p99, y - 6, y + 6, colour, linewidth=1.6)
        axes.text(0, y - 9, f"{name}: {request.p50:.1f}", transform=axes.get_yaxis_transform())
    return figure


def _roofline(
    cases: Sequence[Measured], static: Mapping[str, StaticMetrics], roofline: Roofline, bandwidth: float, styles: Styles
) -> Figure:
    points = {}
    for one in cases:
        found, batch = static[one.case.target], one.case.batch
        work = 1000 * batch * found.gflop
        points[one.case.target] = [(work / found.moved(batch), work / one.generator.p50)]
    rates = {name: rate for name in ("fp32", "fp16", "bf16", "int8") if (rate := getattr(roofline, name))}
    figure, axes = _figure()
    xs, ys = ([point[axis] for [point] in points.values()] for axis in range(2))
    low, high = min(xs) / 4, max(xs) * 4
    _scale(axes, "x", (1.25 * low, high / 1.25), logarithmic=True)
    _scale(axes, "y", [*ys, *rates.values()], logarithmic=True)
    start = min(max(low, axes.get_ylim()[0] / bandwidth), high)
    below = -math.inf
    for name, rate in sorted(rates.items(), key=lambda pair: pair[1]):
        bend = min(max(rate / bandwidth, start), high)  # memory limits what lies left of it
        line = [(x, min(rate, x * bandwidth)) for x in (start, bend, high)]
        axes.plot(*zip(*line, strict=True), color=_FAINT, linestyle=(0, (5, 3)), linewidth=1.2)
        end = axes.transData.transform(line[-1])[1]
        below = max(end + 4, below + LINE)
        axes.annotate(
            f"{name} {rate:.0f}", (1, line[-1][1]), (-3, below - end), xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", ha="right", color=_FAINT, fontsize=9.5,
        )  # fmt: skip
    _draw(axes, points, styles)
    axes.set(xlabel="operations per byte", ylabel="10⁹ operations per second")
    return figure


def _chart(
    across: str, up: str, series: Series, styles: Styles, marked: bool = False, logarithmic: bool = False
) -> Figure:
    """Marks joined by lines between two axes; with `marked`, the x axis has ticks only at the values present."""
    figure, axes = _figure()
    xs, ys = ([point[axis] for points in series.values() for point in points] for axis in range(2))
    _scale(axes, "x", xs, logarithmic=marked)
    if marked:
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(xs))))
    _scale(axes, "y", ys, logarithmic)
    _draw(axes, series, styles)
    axes.set(xlabel=across, ylabel=up)
    return figure


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
        colour, marker = _PLACEHOLDERS[styles[name][0]], styles[name][1]
        axes.plot(*zip(*points, strict=True), color=colour)
        for x, y in points:
            axes.plot(x, y, marker, color=colour, clip_on=False, gid=f"{_TOOLTIP}{name}: {x:g}, {y:.4g}")


def _svg(title: str, figure: Figure) -> str:
    """The figure as SVG: themed, sized by the page, with tooltips in place of ids, which a page must not have twice."""
    file = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    svg = file.getvalue().partition("<svg")[2].partition(">")[2]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(rf'<g id="{_TOOLTIP}([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    for name, placeholder in _PLACEHOLDERS.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{svg}'


def _series(points: Iterable[tuple[str, float, float]]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for name, *point in sorted(points):
        found.setdefault(name, []).append((point[0], point[1]))
    return found


def _each(one: Measured) -> float:
    return one.request.p50 / one.case.batch
