"""Quantiles over all calls, and 95 % confidence intervals over whole rounds.

Calls within a round are more alike than calls of different rounds, so rounds are resampled, not calls, by SciPy's
bootstrap (percentile) of the medians of rounds. Fewer than three rounds give no interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

FEWEST_ROUNDS = 3
RESAMPLES = 2000

Rounds = Sequence[Sequence[float]]
"""Milliseconds of each call, round by round."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds over all calls; `low` and `high` bound the median of rounds."""

    calls: int
    p50: float
    p90: float
    p99: float
    mean: float
    best: float
    low: float | None
    high: float | None
    rounds: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % confidence interval; no interval with too few rounds."""

    value: float
    low: float | None
    high: float | None

    def percent(self) -> str:
        """As a change in percent: +3.1 % (+1.0 to +5.2)."""
        if self.low is None or self.high is None:
            return f"{100 * self.value:+.1f} % (too few rounds for an interval)"
        return f"{100 * self.value:+.1f} % ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def summarise(rounds: Rounds) -> Timing:
    """The figures of one case's calls; there is at least one."""
    calls = np.concatenate([np.asarray(one, float) for one in rounds])
    p50, p90, p99 = np.quantile(calls, [0.5, 0.9, 0.99]).tolist()
    bounds = _interval(_medians(rounds))
    rounded = tuple(tuple(round(call, 3) for call in one) for one in rounds)
    return Timing(len(calls), p50, p90, p99, float(calls.mean()), float(calls.min()), *bounds, rounded)


def paired_ratio(slower: Rounds, faster: Rounds) -> Estimate:
    """How many times faster `faster` is: the median ratio within rounds, which both went through together."""
    count = min(len(slower), len(faster))
    ratios = _medians(slower[:count]) / _medians(faster[:count])
    return Estimate(float(np.median(ratios)), *_interval(ratios))


def change(before: Rounds, after: Rounds) -> Estimate:
    """How much slower `after` is than `before`, as a fraction; they are of different runs, resampled independently."""
    first, second = _medians(before), _medians(after)
    value = float(np.median(second) / np.median(first) - 1)
    if min(len(first), len(second)) < FEWEST_ROUNDS:
        return Estimate(value, None, None)

    def relative(one: NDArray[np.float64], other: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(np.median(other, axis=axis) / np.median(one, axis=axis) - 1)

    found = bootstrap((first, second), relative, n_resamples=RESAMPLES, method="percentile", rng=0).confidence_interval
    return Estimate(value, float(found.low), float(found.high))


def _medians(rounds: Rounds) -> NDArray[np.float64]:
    return np.array([np.median(one) for one in rounds])


def _interval(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    if len(values) < FEWEST_ROUNDS:
        return None, None
    found = bootstrap((values,), np.median, n_resamples=RESAMPLES, method="percentile", rng=0).confidence_interval
    return float(found.low), float(found.high)
