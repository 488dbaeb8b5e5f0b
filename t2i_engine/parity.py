"""Parity: how far a format is from PyTorch in fp32, output by output, over many cases; what is not comparable fails."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import click
import numpy as np

from t2i_engine.backends.base import Array, Runner
from t2i_engine.bundle import Bundle
from t2i_engine.formats import Differences, Format, load

DEVICE = "cpu"  # the one device that every machine has; bundles are proved there


class ParityError(click.ClickException):
    """A format that misses its tolerance; the command line prints it and exits with 1."""


@dataclass(frozen=True)
class Case:
    """Inputs of one graph, and what PyTorch makes of them, by name."""

    graph: str
    name: str
    feeds: Mapping[str, Array]
    expected: Mapping[str, Array]


@dataclass(frozen=True)
class Worst:
    """The case in which an output of a format is furthest from PyTorch."""

    format: str
    graph: str
    output: str
    difference: float
    """The largest absolute difference; infinite where the runner failed, or gave NaN or another shape or dtype."""
    allowed: float
    case: str
    cases: int
    """How many cases were compared."""
    failure: str | None = None
    """Why the runner failed, if it did."""

    @property
    def ok(self) -> bool:
        """True where the difference is within what the format's row allows."""
        return self.difference <= self.allowed

    def __str__(self) -> str:
        found = f"is off by {self.difference:.3g}" if math.isfinite(self.difference) else "cannot be compared"
        reason = self.failure or ("" if math.isfinite(self.difference) else "it is NaN, or of another shape or dtype")
        return (
            f"format {self.format}, {self.graph}: {self.output} {found}, {self.allowed:g} allowed "
            f"({self.case})" + (f": {reason}" if reason else "")
        )


@dataclass(frozen=True)
class OpenFormat:
    """A row of the table with a runner per graph."""

    row: Format
    runners: Mapping[str, Runner]

    @classmethod
    def open(cls, bundle: Bundle, row: Format) -> "OpenFormat":
        """Opens the bundle's graphs as the user's engine does. Raises a `UserError` where that fails."""
        open_runner = load(row.opener)
        return cls(row, {graph: open_runner(bundle, row, graph, DEVICE, None) for graph in row.files})


def compare(formats: Sequence[OpenFormat], cases: Iterable[Case]) -> list[Worst]:
    """Runs every case through every format: the worst case of each format and output, format by format."""
    worst: dict[tuple[str, str], Worst] = {}
    for case in cases:
        for opened in formats:
            for found in _compare_case(opened, case):
                key = (found.format, found.output)
                worst[key] = _worse(worst[key], found) if key in worst else found
    order = [opened.row.name for opened in formats]
    return sorted(worst.values(), key=lambda found: order.index(found.format))


def differences(worst: Iterable[Worst]) -> Differences:
    """The worst cases of one format, as the manifest records them."""
    by_output = {found.output: found.difference for found in worst}
    return Differences(by_output["sentence"], by_output["image"], int(by_output["pixels"]))


def _compare_case(opened: OpenFormat, case: Case) -> Iterator[Worst]:
    row, failure = opened.row, None
    try:
        found = opened.runners[case.graph].run(case.feeds, list(case.expected))
    except Exception as error:  # whatever a runtime raises on a bad graph is a miss with a name, not a crash
        found, failure = {}, " ".join(str(error).split())
    for output, expected in case.expected.items():
        difference = _largest_difference(found[output], expected) if output in found else math.inf
        allowed = getattr(row.tolerance, output)
        yield Worst(row.name, case.graph, output, difference, allowed, case.name, 1, failure)


def _largest_difference(found: Array, expected: Array) -> float:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return math.inf
    largest = float(np.max(np.abs(found.astype(np.float64) - expected.astype(np.float64)), initial=0.0))
    return math.inf if math.isnan(largest) else largest


def _worse(first: Worst, second: Worst) -> Worst:
    worse = max(first, second, key=lambda found: found.difference)
    return replace(worse, cases=first.cases + second.cases)
