"""Parity: how far a format is from PyTorch in fp32, output by output, over many cases; what is not comparable fails."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from t2i_engine.backends.base import Array, Runner
from t2i_engine.bundle import Bundle, Parity
from t2i_engine.formats import PSNR, Differences, Format, load, meets
from t2i_engine.table import aligned

CPU = "cpu"  # the one device that every machine has: what runs there is proved there


@dataclass(frozen=True)
class Case:
    """Inputs of one graph, and what PyTorch makes of them, by name."""

    graph: str
    name: str
    feeds: Mapping[str, Array]
    expected: Mapping[str, Array]


@dataclass(frozen=True)
class Worst:
    """The case in which an output of a format is furthest from what was expected."""

    format: str
    graph: str
    output: str
    """A field of `Differences`: an output of the graph, or psnr, that of its image."""
    against: str
    """Who said what to expect: PyTorch here, or the bundle's reference."""
    difference: float
    """The largest absolute one, or the least psnr; infinite for a failure, NaN, another shape or dtype."""
    allowed: float | None
    """None: whatever is finite."""
    case: str
    cases: int
    """How many were compared."""
    failure: str | None = None
    """Why the runner failed, if it did."""

    @property
    def ok(self) -> bool:
        """True where the difference is within what the format's row allows."""
        if self.allowed is None:
            return math.isfinite(self.difference)
        return meets(self.output, self.difference, self.allowed)

    def __str__(self) -> str:
        where = f"format {self.format}, graph {self.graph}, output {self.output}"
        kind = "psnr" if self.output == PSNR else "difference"
        allowed = "any" if self.allowed is None else f"{self.allowed:g}"
        found = f"worst {kind} from {self.against} {self.difference:.3g}, {allowed} allowed, in {self.case}"
        if self.failure:
            return f"{where}: {found} ({self.failure})"
        return f"{where}: {found}" + ("" if math.isfinite(self.difference) else " (NaN, or another shape or dtype)")


@dataclass(frozen=True)
class OpenFormat:
    """A row of the table with a runner per graph."""

    row: Format
    runners: Mapping[str, Runner]

    @classmethod
    def open(cls, bundle: Bundle, row: Format) -> "OpenFormat":
        """Opens the bundle's graphs as the user's engine does. Raises a `UserError` where that fails."""
        open_runner = load(row.opener)
        device = proving_device(row)
        return cls(row, {graph: open_runner(bundle, row, graph, device, None) for graph in row.files})


def proving_device(row: Format) -> str:
    """Where a format is compared with PyTorch: on the CPU, where it runs there."""
    return CPU if CPU in row.devices else row.devices[0]


def compare(formats: Sequence[OpenFormat], cases: Iterable[Case], against: str) -> list[Worst]:
    """Runs every case through every format: the worst case of each format and output, format by format."""
    worst: dict[tuple[str, str], Worst] = {}
    for case in cases:
        for opened in formats:
            for found in _compare_case(opened, case, against):
                key = (found.format, found.output)
                worst[key] = _worse(worst[key], found) if key in worst else found
    order = [opened.row.name for opened in formats]
    return sorted(worst.values(), key=lambda found: order.index(found.format))


def as_parity(worst: Sequence[Worst], row: Format) -> Parity:
    """What the manifest records of a format, from its worst cases, all of them finite."""
    found: dict[str, Worst] = {}
    for one in worst:
        if one.format == row.name:
            found[one.output] = _worse(found[one.output], one) if one.output in found else one
    differences = {output: one.difference for output, one in found.items()}
    cases = {one.graph: one.cases for one in found.values()}  # outputs of one graph share their cases
    return Parity(
        Differences(differences["sentence"], differences["image"], int(differences["pixels"]), differences.get(PSNR)),
        row.tolerance,
        sum(cases.values()),
    )


def as_table(worst: Iterable[Worst]) -> list[str]:
    """The worst cases as lines for the terminal, under a header."""
    header = ("format", "output", "against", "worst", "allowed", "cases", "")
    return aligned([header, *(_cells(found) for found in worst)])


def _cells(found: Worst) -> tuple[str, ...]:
    verdict = "ok" if found.ok else "FAILED"
    difference, allowed = _number(found.difference), "any" if found.allowed is None else _number(found.allowed)
    return (found.format, found.output, found.against, difference, allowed, str(found.cases), verdict)


def _number(value: float) -> str:
    return f"{value:.1e}" if 0 < value < 1 else f"{value:.4g}"


def _compare_case(opened: OpenFormat, case: Case, against: str) -> Iterator[Worst]:
    found, failure = {}, None
    try:
        found = opened.runners[case.graph].run(case.feeds, list(case.expected))
    except Exception as error:  # whatever a runtime raises on a bad graph is a miss with a name, not a crash
        failure = " ".join(str(error).split())
    for measure, difference in _measured(found, case.expected, opened.row.tolerance.psnr is not None):
        allowed = getattr(opened.row.tolerance, measure)
        yield Worst(opened.row.name, case.graph, measure, against, difference, allowed, case.name, 1, failure)


def _measured(
    found: Mapping[str, Array], expected: Mapping[str, Array], with_psnr: bool
) -> Iterator[tuple[str, float]]:
    for output, array in expected.items():
        yield output, _largest_difference(found[output], array) if output in found else math.inf
    if with_psnr and "image" in expected:
        yield PSNR, _psnr(found["image"], expected["image"]) if "image" in found else -math.inf


def _largest_difference(found: Array, expected: Array) -> float:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return math.inf
    largest = float(np.max(np.abs(found.astype(np.float64) - expected.astype(np.float64)), initial=0.0))
    return math.inf if math.isnan(largest) else largest


def _psnr(found: Array, expected: Array) -> float:
    """Of the worst image of a batch in [−1, 1], in dB; what is equal to the last bit of float64 counts as 200 dB."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return -math.inf
    squares = np.square(found.astype(np.float64) - expected.astype(np.float64)).mean(axis=(1, 2, 3))
    largest = float(squares.max(initial=0.0))
    return -math.inf if math.isnan(largest) else 10 * math.log10(4 / max(largest, 4e-20))


def _worse(first: Worst, second: Worst) -> Worst:
    if first.output == PSNR:
        worse = min(first, second, key=lambda found: found.difference)
    else:
        worse = max(first, second, key=lambda found: found.difference)
    return replace(worse, cases=first.cases + second.cases)
