"""report.html: one file that holds everything, tables and plots, with no script and nothing from elsewhere."""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from benchmarks import plots
from benchmarks.plots import Axis, Guide, Plot, Series
from benchmarks.quality import fid
from benchmarks.report import Limit, Measured, Report
from benchmarks.tables import all_tables, of_bundle, verdict

OPEN = 3  # tables that are shown at once; the others unfold


def as_html(report: Report) -> str:
    """The page."""
    templates = Environment(
        loader=PackageLoader("benchmarks"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = list(dict.fromkeys(one.case.row for one in of_bundle(report)))
    colours = {name: number for number, name in enumerate(sorted(names))}
    tables = all_tables(report)
    return templates.get_template("report.html").render(
        report=report,
        verdict=verdict(report),
        plots=[(plot, Markup(plot.svg)) for plot in all_plots(report, colours)],
        legend=[(name, Markup(plots.key(number))) for name, number in colours.items()],
        shown=tables[:OPEN],
        folded=tables[OPEN:],
    )


def all_plots(report: Report, colours: dict[str, int]) -> list[Plot]:
    """Those for which there are enough cases."""
    if not report.cases:
        return []
    found = [
        _speed_against_fidelity(report, colours),
        _speed_against_quality(report, colours),
        _distributions(report, colours),
        _roofline(report, colours),
        _against(report, colours, "batch"),
        _against(report, colours, "threads"),
        _against_side(report, colours),
    ]
    return [plot for plot in found if plot]


def _speed_against_fidelity(report: Report, colours: dict[str, int]) -> Plot | None:
    cases, where = _one_condition(report)
    points = [
        (one, facts.differences.psnr)
        for one in cases
        if (facts := report.facts(one.case)) and facts.differences.psnr is not None and facts.differences.psnr < 200
    ]
    if not points:
        return None
    across = Axis.around("milliseconds per picture", [_each(one) for one, _ in points])
    up = Axis("PSNR against PyTorch in fp32, dB", 0, max(psnr for _, psnr in points) * 1.1)
    series = [Series(one.case.row, [(_each(one), psnr)]) for one, psnr in points]
    return plots.chart("Speed against fidelity", across, up, series, colours, note=f"{where}; up and left is better.")


def _speed_against_quality(report: Report, colours: dict[str, int]) -> Plot | None:
    cases, where = _one_condition(report)
    distances = {one.row: value for one in report.quality if (value := fid(one)) is not None}
    points = [(one, distances[one.case.row]) for one in cases if one.case.row in distances]
    if not points:
        return None
    across = Axis.around("milliseconds per picture", [_each(one) for one, _ in points])
    series = [Series(one.case.row, [(_each(one), value)]) for one, value in points]
    up = Axis.around("FID", [value for _, value in points])
    return plots.chart("Speed against quality", across, up, series, colours, note=f"{where}; down and left is better.")


def _distributions(report: Report, colours: dict[str, int]) -> Plot:
    cases, where = _one_condition(report)
    rows = [(one.case.row, [call for calls in one.request.rounds for call in calls]) for one in cases]
    note = f"{where}. A dot is a call, the box reaches from the median to p90, the tick is p99."
    return plots.strips("Latency of whole requests", "milliseconds", rows, colours, note)


def _roofline(report: Report, colours: dict[str, int]) -> Plot | None:
    cases, where = _one_condition(report)
    limit = _limit(report, cases[0])
    points = []
    for one in cases:
        facts = report.facts(one.case)
        if facts:
            batch = one.case.batch
            moved = facts.weight_megabytes + batch * (facts.megabytes - facts.weight_megabytes)
            work = 1000 * batch * facts.gflop
            points.append((one.case.row, work / moved, work / one.generator.p50))
    if not limit or not limit.bandwidth or not points:
        return None
    rates = {name: rate for name in ("fp32", "fp16", "bf16", "int8") if (rate := getattr(limit, name))}
    low, high = min(x for _, x, _ in points) / 4, max(x for _, x, _ in points) * 4
    across = Axis("operations per byte", low, high, True)
    up = Axis.around("10⁹ operations per second", [*(y for _, _, y in points), *rates.values()], True)
    start = min(max(low, up.low / limit.bandwidth), high)
    guides = [
        Guide(
            f"{name} {rate:.0f}",
            [(x, min(rate, x * limit.bandwidth)) for x in (start, _bend(rate, limit, start, high), high)],
        )
        for name, rate in rates.items()
    ]
    series = [Series(name, [(x, y)]) for name, x, y in points]
    note = (
        f"The generator, {where}. Lines: this machine's matrix products, and left of the bend its memory "
        f"({limit.bandwidth:.0f} GB/s)."
    )
    return plots.chart("Roofline", across, up, series, colours, guides, note)


def _bend(rate: float, limit: Limit, low: float, high: float) -> float:
    """Where memory stops being what limits."""
    return min(max(rate / (limit.bandwidth or 1), low), high)


def _against(report: Report, colours: dict[str, int], what: str) -> Plot | None:
    """Time per picture against the batch, with all threads, or against threads, with the smallest batch."""
    cases = [one for one in of_bundle(report) if one.case.device == "cpu"]
    other, choose = ("threads", max) if what == "batch" else ("batch", min)
    if not cases:
        return None
    fixed = choose(getattr(one.case, other) for one in cases)
    cases = [one for one in cases if getattr(one.case, other) == fixed]
    numbers = sorted({getattr(one.case, what) for one in cases})
    if len(numbers) < 2:
        return None
    series = [
        Series(name, sorted((getattr(one.case, what), _each(one)) for one in cases if one.case.row == name))
        for name in dict.fromkeys(one.case.row for one in cases)
    ]
    across = Axis.of(what, numbers)
    up = Axis.around("request, ms per picture", [y for one in series for _, y in one.points])
    return plots.chart(f"Time against {what}", across, up, series, colours, note=f"{other} {fixed}.")


def _against_side(report: Report, colours: dict[str, int]) -> Plot | None:
    cases = [one for one in report.cases if one.case.network != report.network.name and one.case.row in colours]
    if not cases:
        return None
    series = [
        Series(name, sorted((one.case.side, one.generator.p50) for one in cases if one.case.row == name))
        for name in dict.fromkeys(one.case.row for one in cases)
    ]
    across = Axis.of("R, pixels", [one.case.side for one in cases])
    up = Axis.around("generator, ms", [one.generator.p50 for one in cases], logarithmic=True)
    note = f"The paper's network at other sides, random weights, batch 1, threads {cases[0].case.threads}."
    return plots.chart("Time against picture side", across, up, series, colours, note=note)


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
