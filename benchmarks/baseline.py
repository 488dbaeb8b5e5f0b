"""`--baseline`: what is slower than in an earlier report, and whether by more than noise."""

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
        """Whether it is slower by more than `limit` percent and its interval excludes zero.

        Fewer than three rounds give no interval, and so prove nothing.
        """
        return self.estimate.low is not None and self.estimate.low > 0 and 100 * self.estimate.value > limit

    def cells(self, limit: float) -> tuple[str, ...]:
        """Its row for the terminal."""
        value, low, high = self.estimate.value, self.estimate.low, self.estimate.high
        interval, verdict = "too few rounds for an interval", "within noise"
        if low is not None and high is not None:
            interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
            verdict = verdict if low <= 0 <= high else "SLOWER" if self.is_regression(limit) else ""
        times = f"{self.before:.2f} ms", f"{self.after:.2f} ms"
        return str(self.case), self.part.replace("_", " "), *times, f"{100 * value:+.1f} % ({interval})", verdict


def check_comparable(baseline: Report, machine: Machine, network: Network, anyway: bool) -> list[str]:
    """What differs from the baseline. Raises `BaselineError` if machine or model sizes do, unless `anyway`."""
    problems = []
    if baseline.machine.identity != machine.identity:
        problems.append(f"the baseline is from another machine ({baseline.machine.identity}; this: {machine.identity})")
    if dict(baseline.network.sizes) != dict(network.sizes):
        problems.append(f"the baseline is for another network ({baseline.network.name}; this: {network.name})")
    if problems and not anyway:
        raise BaselineError(
            f"{' and '.join(problems)}: times cannot be compared; add --compare-anyway to compare them regardless"
        )
    before, after = baseline.machine.versions, machine.versions
    return problems + [
        f"{name} {before.get(name, 'none')} in the baseline, {after.get(name, 'none')} now"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def changes(baseline: Report, current: Report) -> list[Change]:
    """The changes of every case in both reports. The network's name is ignored: a bundle may have been renamed."""
    before, after = _by_case(baseline), _by_case(current)
    return [
        Change(after[key].case, part, old.p50, new.p50, change(old.rounds, new.rounds))
        for key in after
        if key in before
        for part in PARTS
        for old, new in [(getattr(before[key], part), getattr(after[key], part))]
    ]


def not_compared(baseline: Report, current: Report) -> list[str]:
    """The baseline's cases that this run lacks."""
    there = _by_case(current)
    return [str(one.case) for key, one in _by_case(baseline).items() if key not in there]


def as_lines(found: list[Change], limit: float) -> list[str]:
    """A table for the terminal, ending with the verdict."""
    if not found:
        return ["FAILED: the baseline and this run have no case in common"]
    head = ("case", "part", "before", "after", "change of the median (95 % interval)", "")
    slower = sum(one.is_regression(limit) for one in found)
    verdict = (
        f"FAILED: slower by more than both {limit:g} % and the noise: {slower} of {len(found)} timings"
        if slower
        else "PASSED"
    )
    return [*aligned([head, *(one.cells(limit) for one in found)]), verdict]


def _by_case(report: Report) -> dict[Case, Measured]:
    own = report.network.name
    return {replace(one.case, network="") if one.case.network == own else one.case: one for one in report.cases}
