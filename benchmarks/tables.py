"""The report's tables, shared by Markdown, HTML and the terminal, and report.md."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.machine import PEAKS
from benchmarks.report import Measured, Report, StaticMetrics
from benchmarks.statistics import Estimate, Timing
from benchmarks.targets import Case
from t2i_engine.errors import listed
from t2i_engine.table import aligned, size

MORE = 12  # operators shown per target


@dataclass(frozen=True)
class Table:
    """A title, a head, rows of equally many cells, and a note on how to read them."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def as_markdown(report: Report) -> str:
    """report.md: warnings, the verdict, then every table, the most useful first."""
    machine = report.machine
    where = f"{machine.cpu}, {machine.usable_processors} processors, {report.created}"
    title = f"# Benchmark of {report.network.name}\n\n{where}"
    warnings = [f"> **{warning[0].upper()}{warning[1:]}.**" for warning in report.warnings]
    answer = [found[0].upper() + found[1:]] if (found := verdict(report)) else []
    tables = [f"## {table.title}\n\n{markdown_rows(table)}\n\n{table.note}".rstrip() for table in all_tables(report)]
    return "\n\n".join([title, *warnings, *answer, *tables]) + "\n"


def markdown_rows(table: Table) -> str:
    """Head and rows."""
    lines = [table.head, tuple("---" for _ in table.head), *table.rows]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def all_tables(report: Report) -> list[Table]:
    """Every table that has rows, in reading order."""
    makers = (speed, _latencies, _fidelity, _quality, _openings, _cold_starts, _rooflines, _work)
    tables = [maker(report) for maker in makers]
    tables += [*_operators(report), _scaling(report), _targets(report), _unmeasured(report), _conditions(report)]
    return [table for table in tables if table.rows]


def speed(report: Report) -> Table:
    """Whole requests: the table to choose a format by."""
    rows = []
    for one in of_bundle(report):
        static = report.static_metrics(one.case)
        requests = interval(one.request), f"{one.pictures_per_second:.1f}", ratio(one.speedup)
        generator = f"{one.generator.p50:.1f}", ratio(one.generator_speedup), optional(one.roofline_share, ".0%")
        memory = size(one.peak_memory), size(static.file_size) if static else ""
        rows.append((*_key(one.case), *requests, *generator, *memory, psnr(static)))
    return Table(
        "Which format",
        ("target", "precision", "batch", "threads", "request, ms", "pictures/s", "× PyTorch eager", "generator, ms",
         "× PyTorch eager", "% of roofline", "memory", "files", "PSNR, dB"),
        rows,
        "A request is captions in, encoded PNG files out. Times are medians (95 % confidence interval); × PyTorch "
        "eager is the ratio of times within rounds. % of roofline is of this machine's measured roofline: the time "
        "its matrix products or its memory would need for the generator's arithmetic, over the generator's time. "
        "Memory is the process's peak. PSNR is that of the worst picture against PyTorch in fp32.",
    )  # fmt: skip


def verdict(report: Report) -> str:
    """The fastest target, and the fastest whose pictures are PyTorch's; empty where nothing was timed."""
    cases = of_bundle(report)
    if not cases:
        return ""
    first = cases[0].case
    threads = max(one.case.threads for one in cases if (one.case.device, one.case.batch) == (first.device, first.batch))
    alike = [one for one in cases if one.case.block == (first.network, first.device, first.batch, threads)]
    exact = [one for one in alike if report.is_exact(one.case)]
    fastest = f"batch {first.batch}, threads {threads}: {_fast(alike[0], report)} is fastest"
    if not exact or exact[0] is alike[0]:
        return f"{fastest}."
    return f"{fastest}; within one level of PyTorch's pictures, {_fast(exact[0], report)} is."


def _fast(one: Measured, report: Report) -> str:
    return f"{one.case.target} ({one.request.p50:.1f} ms a request, PSNR {psnr(report.static_metrics(one.case))} dB)"


def summary(report: Report) -> list[str]:
    """The most useful columns for the terminal, and the verdict."""
    table = speed(report)
    wanted = ("target", "batch", "threads", "request, ms", "× PyTorch eager", "PSNR, dB")
    columns = [table.head.index(name) for name in wanted]
    lines = aligned([cells[column] for column in columns] for cells in (table.head, *table.rows))
    return [*lines, verdict(report)] if table.rows else []


def _latencies(report: Report) -> Table:
    rows = []
    for one in of_bundle(report):
        for part in ("text_encoder", "generator", "request"):
            timing: Timing = getattr(one, part)
            times = timing.best, timing.p50, timing.p90, timing.p99, timing.mean
            counts = f"{timing.calls}", f"{len(timing.rounds)}"
            rows.append((*_key(one.case), part.replace("_", " "), *(f"{time:.2f}" for time in times), *counts))
    head = ("target", "precision", "batch", "threads", "part", "best", "p50", "p90", "p99", "mean", "calls", "rounds")
    note = "Milliseconds of warm calls. Text encoder and generator are timed within the same requests."
    return Table("Latencies", head, rows, note)


def _fidelity(report: Report) -> Table:
    rows = []
    for one in report.static:
        found = one.differences
        largest = [
            optional(found.sentence, ".1e", "∞"),
            optional(found.image, ".1e", "∞"),
            optional(found.pixels, "", "∞"),
        ]
        rows.append((one.target, one.network, one.precision, one.form, *largest, psnr(one)))
    head = ("target", "network", "precision", "upsample + conv", "sentence", "image", "levels of 255", "PSNR, dB")
    note = "The largest over the same eight pictures, against PyTorch in fp32."
    return Table("Differences from PyTorch", head, rows, note)


def _quality(report: Report) -> Table:
    rows = [
        (one.target, one.data, f"{one.pictures:,}", optional(one.fid, ".2f"), optional(one.consistency, ".1f"))
        for one in report.quality
    ]
    head = ("target", "data", "pictures", "FID", "all attributes seen, %")
    note = "As measured by t2i-engine evaluate. FID rises as pictures become fewer; compare at equal numbers only."
    return Table("Quality", head, rows, note)


def _openings(report: Report) -> Table:
    rows = []
    for one in of_bundle(report):
        static = report.static_metrics(one.case)
        times = optional(static.first_opening if static else None, ".0f"), f"{one.importing:.0f}", f"{one.opening:.0f}"
        calls = f"{one.first_call:.1f}", f"{one.request.p50:.1f}"
        rows.append((*_key(one.case), *times, *calls, f"{one.warm_up}{'' if one.steady else ', not steady'}"))
    head = ("target", "precision", "batch", "threads", "first opening", "import", "opening", "first request",
            "warm request", "warm-up calls")  # fmt: skip
    note = (
        "Milliseconds, without Python's own start. The first opening has empty caches: it imports and compiles. Import "
        "and opening, with what it cached, are what every later process pays."
    )
    return Table("Opening and first call", head, rows, note)


def _cold_starts(report: Report) -> Table:
    rows = [
        (one.command, interval(one.timing), f"{one.timing.best:.0f}", f"{one.timing.calls}")
        for one in report.cold_start
    ]
    note = "From start to exit, with files in the system's cache."
    return Table("Whole processes", ("command", "ms", "best", "runs"), rows, note)


def _rooflines(report: Report) -> Table:
    rows = [
        (one.device, f"{one.threads}", *(optional(getattr(one, name), ".1f") for name in PEAKS))
        for one in report.rooflines
    ]
    how = "; ".join(f"{name}: {how}" for name, how in PEAKS.items())
    note = f"Measured in the same run, best of several: {how}."
    return Table("This machine's roofline", ("device", "threads", *PEAKS), rows, note)


def _work(report: Report) -> Table:
    rows = [
        (one.target, one.network, f"{one.gflop:.3g}", f"{one.int8_gflop:.3g}", f"{one.megabytes:.1f}",
         f"{one.weight_megabytes:.1f}", f"{1000 * one.gflop / one.megabytes:.0f}",
         optional(one.text_encoder_gflop, ".2g"))
        for one in report.static
    ]  # fmt: skip
    head = ("target", "network", "GFLOP", "in 8 bits", "MB moved", "weights", "FLOP per byte", "text encoder, GFLOP")
    note = (
        "For one picture, counted from the ONNX file, or from the model for PyTorch's targets: every convolution and "
        "matrix product, a multiply-add as two operations; the bytes of their inputs, weights and outputs, each once. "
        f"Captions have {report.words} words. A runtime that multiplies less, such as with Winograd convolutions, can "
        "exceed 100 % of the roofline."
    )
    return Table("Work", head, rows, note)


def _operators(report: Report) -> Iterator[Table]:
    for one in report.static:
        times = [(kind, float(milliseconds)) for kind, milliseconds in one.operators]
        total = sum(time for _, time in times)
        if total and one.network == report.network.name:
            rows = [(kind, f"{time:.2f}", f"{100 * time / total:.0f} %") for kind, time in times[:MORE]]
            note = f"{total:.1f} ms in all by the backend's own profiler, which adds time of its own."
            yield Table(f"Operators of {one.target}", ("operator", "ms per call", "share"), rows, note)


def _scaling(report: Report) -> Table:
    rows = []
    for one in report.cases:
        if (case := one.case).network != report.network.name:
            times = f"{one.generator.p50:.1f}", ratio(one.generator_speedup)
            rows.append((case.target, f"{case.resolution}", f"{case.threads}", *times))
    head = ("target", "R", "threads", "generator, ms", "× PyTorch eager")
    note = "The paper's network with random weights at resolution R, batch 1."
    return Table("Other resolutions", head, rows, note)


def _targets(report: Report) -> Table:
    titles = {one.target: one.title for one in report.static}
    return Table("Targets", ("target", "what it is"), list(titles.items()))


def _unmeasured(report: Report) -> Table:
    rows = [*report.unavailable.items(), *((case, "interrupted") for case in report.missing)]
    return Table("Not measured", ("target", "reason"), rows)


def _conditions(report: Report) -> Table:
    machine, load = report.machine, report.load
    sizes = ", ".join(f"{name} {value}" for name, value in report.network.sizes.items())
    rounds = ", ".join(f"{one:.2f}" for one in load.during)
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
        ("used by others", f"{load.before:.2f} processors before the run; by round: {rounds}"),
        ("load averages", ", ".join(f"{one:.2f}" for one in load.average)),
    ]
    return Table("Conditions", ("what", "value"), rows)


def of_bundle(report: Report) -> list[Measured]:
    """Cases of the bundle itself, by device, batch and threads, fastest first."""
    cases = [one for one in report.cases if one.case.network == report.network.name]
    return sorted(cases, key=lambda one: (one.case.device, one.case.batch, one.case.threads, one.request.p50))


def interval(timing: Timing) -> str:
    """The median with its interval."""
    return ratio(Estimate(timing.p50, timing.low, timing.high), ".1f")


def ratio(estimate: Estimate | None, digits: str = ".2f") -> str:
    """An estimate with its interval; 1 for what the others are compared with."""
    if estimate is None:
        return "1"
    value, low, high = (optional(one, digits) for one in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low}–{high})" if low else value


def optional(value: float | None, digits: str, none: str = "") -> str:
    """A formatted figure, or `none`; percentages have a space."""
    return none if value is None else format(value, digits).replace("%", " %")


def psnr(static: StaticMetrics | None) -> str:
    """Of the worst picture, or that all are equal to the last bit."""
    if static is None:
        return ""
    found = static.differences.psnr
    return "equal" if found is not None and found >= 200 else optional(found, ".1f", "−∞")


def _key(case: Case) -> tuple[str, str, str, str]:
    target = case.target if case.device == "cpu" else f"{case.target} ({case.device})"
    return target, case.precision, f"{case.batch}", f"{case.threads}"
