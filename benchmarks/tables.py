"""report.md, made by a template, and what the template, the page, README's table and the terminal share."""

from collections.abc import Callable, Mapping
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined

from benchmarks.machine import CPU_WIDTH, GPU_WIDTH, PEAKS
from benchmarks.report import Measured, Network, Report, StaticMetrics
from benchmarks.statistics import Estimate, Timing
from benchmarks.targets import PAPER
from t2i_engine.table import aligned, size

IDENTICAL = "identical"
"""In place of a PSNR, where pictures are the same to the last bit."""


def as_markdown(report: Report) -> str:
    """report.md: warnings, the verdict, then every table that has rows, the most useful first."""
    filters: dict[str, Callable[..., str]] = {
        "figure": figure, "interval": interval, "ratio": ratio, "psnr": psnr, "size": size, "cell": _cell,
    }  # fmt: skip
    scaled = [one for one in report.cases if one.case.network != report.network.name]
    return render(
        "report.md",
        filters,
        report=report,
        network=describe_network(report.network),
        cases=of_bundle(report),
        scaled=scaled,
        verdict=verdict(report),
        peaks=PEAKS,
        cpu_width=CPU_WIDTH,
        gpu_width=GPU_WIDTH,
    )


def render(template: str, filters: Mapping[str, Callable[..., str]], **values: object) -> str:
    """A file of templates/ with its values filled in; an HTML template escapes them."""
    environment = Environment(
        loader=PackageLoader("benchmarks"),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    return environment.get_template(template).render(values)


def describe_network(network: Network) -> str:
    """A network's size in words."""
    sizes = f"{network.sizes['resolution']} × {network.sizes['resolution']} pixels"
    sizes += f", {network.sizes['base_channels']} base channels"
    return f"a network of the paper's size with random weights: {sizes}" if network.name == PAPER else sizes


def verdict(report: Report) -> str:
    """The fastest target on each device, and the fastest whose pictures match PyTorch's; empty if nothing was timed."""
    found, devices = [], by_device(report)
    for cases in devices:
        case, exact = cases[0].case, next((one for one in cases if report.is_exact(one.case)), cases[0])
        condition = f"At batch {case.batch} with {thread_count(case.threads)}"
        condition += f" on {case.device}" if len(devices) > 1 else ""
        found.append(f"{condition}, the fastest target is {_fast(cases[0], report)}.")
        if exact is not cases[0]:
            match = "The fastest whose pictures match PyTorch's to within one level of 255"
            found.append(f"{match} is {_fast(exact, report)}.")
    return " ".join(found)


def _fast(one: Measured, report: Report) -> str:
    fidelity = psnr(report.static_metrics(one.case))
    fidelity = "identical pictures" if fidelity == IDENTICAL else f"PSNR {fidelity} dB"
    return f"{one.case.target} ({one.request.p50:.1f} ms per request, {fidelity})"


def thread_count(count: int) -> str:
    """As in "1 thread" and "2 threads"."""
    return f"{count} thread{'' if count == 1 else 's'}"


def summary(report: Report) -> list[str]:
    """The most useful columns for the terminal, and the verdict."""
    rows = [("target", "batch", "threads", "request, ms", "speed-up over PyTorch", "PSNR, dB")]
    for one in of_bundle(report):
        case, quality = one.case, psnr(report.static_metrics(one.case))
        rows.append(
            (case.label, f"{case.batch}", f"{case.threads}", interval(one.request), ratio(one.speedup), quality)
        )
    return [*aligned(rows), verdict(report)] if len(rows) > 1 else []


def of_bundle(report: Report) -> list[Measured]:
    """Cases of the bundle itself, by device, batch and threads, fastest first."""
    cases = [one for one in report.cases if one.case.network == report.network.name]
    return sorted(cases, key=lambda one: (one.case.device, one.case.batch, one.case.threads, one.request.p50))


def by_device(report: Report) -> list[list[Measured]]:
    """The bundle's cases on each device, of its smallest batch with the most threads there, fastest first."""
    found = []
    for _, group in groupby(of_bundle(report), key=lambda one: one.case.device):
        cases = list(group)
        same = [one for one in cases if one.case.batch == cases[0].case.batch]
        found.append([one for one in same if one.case.threads == same[-1].case.threads])
    return found


def interval(timing: Timing) -> str:
    """The median with its interval."""
    return ratio(Estimate(timing.p50, timing.low, timing.high), ".1f")


def ratio(estimate: Estimate | None, digits: str = ".2f") -> str:
    """An estimate with its interval; 1 for what the others are compared with."""
    if estimate is None:
        return "1"
    value, low, high = (figure(one, digits) for one in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low}–{high})" if low else value


def figure(value: float | None, digits: str) -> str:
    """A formatted figure, or nothing; percentages have a space."""
    return "" if value is None else format(value, digits).replace("%", " %")


def psnr(static: StaticMetrics) -> str:
    """Of the worst picture, or that all are equal to the last bit."""
    found = static.differences.psnr
    return IDENTICAL if found is not None and found >= 200 else figure(found, ".1f")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
