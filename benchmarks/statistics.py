"""Quantiles over all calls, and 95 % confidence intervals over whole rounds.

Calls within a round are more alike than calls of different rounds, so SciPy's bootstrap (percentile) resamples the
medians of rounds, not calls. Fewer than three rounds give no interval.
"""

from collections.abc import Callable, Sequence
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


def summarise(rounds: Rounds) -> Timing:
    """The figures of one case's calls; there is at least one."""
    calls = np.concatenate([np.asarray(one, float) for one in rounds])
    p50, p90, p99 = np.quantile(calls, [0.5, 0.9, 0.99]).tolist()
    median = _estimate(np.median, _medians(rounds))
    rounded = tuple(tuple(round(call, 3) for call in one) for one in rounds)
    return Timing(len(calls), p50, p90, p99, float(calls.mean()), float(calls.min()), median.low, median.high, rounded)


def paired_ratio(slower: Rounds, faster: Rounds) -> Estimate:
    """How many times faster `faster` is: the median ratio within rounds, in which conditions were the same."""
    count = min(len(slower), len(faster))
    return _estimate(np.median, _medians(slower[:count]) / _medians(faster[:count]))


def change(before: Rounds, after: Rounds) -> Estimate:
    """How much slower `after` is than `before`, as a fraction; they are of different runs, resampled independently."""
    return _estimate(
        lambda first, second, axis=-1: np.median(second, axis=axis) / np.median(first, axis=axis) - 1,
        _medians(before),
        _medians(after),
    )


def _medians(rounds: Rounds) -> NDArray[np.float64]:
    return np.array([np.median(one) for one in rounds])


def _estimate(statistic: Callable[..., NDArray[np.float64]], *samples: NDArray[np.float64]) -> Estimate:
    value = float(statistic(*samples))
    if min(map(len, samples)) < FEWEST_ROUNDS:
        return Estimate(value, None, None)
    found = bootstrap(samples, statistic, n_resamples=RESAMPLES, method="percentile", rng=0).confidence_interval
    return Estimate(value, float(found.low), float(found.high))
