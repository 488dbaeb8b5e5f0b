"""The report's tables, the same for Markdown and for HTML."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.quality import consistency, fid
from benchmarks.report import HOW_LIMITS, Case, Measured, Report, RowFacts
from benchmarks.statistics import Estimate, Timing
from t2i_engine.errors import listed
from t2i_engine.table import aligned, size

MORE = 12  # operators shown of each row


@dataclass(frozen=True)
class Table:
    """A title, a head, rows of as many cells, and what has to be known to read them."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def all_tables(report: Report) -> list[Table]:
    """Every table that has rows, in the order in which they are read."""
    tables = [
        speed(report),
        latencies(report),
        fidelity(report),
        quality(report),
        openings(report),
        cold(report),
        limits(report),
        work(report),
        *operators(report),
        scaling(report),
        rejected(report),
        conditions(report),
    ]
    return [table for table in tables if table.rows]


def speed(report: Report) -> Table:
    """Whole requests: the table to choose a format by."""
    rows = []
    for one in of_bundle(report):
        facts = report.facts(one.case)
        rows.append(
            (
                *_key(one.case),
                interval(one.request),
                f"{one.pictures_per_second:.1f}",
                ratio(one.speedup),
                f"{one.generator.p50:.1f}",
                ratio(one.generator_speedup),
                share(one.share),
                size(one.peak_memory),
                size(facts.file_size) if facts else "",
                psnr(facts),
            )
        )
    return Table(
        "Which format",
        ("row", "precision", "batch", "threads", "request, ms", "pictures/s", "× PyTorch eager", "generator, ms",
         "× PyTorch eager", "of the limit", "memory", "files", "PSNR, dB"),
        rows,
        "A request is captions in, encoded PNG files out. Times are medians (95 % confidence interval); × PyTorch "
        "eager is the ratio of times within rounds. Of the limit: the time that the machine's own matrix products or "
        "memory allow for the generator's arithmetic, as a share of the generator's time. Memory is the most that the "
        "process of the case had resident. PSNR is of the worst picture against PyTorch in fp32.",
    )  # fmt: skip


def verdict(report: Report) -> str:
    """Which row is the fastest, and which of those whose pictures are PyTorch's; empty where nothing was timed."""
    cases = of_bundle(report)
    if not cases:
        return ""
    first = cases[0].case
    threads = max(one.case.threads for one in cases if (one.case.device, one.case.batch) == (first.device, first.batch))
    there = [one for one in cases if one.case.block == (first.network, first.device, first.batch, threads)]
    exact = [one for one in there if (facts := report.facts(one.case)) and facts.differences.pixels in (0, 1)]
    fastest = f"batch {first.batch}, threads {threads}: the fastest row is {_fast(there[0], report)}"
    if not exact or exact[0] is there[0]:
        return f"{fastest}."
    return f"{fastest}; the fastest within one level of PyTorch's pictures is {_fast(exact[0], report)}."


def summary(report: Report) -> list[str]:
    """The most wanted columns for the terminal, and the verdict."""
    table = speed(report)
    wanted = [
        table.head.index(name) for name in ("row", "batch", "threads", "request, ms", "× PyTorch eager", "PSNR, dB")
    ]
    lines = aligned([cells[column] for column in wanted] for cells in (table.head, *table.rows))
    return [*lines, verdict(report)] if table.rows else []


def _fast(one: Measured, report: Report) -> str:
    return f"{one.case.row}, {one.request.p50:.1f} ms a request, PSNR {psnr(report.facts(one.case))} dB"


def latencies(report: Report) -> Table:
    """The three parts apart."""
    rows = [
        (
            *_key(one.case),
            part,
            *(f"{value:.2f}" for value in quantiles(timing)),
            f"{timing.calls}",
            f"{len(timing.rounds)}",
        )
        for one in of_bundle(report)
        for part, timing in parts(one)
    ]
    head = ("row", "precision", "batch", "threads", "part", "best", "p50", "p90", "p99", "mean", "calls", "rounds")
    note = "Milliseconds of warm calls. The text encoder and the generator are timed within the same requests."
    return Table("Latencies", head, rows, note)


def fidelity(report: Report) -> Table:
    """Differences from PyTorch."""
    rows = [
        (row.row, row.network, row.precision, row.form,
         _difference(row.differences.sentence), _difference(row.differences.image),
         "∞" if row.differences.pixels is None else f"{row.differences.pixels}", psnr(row))
        for row in report.rows
    ]  # fmt: skip
    head = ("row", "network", "precision", "upsample + convolution", "sentence", "image", "levels of 255", "PSNR, dB")
    return Table(
        "Differences from PyTorch", head, rows, "The worst of the same eight pictures, against PyTorch in fp32."
    )


def quality(report: Report) -> Table:
    """FID and text consistency."""
    rows = [
        (one.row, one.data, f"{one.pictures:,}", "" if fid(one) is None else f"{fid(one):.2f}",
         "" if consistency(one) is None else f"{consistency(one):.1f} %")
        for one in report.quality
    ]  # fmt: skip
    head = ("row", "data", "pictures", "FID", "everything asked for is seen")
    return Table("Quality", head, rows, "As t2i-engine evaluate measures it; FID grows as pictures become fewer.")


def openings(report: Report) -> Table:
    """What comes before warm calls."""
    rows = []
    for one in of_bundle(report):
        facts = report.facts(one.case)
        first = f"{facts.first_opening:.0f}" if facts else ""
        calls = f"{one.first_call:.1f}", f"{one.request.p50:.1f}"
        times = first, f"{one.importing:.0f}", f"{one.opening:.0f}"
        rows.append((*_key(one.case), *times, *calls, f"{one.warm_up}{'' if one.steady else ', not steady'}"))
    head = ("row", "precision", "batch", "threads", "first opening", "import", "opening", "first request",
            "warm request", "warm-up calls")  # fmt: skip
    note = (
        "Milliseconds, without the start of Python. The first opening is on a machine that has kept nothing: it "
        "imports and compiles. Opening and importing again, from what was kept, is what every later process does."
    )
    return Table("Opening and first call", head, rows, note)


def cold(report: Report) -> Table:
    """Whole processes."""
    rows = [
        (one.command, interval(one.timing), f"{one.timing.best:.0f}", f"{one.timing.calls}")
        for one in report.cold_start
    ]
    head = ("command", "ms", "best", "runs")
    return Table("Whole processes", head, rows, "From start to end; files are in the system's cache.")


def limits(report: Report) -> Table:
    """What the machine can do."""
    names = ("fp32", "bf16", "fp16", "int8", "bandwidth")
    rows = [
        (
            one.device,
            f"{one.threads}",
            *("" if getattr(one, name) is None else f"{getattr(one, name):.1f}" for name in names),
        )
        for one in report.limits
    ]
    note = (
        "Measured in the same run, the best of several: "
        + "; ".join(f"{name}: {HOW_LIMITS[name]}" for name in names)
        + "."
    )
    return Table("The machine's limit", ("device", "threads", *names), rows, note)


def work(report: Report) -> Table:
    """What each graph asks for."""
    rows = [
        (row.row, row.network, f"{row.gflop:.3g}", f"{row.int8_gflop:.3g}", f"{row.megabytes:.1f}",
         f"{row.weight_megabytes:.1f}", f"{1000 * row.gflop / row.megabytes:.0f}",
         "" if row.text_encoder_gflop is None else f"{row.text_encoder_gflop:.2g}")
        for row in report.rows
    ]  # fmt: skip
    head = (
        "row",
        "network",
        "GFLOP",
        "of it in 8 bits",
        "MB moved",
        "of it weights",
        "FLOP per byte",
        "text encoder, GFLOP",
    )
    note = (
        "For one picture, counted from the ONNX file (of PyTorch's rows from the model): every convolution and matrix "
        "product, two operations for a multiplication and an addition; bytes are their inputs, weights and outputs, "
        f"each once. Each caption has {report.words} words. A runtime that multiplies less, as by Winograd's "
        "convolutions, can pass the limit."
    )
    return Table("Work", head, rows, note)


def operators(report: Report) -> Iterator[Table]:
    """Where the generator's time goes."""
    for row in report.rows:
        total = sum(float(milliseconds) for _, milliseconds in row.operators)
        if total and row.network == report.network.name:
            rows = [
                (kind, f"{float(milliseconds):.2f}", f"{100 * float(milliseconds) / total:.0f} %")
                for kind, milliseconds in row.operators[:MORE]
            ]
            note = f"{total:.1f} ms in all, by the backend's own profile, whose clocks cost time themselves."
            yield Table(f"Operators of {row.row}", ("operator", "ms per call", "share"), rows, note)


def scaling(report: Report) -> Table:
    """Time against R."""
    rows = [
        (
            one.case.row,
            f"{one.case.side}",
            f"{one.case.threads}",
            f"{one.generator.p50:.1f}",
            ratio(one.generator_speedup),
        )
        for one in report.cases
        if one.case.network != report.network.name
    ]
    head = ("row", "R", "threads", "generator, ms", "× PyTorch eager")
    return Table("Other picture sides", head, rows, "The paper's network (random weights) at side R, batch 1.")


def rejected(report: Report) -> Table:
    """What was not measured."""
    rows = [*report.unavailable.items(), *((case, "interrupted") for case in report.missing)]
    return Table("Not measured", ("row", "why"), rows)


def conditions(report: Report) -> Table:
    """All that a second run has to share."""
    machine, load = report.machine, report.load
    sizes = ", ".join(f"{name} {value}" for name, value in report.network.sizes.items())
    rows = [
        ("measured", f"{report.created}, `{report.command}`"),
        ("code", report.commit or "an installed package"),
        ("bundle", f"{report.network.name}: {sizes}"),
        ("processor", f"{machine.cpu}, {machine.usable_processors} of {machine.processors} processors usable"),
        ("flags", machine.flags),
        ("governor", machine.governor or "not readable"),
        ("memory", size(machine.memory)),
        ("GPUs", listed("; ".join(f"{name} {value}" for name, value in gpu.items()) for gpu in machine.gpus)),
        ("system", f"{machine.system}, Python {machine.python}"),
        ("versions", ", ".join(f"{name} {value}" for name, value in machine.versions.items())),
        ("environment", listed(f"{name}={value}" for name, value in machine.variables.items())),
        (
            "used by others",
            f"{load.before:.2f} processors before; by round: {', '.join(f'{one:.2f}' for one in load.during)}",
        ),
        ("load averages", ", ".join(f"{one:.2f}" for one in load.average)),
    ]
    return Table("Conditions", ("what", "how it was"), rows)


def of_bundle(report: Report) -> list[Measured]:
    """Cases of the bundle itself, by batch and threads, and the fastest first."""
    cases = [one for one in report.cases if one.case.network == report.network.name]
    return sorted(cases, key=lambda one: (one.case.device, one.case.batch, one.case.threads, one.request.p50))


def parts(one: Measured) -> list[tuple[str, Timing]]:
    """The three timings of a case with their names."""
    return [("text encoder", one.text_encoder), ("generator", one.generator), ("request", one.request)]


def quantiles(timing: Timing) -> tuple[float, ...]:
    """Best, p50, p90, p99, mean."""
    return timing.best, timing.p50, timing.p90, timing.p99, timing.mean


def interval(timing: Timing) -> str:
    """The median with its interval."""
    if timing.low is None or timing.high is None:
        return f"{timing.p50:.1f}"
    return f"{timing.p50:.1f} ({timing.low:.1f}–{timing.high:.1f})"


def ratio(estimate: Estimate | None) -> str:
    """How many times faster, with its interval; 1 for what the others are compared with."""
    if estimate is None:
        return "1"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} ({estimate.low:.2f}–{estimate.high:.2f})"


def share(value: float | None) -> str:
    """A share in percent."""
    return "" if value is None else f"{100 * value:.0f} %"


def psnr(facts: RowFacts | None) -> str:
    """Of the worst picture; what is equal to the last bit has none."""
    if facts is None:
        return ""
    if facts.differences.psnr is None:
        return "−∞"
    return "equal" if facts.differences.psnr >= 200 else f"{facts.differences.psnr:.1f}"


def _difference(value: float | None) -> str:
    return "∞" if value is None else f"{value:.1e}"


def _key(case: Case) -> tuple[str, str, str, str]:
    row = case.row if case.device == "cpu" else f"{case.row} ({case.device})"
    return row, case.precision, f"{case.batch}", f"{case.threads}"
