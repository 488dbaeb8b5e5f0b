"""`t2i-engine benchmark`: validates everything, measures, writes the reports, and compares with an earlier one."""

import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks import baseline
from benchmarks.fixtures import WORDS, Fixtures, open_paper, prepare
from benchmarks.machine import Load, LoadMeter, Machine, describe_machine
from benchmarks.measurement import (
    Findings,
    Timed,
    Times,
    Worker,
    WorkerError,
    cold_starts,
    measure,
    measure_cold_starts,
)
from benchmarks.page import as_html
from benchmarks.quality import check_quality, measure_quality
from benchmarks.report import FILE, Measured, Network, Quality, Report, Roofline, StaticMetrics, read_report
from benchmarks.static_metrics import measure_static, roofline_time
from benchmarks.statistics import Rounds, paired_ratio, summarise
from benchmarks.tables import as_markdown, summary
from benchmarks.targets import EAGER, PAPER, Case, Options, Plan, make_plan
from t2i_engine.bundle import Bundle
from t2i_engine.errors import OptionError, OutputError, UserError, listed, quoted
from t2i_engine.files import write_atomically

ROOFLINE, STATIC, ROUNDS = "the machine's roofline", "differences and operators", "the rest of the rounds"
COLD, QUALITY = "cold start", "quality"
LOAD_SECONDS = 1.0  # the machine's load is watched before anything runs
NAMED = 4  # cases that a warning names; it counts more than that

OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """An earlier report, and how much slower a case may be, in percent."""

    file: Path
    max_regression: float
    anyway: bool


@dataclass(frozen=True)
class Outcome:
    """What was written, what to print, and how the run ended."""

    report: Report
    paths: Sequence[Path]
    lines: Sequence[str]
    failed: bool
    interrupted: bool


def run(
    name: str,
    options: Options,
    out: Path,
    comparison: Comparison | None,
    quality: tuple[str, int] | None,
    command: str,
    on_progress: OnProgress,
) -> Outcome:
    """Measures a bundle, or `paper`, and writes its reports; `quality` is a data source and a number of pictures.

    Raises a `UserError` before anything is measured.
    """
    _check_writable(out)
    before = None
    if comparison:
        if not (math.isfinite(comparison.max_regression) and comparison.max_regression >= 0):
            raise OptionError(f"--max-regression {comparison.max_regression:g} is out of range; 0 or more expected")
        before = read_report(comparison.file, comparison.anyway)
    bundle = open_paper(options.formats, on_progress) if name == PAPER else Bundle.open(name)
    if before and comparison:
        for problem in baseline.check_comparable(before, describe_machine(), network_of(bundle), comparison.anyway):
            on_progress(f"compared regardless: {problem}")
    plan = make_plan(bundle, options)
    if quality:
        check_quality(bundle, *quality)
    for target, reason in plan.unavailable.items():
        on_progress(f"not measured: {target}: {reason}")
    report = measure_all(bundle, plan, quality, _without_paths(command), on_progress)
    for line in summary(report):
        on_progress(line)
    for warning in report.warnings:
        on_progress(f"warning: {warning}")
    paths = [_write(out / FILE, report.to_json())]  # before rendering, which could fail
    paths += [_write(out / "report.md", as_markdown(report)), _write(out / "report.html", as_html(report))]
    lines, failed = [], False
    if before and comparison:
        found = baseline.changes(before, report)
        lines = baseline.as_lines(found, comparison.max_regression)
        for case in baseline.not_compared(before, report):
            on_progress(f"in the baseline only: {case}")
        failed = not found or any(one.is_regression(comparison.max_regression) for one in found)
    return Outcome(report, paths, lines, failed, bool(report.missing))


@dataclass
class Run:
    """A run in progress: what has been measured, and what is still to do."""

    bundle: Bundle
    plan: Plan
    machine: Machine
    before: float
    on_progress: OnProgress
    rooflines: list[Roofline] = field(default_factory=list)
    static: list[StaticMetrics] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    cold: Times = field(default_factory=dict)
    caption: str = ""
    quality: list[Quality] = field(default_factory=list)
    to_do: list[str] = field(default_factory=list)


def measure_all(
    bundle: Bundle, plan: Plan, quality: tuple[str, int] | None, command: str, on_progress: OnProgress
) -> Report:
    """Measures everything planned. An interrupted run reports what it has, and names what is missing."""
    from training.provenance import working_commit

    created = datetime.now(UTC).isoformat(timespec="seconds")
    run = Run(bundle, plan, describe_machine(), _load_before(), on_progress)
    average = tuple(round(one, 2) for one in psutil.getloadavg())
    with TemporaryDirectory(prefix="t2i-engine-") as folder:
        try:
            _measure(run, Path(folder), quality)
        except KeyboardInterrupt:
            on_progress("interrupted: reporting what has been measured")
    measured = _measured(run)
    known = {str(one.case) for one in run.findings.timed if one.rounds} | run.findings.failed.keys()
    missing = [str(case) for case in plan.cases if str(case) not in known] + run.to_do
    load = Load(run.before, tuple(run.findings.loads), average)
    return Report(
        created=created,
        command=command,
        commit=working_commit(),
        machine=run.machine,
        network=network_of(bundle),
        words=WORDS,
        load=load,
        rooflines=tuple(run.rooflines),
        static=tuple(run.static),
        cases=tuple(measured),
        cold_start=tuple(cold_starts(run.cold, run.caption)),
        quality=tuple(run.quality),
        unavailable={**plan.unavailable, **run.findings.failed},
        missing=tuple(missing),
        warnings=tuple(_warnings(load, measured, missing)),
    )


def network_of(bundle: Bundle) -> Network:
    """A bundle as reports describe it, without its folder."""
    files = {name: entry.sha256 for name, entry in sorted(bundle.manifest.files.items())}
    return Network(bundle.name, asdict(bundle.sizes), files)


def _measure(run: Run, scratch: Path, quality: tuple[str, int] | None) -> None:
    plan, findings = run.plan, run.findings
    run.to_do = [ROOFLINE, STATIC, ROUNDS, *([] if plan.quick else [COLD]), *([QUALITY] if quality else [])]
    run.rooflines += _rooflines(run, scratch)
    run.to_do.remove(ROOFLINE)
    run.on_progress("exporting, and drawing with PyTorch the pictures to compare with")
    fixtures = prepare(run.bundle, plan.fixtures, plan.resolutions, plan.largest_batch, scratch)
    for case in _one_of_each_target(plan):
        _measure_static(run, case, fixtures)
    run.to_do.remove(STATIC)
    opened = {(one.target, one.network) for one in run.static}
    rest = [case for case in plan.cases if (case.target, case.network) in opened]
    measure(rest, fixtures, plan.seconds, findings, run.on_progress)
    run.to_do.remove(ROUNDS)
    if not plan.quick:
        run.caption = fixtures.captions[0]
        measure_cold_starts(run.cold, str(run.bundle.folder.absolute()), run.caption, scratch, run.on_progress)
        run.to_do.remove(COLD)
    if quality:
        try:
            run.quality += measure_quality(run.bundle, {case.target for case in plan.cases}, *quality, run.on_progress)
        except UserError as error:  # bad data must not cost the timings
            findings.failed[QUALITY] = error.message
            run.on_progress(f"quality: {error.message}")
        run.to_do.remove(QUALITY)


def _rooflines(run: Run, scratch: Path) -> Iterator[Roofline]:
    for device in run.plan.devices:
        for threads in sorted({case.threads for case in run.plan.cases if case.device == device}):
            run.on_progress(f"roofline of {device} with {threads} threads")
            worker = Worker(scratch, threads)
            try:
                yield Roofline(device, threads, **worker.ask("peaks", device=device, threads=threads))
            except WorkerError as error:
                run.on_progress(f"roofline of {device}: {error}")
            finally:
                worker.close()


def _one_of_each_target(plan: Plan) -> list[Case]:
    """Each target's first case on each network, with the most threads."""
    found: dict[tuple[str, str], Case] = {}
    for case in plan.cases:
        key = case.target, case.network
        found[key] = case if case.batch == 1 else found.get(key, case)
    return list(found.values())


def _measure_static(run: Run, case: Case, fixtures: Fixtures) -> None:
    run.on_progress(f"examining {case.target}, {case.network}")
    try:
        run.static.append(measure_static(case, fixtures, run.on_progress))
    except (WorkerError, ValueError) as error:  # ValueError: a graph that cannot be counted
        key = case.target, case.network
        run.findings.failed |= {str(one): str(error) for one in run.plan.cases if (one.target, one.network) == key}
        run.on_progress(f"failed: {case.target}: {error}")


def _measured(run: Run) -> list[Measured]:
    """The figures of every case that was called at least once, in the plan's order."""
    timed = {one.case: one for one in run.findings.timed if one.rounds}
    order = {case: number for number, case in enumerate(run.plan.cases)}
    eager = {case.block: one for case, one in timed.items() if case.target == EAGER}
    return [_figures(run, timed[case], eager.get(case.block)) for case in sorted(timed, key=order.__getitem__)]


def _figures(run: Run, one: Timed, eager: Timed | None) -> Measured:
    case = one.case
    text_encoder, generator, request = (summarise(_part(one, part)) for part in range(3))
    static = next((row for row in run.static if (row.target, row.network) == (case.target, case.network)), None)
    peaks = next((row for row in run.rooflines if (row.device, row.threads) == (case.device, case.threads)), None)
    roofline = roofline_time(static, case, peaks) if static and peaks else None
    compared = eager if eager is not one else None
    return Measured(
        case=case,
        importing=one.opened["importing"],
        opening=one.opened["opening"],
        first_call=one.warm["first"],
        warm_up=one.warm["calls"],
        steady=one.warm["steady"],
        text_encoder=text_encoder,
        generator=generator,
        request=request,
        pictures_per_second=1000 * case.batch / request.p50,
        peak_memory=one.peak_memory,
        speedup=paired_ratio(_part(compared, 2), _part(one, 2)) if compared else None,
        generator_speedup=paired_ratio(_part(compared, 1), _part(one, 1)) if compared else None,
        roofline=roofline,
        roofline_share=roofline / generator.p50 if roofline else None,
    )


def _part(one: Timed, part: int) -> Rounds:
    return [[call[part] for call in calls] for calls in one.rounds]


def _warnings(load: Load, measured: list[Measured], missing: list[str]) -> Iterator[str]:
    if load.busy:
        during = f" and up to {max(load.during):.2f} during its rounds" if load.during else ""
        yield (
            f"the machine was busy: others used {load.before:.2f} processors before the run{during}; "
            "measure again on a quiet machine"
        )
    unsteady = [str(one.case) for one in measured if not one.steady]
    if len(unsteady) > NAMED:
        yield f"not steady when timing began: {len(unsteady)} of {len(measured)} cases, marked under warm-up calls"
    elif unsteady:
        yield f"not steady when timing began: {listed(unsteady)}"
    few = min((len(one.request.rounds) for one in measured), default=0)
    if measured and few < 3:
        yield f"only {few} rounds were completed, so there are no confidence intervals; raise --minutes"
    if missing:
        yield f"interrupted; missing: {listed(missing)}"


def _load_before() -> float:
    meter = LoadMeter()
    time.sleep(LOAD_SECONDS)
    return meter.read()


def _write(file: Path, content: str | bytes) -> Path:
    return write_atomically(file, content.encode() if isinstance(content, str) else content, "choose another --out")


def _check_writable(folder: Path) -> None:
    """Raises `OutputError` where the folder clearly cannot be written."""
    shown = quoted(str(folder), 200)
    try:
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write to {shown} ({nearest} is not a writable folder); choose another --out")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write to {shown} ({reason}); choose another --out") from None


def _without_paths(command: str) -> str:
    """The command without this machine's folders: reports are shown to others."""
    return re.sub(r"(?<=[\s=])'?/\S*/", "", command)
