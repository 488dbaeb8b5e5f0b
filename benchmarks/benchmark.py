"""`t2i-engine benchmark`: everything that is measured, in order, and the report of it; Ctrl-C ends it with a report."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import examination, measurement
from benchmarks.coldstart import Times, cold_starts, measure_cold_starts
from benchmarks.machine import Load, LoadMeter, Machine, describe_machine
from benchmarks.material import WORDS, Material, prepare
from benchmarks.measurement import Findings, Timed
from benchmarks.plan import Plan
from benchmarks.processes import Worker, WorkerError
from benchmarks.quality import measure_quality
from benchmarks.report import Case, Limit, Measured, Network, Quality, Report, RowFacts
from benchmarks.rows import REFERENCE
from benchmarks.statistics import Rounds, paired_ratio, summarise
from t2i_engine.bundle import Bundle
from t2i_engine.errors import UserError, listed

COLD_ROUNDS = 5
LIMITS, FACTS, ROUNDS = "limits of the machine", "differences and operators", "the rest of the rounds"
COLD, QUALITY = "cold start", "quality"
LOAD_SECONDS = 1.0  # watched before anything runs
NAMED = 4  # cases that a warning names; of more it says how many

Say = Callable[[str], None]


@dataclass
class Run:
    """A run in progress: what has been found so far, and what is still to do."""

    bundle: Bundle
    plan: Plan
    machine: Machine
    before: float
    say: Say
    limits: list[Limit] = field(default_factory=list)
    facts: list[RowFacts] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    cold: Times = field(default_factory=dict)
    caption: str = ""
    quality: list[Quality] = field(default_factory=list)
    to_do: list[str] = field(default_factory=list)


def benchmark(bundle: Bundle, plan: Plan, quality: tuple[str, int] | None, command: str, say: Say) -> Report:
    """Measures all that is planned; `quality` is a data source and a number of pictures.

    `say` gets a line per step. Where it is interrupted, the report holds what there is and names what is missing.
    """
    from training.provenance import working_commit

    created = datetime.now(UTC).isoformat(timespec="seconds")
    run = Run(bundle, plan, describe_machine(), _load_before(), say)
    average = _averages()
    with TemporaryDirectory(prefix="t2i-engine-") as folder:
        try:
            _measure(run, Path(folder), quality)
        except KeyboardInterrupt:
            say("interrupted: what has been measured is reported")
    measured = _measured(run)
    missing = [str(case) for case in plan.cases if str(case) not in _known(run)] + run.to_do
    load = Load(run.before, tuple(run.findings.loads), average)
    return Report(
        created=created,
        command=command,
        commit=working_commit(),
        machine=run.machine,
        network=network_of(bundle),
        words=WORDS,
        load=load,
        limits=tuple(run.limits),
        rows=tuple(run.facts),
        cases=tuple(measured),
        cold_start=tuple(cold_starts(run.cold, run.caption)),
        quality=tuple(run.quality),
        unavailable={**plan.unavailable, **run.findings.failed},
        missing=tuple(missing),
        warnings=tuple(_warnings(load, measured, missing)),
    )


def network_of(bundle: Bundle) -> Network:
    """What a report says of the bundle; not where it lies."""
    files = {name: record.sha256 for name, record in sorted(bundle.manifest.files.items())}
    return Network(bundle.name, asdict(bundle.sizes), files)


def _measure(run: Run, scratch: Path, quality: tuple[str, int] | None) -> None:
    plan = run.plan
    run.to_do = [LIMITS, FACTS, ROUNDS, *([] if plan.quick else [COLD]), *([QUALITY] if quality else [])]
    with _step(run, LIMITS):
        run.limits += _limits(run, scratch)
    run.say("exporting, and drawing with PyTorch what pictures are compared with")
    material = prepare(run.bundle, plan.materials, plan.sides, plan.most, scratch)
    with _step(run, FACTS):
        for case in _one_of_each_row(plan):
            _examine(run, case, material, scratch)
    rest = [case for case in plan.cases if (case.row, case.network) in {(row.row, row.network) for row in run.facts}]
    with _step(run, ROUNDS):
        measurement.measure(rest, material, plan.seconds, scratch, run.findings, run.say)
    if not plan.quick:
        with _step(run, COLD):
            folder = str(run.bundle.folder.absolute())
            run.caption = material.captions[0]
            measure_cold_starts(run.cold, folder, run.caption, COLD_ROUNDS, scratch, run.say)
    if quality:
        with _step(run, QUALITY):
            rows = {case.row for case in plan.cases}
            try:
                run.quality += measure_quality(run.bundle, rows, *quality, run.say)
            except UserError as error:  # the data turned out bad: what was timed is kept
                run.findings.failed[QUALITY] = error.message
                run.say(f"quality: {error.message}")


@contextmanager
def _step(run: Run, name: str) -> Iterator[None]:
    yield
    run.to_do.remove(name)


def _limits(run: Run, scratch: Path) -> Iterator[Limit]:
    for device in run.plan.devices:
        for threads in sorted({case.threads for case in run.plan.cases if case.device == device}):
            run.say(f"limits of {device} with {threads} threads")
            worker = Worker(scratch, threads)
            try:
                yield Limit(device, threads, **worker.ask("limits", device=device, threads=threads))
            except WorkerError as error:
                run.say(f"limits of {device}: {error}")
            finally:
                worker.close()


def _one_of_each_row(plan: Plan) -> list[Case]:
    """The first case of each row on each network, with as many threads as there are."""
    found: dict[tuple[str, str], Case] = {}
    for case in plan.cases:
        found[case.row, case.network] = case if case.batch == 1 else found.get((case.row, case.network), case)
    return list(found.values())


def _examine(run: Run, case: Case, material: Material, scratch: Path) -> None:
    run.say(f"examining {case.row}, {case.network}")
    try:
        run.facts.append(examination.examine(case, material, scratch, run.say))
    except (WorkerError, ValueError) as error:  # ValueError: a graph that cannot be counted
        run.findings.failed |= {
            str(one): str(error) for one in run.plan.cases if (one.row, one.network) == (case.row, case.network)
        }
        run.say(f"failed: {case.row}: {error}")


def _measured(run: Run) -> list[Measured]:
    """The figures of every case that was called at least once, in the plan's order."""
    timed = {one.case: one for one in run.findings.timed if one.rounds}
    order = {case: number for number, case in enumerate(run.plan.cases)}
    references = {case.block: one for case, one in timed.items() if case.row == REFERENCE}
    return [_figures(run, timed[case], references.get(case.block)) for case in sorted(timed, key=order.__getitem__)]


def _figures(run: Run, one: Timed, reference: Timed | None) -> Measured:
    text_encoder, generator, request = (summarise(_part(one, part)) for part in range(3))
    facts = next((row for row in run.facts if (row.row, row.network) == (one.case.row, one.case.network)), None)
    limit = next(
        (found for found in run.limits if (found.device, found.threads) == (one.case.device, one.case.threads)), None
    )
    allowed = examination.time_at_limit(facts, one.case, limit) if facts and limit else None
    compared = reference if reference is not one else None
    return Measured(
        case=one.case,
        importing=one.opened["importing"],
        opening=one.opened["opening"],
        first_call=one.warm["first"],
        warm_up=one.warm["calls"],
        steady=one.warm["steady"],
        text_encoder=text_encoder,
        generator=generator,
        request=request,
        pictures_per_second=1000 * one.case.batch / request.p50,
        peak_memory=one.peak_memory,
        speedup=paired_ratio(_part(compared, 2), _part(one, 2)) if compared else None,
        generator_speedup=paired_ratio(_part(compared, 1), _part(one, 1)) if compared else None,
        limit=allowed,
        share=allowed / generator.p50 if allowed else None,
    )


def _part(one: Timed, part: int) -> Rounds:
    return [[call[part] for call in calls] for calls in one.rounds]


def _known(run: Run) -> set[str]:
    return {str(one.case) for one in run.findings.timed if one.rounds} | run.findings.failed.keys()


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
        yield f"only {few} rounds were gone through: there are no confidence intervals; give more --minutes"
    if missing:
        yield f"interrupted; missing: {listed(missing)}"


def _load_before() -> float:
    import time

    meter = LoadMeter()
    time.sleep(LOAD_SECONDS)
    return meter.read()


def _averages() -> tuple[float, ...]:
    import psutil

    return tuple(round(one, 2) for one in psutil.getloadavg())
