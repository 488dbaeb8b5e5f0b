"""`t2i-engine benchmark`: validates everything, measures, writes the reports, and compares with an earlier one."""

import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import baseline
from benchmarks.fixtures import open_paper, prepare
from benchmarks.machine import Load, LoadMeter, describe_machine
from benchmarks.measurement import Findings, OnProgress, Timed, Worker, WorkerError, measure, measure_cold_starts
from benchmarks.page import as_html
from benchmarks.quality import check_quality, measure_quality
from benchmarks.report import FILE, ColdStart, Measured, Network, Report, Roofline, read_report
from benchmarks.static_metrics import measure_static, roofline_time
from benchmarks.statistics import FEWEST_ROUNDS, Rounds, paired_ratio, summarise
from benchmarks.tables import as_markdown, summary, thread_count
from benchmarks.targets import EAGER, PAPER, Case, Options, Plan, make_plan
from t2i_engine.bundle import Bundle
from t2i_engine.errors import OptionError, UserError, listed
from t2i_engine.files import require_writable, write_atomically

LOAD_SECONDS = 1.0  # the machine's load is watched before anything runs
ROOFLINE, STATIC, ROUNDS = "the machine's roofline", "static metrics", "the remaining rounds"
COLD, QUALITY = "cold start", "quality"


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
    """A case crashed, or is slower than in the baseline; a case that cannot run here is not a failure."""

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return bool(self.report.missing)


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
    before = None
    if comparison:
        if not (math.isfinite(comparison.max_regression) and comparison.max_regression >= 0):
            raise OptionError(f"--max-regression {comparison.max_regression:g} is out of range; 0 or more expected")
        before = read_report(comparison.file, comparison.anyway)
    bundle = open_paper(options.formats, on_progress) if name == PAPER else Bundle.open(name)
    if before and comparison:
        for problem in baseline.check_comparable(before, describe_machine(), network_of(bundle), comparison.anyway):
            on_progress(f"compared anyway: {problem}")
    plan = make_plan(bundle, options)
    if quality:
        check_quality(bundle, *quality)
    require_writable(out, "choose another --out")
    for target, reason in plan.unavailable.items():
        on_progress(f"not measured: {target}: {reason}")
    report = measure_all(bundle, plan, quality, command, on_progress)
    for line in (*summary(report), *(f"warning: {warning}" for warning in report.warnings)):
        on_progress(line)
    paths = [_write(out / FILE, report.to_json())]  # before rendering, which could fail
    paths += [_write(out / "report.md", as_markdown(report).encode())]
    paths += [_write(out / "report.html", as_html(report).encode())]
    lines, failed = [], bool(report.unavailable.keys() - plan.unavailable.keys())
    if before and comparison:
        found = baseline.changes(before, report)
        lines = baseline.as_lines(found, comparison.max_regression)
        for case in baseline.not_compared(before, report):
            on_progress(f"in the baseline only: {case}")
        failed = failed or not found or any(one.is_regression(comparison.max_regression) for one in found)
    return Outcome(report, paths, lines, failed)


def measure_all(
    bundle: Bundle, plan: Plan, quality: tuple[str, int] | None, command: str, on_progress: OnProgress
) -> Report:
    """Measures everything planned. An interrupted run reports what it has, and names what is missing."""
    from training.provenance import working_commit

    def public(text: str) -> str:
        return re.sub(r"(?<=[\s=])'?/\S*/", "", text)  # reports are public: no path of this machine

    created, meter = datetime.now(UTC).isoformat(timespec="seconds"), LoadMeter()
    time.sleep(LOAD_SECONDS)
    before, findings = meter.read(), Findings(on_progress)
    stages = [ROOFLINE, STATIC, ROUNDS, *([] if plan.quick else [COLD]), *([QUALITY] if quality else [])]
    with TemporaryDirectory(prefix="t2i-engine-") as folder:
        try:
            for _ in _measure(bundle, plan, quality, Path(folder), findings):
                del stages[0]
        except KeyboardInterrupt:
            on_progress("interrupted: reporting what has been measured")
    cases, load = _measured(plan, findings), Load(before, tuple(findings.loads))
    known = {*(one.case for one in cases)}
    missing = [str(case) for case in plan.cases if case not in known and str(case) not in findings.failed] + stages
    return Report(
        created=created,
        command=public(command),
        commit=working_commit(),
        machine=describe_machine(),
        network=network_of(bundle),
        load=load,
        rooflines=tuple(findings.rooflines),
        static=tuple(findings.static),
        cases=tuple(cases),
        cold_start=tuple(ColdStart(command, summarise(times)) for command, times in findings.cold.items()),
        quality=tuple(findings.quality),
        unavailable={name: public(why) for name, why in {**plan.unavailable, **findings.failed}.items()},
        missing=tuple(missing),
        warnings=tuple(_warnings(load, cases, missing)),
    )


def network_of(bundle: Bundle) -> Network:
    """A bundle as reports describe it, without its folder."""
    files = {name: entry.sha256 for name, entry in sorted(bundle.manifest.files.items())}
    return Network(bundle.name, asdict(bundle.sizes), files)


def _measure(
    bundle: Bundle, plan: Plan, quality: tuple[str, int] | None, scratch: Path, findings: Findings
) -> Iterator[None]:
    """Measures stage by stage into `findings`; yields at the end of each."""
    on_progress = findings.on_progress
    for device, threads in sorted({(case.device, case.threads) for case in plan.cases}):
        on_progress(f"measuring the roofline of {device} with {thread_count(threads)}")
        try:
            with closing(Worker(scratch, threads)) as worker:
                peaks = worker.ask("peaks", device=device, threads=threads)
            findings.rooflines.append(Roofline(device, threads, **peaks))
        except WorkerError as error:
            on_progress(f"no roofline of {device}: {error}")
    yield
    on_progress("exporting graphs, and drawing the pictures to compare with in PyTorch")
    fixtures = prepare(bundle, plan.fixtures, plan.resolutions, max(case.batch for case in plan.cases), scratch)
    by_target: dict[tuple[str, str, str], list[Case]] = {}
    for case in plan.cases:
        by_target.setdefault((case.target, case.network, case.device), []).append(case)
    cases: set[Case] = set()
    for alike in by_target.values():
        case = max(alike, key=lambda case: (-case.batch, case.threads))
        on_progress(f"measuring static metrics of {case.label}, {case.network}")
        try:
            findings.static.append(measure_static(case, fixtures, on_progress))
            cases.update(alike)
        except (WorkerError, ValueError) as error:  # ValueError: a graph that cannot be counted
            for one in alike:
                findings.fail(one, error)
    yield
    measure([case for case in plan.cases if case in cases], fixtures, plan.seconds, findings)
    yield
    if not plan.quick:
        measure_cold_starts(findings, bundle.folder, fixtures.captions[0], scratch)
        yield
    if quality:
        try:
            targets = {case.target for case in plan.cases}
            findings.quality += measure_quality(bundle, targets, *quality, on_progress)
        except UserError as error:  # bad data must not cost the timings
            findings.fail(QUALITY, error.message)
        yield


def _measured(plan: Plan, findings: Findings) -> list[Measured]:
    """The figures of every case that was called at least once, in the plan's order."""
    timed = {one.case: one for one in findings.timed if one.rounds}
    static = {(row.target, row.network, row.device): row for row in findings.static}
    rooflines = {(row.device, row.threads): row for row in findings.rooflines}
    eager = {case.block: one for case, one in timed.items() if case.target == EAGER}
    measured = []
    for case in filter(timed.__contains__, plan.cases):
        one, compared = timed[case], eager.get(case.block)
        text_encoder, generator, request = (summarise(_part(one, part)) for part in range(3))
        peaks = rooflines.get((case.device, case.threads))
        least = roofline_time(static[case.target, case.network, case.device], case, peaks) if peaks else None
        versus = None if compared is one else compared
        measured.append(
            Measured(
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
                speedup=paired_ratio(_part(versus, 2), _part(one, 2)) if versus else None,
                generator_speedup=paired_ratio(_part(versus, 1), _part(one, 1)) if versus else None,
                roofline_share=least / generator.p50 if least else None,
            )
        )
    return measured


def _part(one: Timed, part: int) -> Rounds:
    return [[call[part] for call in calls] for calls in one.rounds]


def _warnings(load: Load, measured: list[Measured], missing: list[str]) -> Iterator[str]:
    if load.busy:
        during = f" and up to {max(load.during):.2f} during it" if load.during else ""
        yield (
            f"the machine was not idle: other processes used {load.before:.2f} processors before the run{during}; "
            "measure again on an idle machine"
        )
    if unsteady := sum(not one.steady for one in measured):
        yield (
            f"{unsteady} of {len(measured)} cases were not steady when timing began; see the column 'warm-up requests'"
        )
    few = min((len(one.request.rounds) for one in measured), default=FEWEST_ROUNDS)
    if few < FEWEST_ROUNDS:
        yield f"only {few} rounds were completed, so there are no confidence intervals; raise --minutes"
    if missing:
        yield f"the run was interrupted; missing: {listed(missing)}"


def _write(file: Path, content: bytes) -> Path:
    return write_atomically(file, content, "choose another --out")
