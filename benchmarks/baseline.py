"""`--baseline`: what is slower than in an earlier report, and whether by more than noise."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.machine import Machine
from benchmarks.report import BaselineError, Measured, Network, Report
from benchmarks.statistics import Estimate, change
from benchmarks.targets import Case
from t2i_engine.table import aligned

PARTS = ("request", "generator", "text_encoder")


@dataclass(frozen=True)
class Change:
    """The change of a case's median, as a fraction; negative is faster."""

    case: Case
    part: str
    before: float
    after: float
    estimate: Estimate

    def is_regression(self, limit: float) -> bool:
        """True where it is slower by more than `limit` percent and its interval excludes zero.

        Fewer than three rounds give no interval, and so prove nothing.
        """
        return self.estimate.low is not None and self.estimate.low > 0 and 100 * self.estimate.value > limit


def check_comparable(baseline: Report, machine: Machine, network: Network, anyway: bool) -> list[str]:
    """What differs in the baseline. Raises `BaselineError` where machine or model sizes do, unless `anyway`."""
    problems = []
    if baseline.machine.identity != machine.identity:
        problems.append(f"the baseline is from another machine ({baseline.machine.identity}; this: {machine.identity})")
    if dict(baseline.network.sizes) != dict(network.sizes):
        problems.append(f"the baseline is of another network ({baseline.network.name}; this: {network.name})")
    if problems and not anyway:
        raise BaselineError(
            f"{' and '.join(problems)}: times cannot be compared; add --compare-anyway to compare them regardless"
        )
    names = sorted({*baseline.machine.versions, *machine.versions})
    for name in names:
        before, after = baseline.machine.versions.get(name, "none"), machine.versions.get(name, "none")
        if before != after:
            problems.append(f"{name} {before} in the baseline, {after} now")
    return problems


def changes(baseline: Report, current: Report) -> list[Change]:
    """Of every case in both reports. The network's name is ignored: a bundle may have been renamed."""
    before = {_key(one.case, baseline): one for one in baseline.cases}
    return [
        found
        for one in current.cases
        if _key(one.case, current) in before
        for found in _of_case(before[_key(one.case, current)], one)
    ]


def not_compared(baseline: Report, current: Report) -> list[str]:
    """The baseline's cases that this run lacks."""
    there = {_key(one.case, current) for one in current.cases}
    return [str(one.case) for one in baseline.cases if _key(one.case, baseline) not in there]


def as_lines(found: list[Change], limit: float) -> list[str]:
    """A table for the terminal, ending with the verdict."""
    regressions = [one for one in found if one.is_regression(limit)]
    rows = [("case", "part", "before", "after", "change of the median (95 %)", "")]
    for one in found:
        verdict = "SLOWER" if one in regressions else ("within noise" if _within_noise(one.estimate) else "")
        times = f"{one.before:.2f} ms", f"{one.after:.2f} ms"
        rows.append((str(one.case), one.part.replace("_", " "), *times, one.estimate.percent(), verdict))
    if not found:
        return ["FAILED: the baseline and this run have no case in common"]
    verdict = f"FAILED: {len(regressions)} slower by more than {limit:g} % and the noise" if regressions else "PASSED"
    return [*aligned(rows), verdict]


def _of_case(before: Measured, after: Measured) -> Iterator[Change]:
    for part in PARTS:
        old, new = getattr(before, part), getattr(after, part)
        yield Change(after.case, part, old.p50, new.p50, change(old.rounds, new.rounds))


def _key(case: Case, report: Report) -> Case:
    return replace(case, network="") if case.network == report.network.name else case


def _within_noise(estimate: Estimate) -> bool:
    return estimate.low is None or estimate.high is None or estimate.low <= 0 <= estimate.high
