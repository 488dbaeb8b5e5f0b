"""Quantiles, intervals over rounds, paired ratios and changes."""

import numpy as np
import pytest

from benchmarks.statistics import change, paired_ratio, summarise


def noisy(level: float, seed: int, rounds: int = 12, drift: float = 0.0) -> list[list[float]]:
    random = np.random.default_rng(seed)
    return [(level * (1 + drift * number) * random.normal(1, 0.02, 5)).tolist() for number in range(rounds)]


def test_quantiles_are_of_all_calls() -> None:
    found = summarise([[1.0, 2.0], [3.0, 4.0, 100.0]])
    assert (found.calls, found.best, found.p50, found.mean) == (5, 1.0, 3.0, 22.0)
    assert found.p90 == pytest.approx(np.quantile([1, 2, 3, 4, 100], 0.9))


def test_two_rounds_are_too_few_for_an_interval() -> None:
    found = summarise([[1.0], [2.0]])
    assert (found.low, found.high) == (None, None)
    assert paired_ratio([[2.0], [2.0]], [[1.0], [1.0]]).low is None
    assert change([[1.0], [1.0]], [[9.0], [9.0]]).low is None


def test_the_interval_holds_the_truth() -> None:
    holds = 0
    for seed in range(40):
        found = summarise(noisy(10, seed))
        assert found.low is not None
        assert found.high is not None
        holds += found.low <= 10 <= found.high
    assert holds >= 34


def test_ratios_within_rounds_do_not_see_drift() -> None:
    slow, fast = noisy(30, 1, drift=0.2), noisy(10, 2, drift=0.2)
    found = paired_ratio(slow, fast)
    assert found.value == pytest.approx(3, rel=0.02)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low < 0.15


def test_a_change_is_told_from_noise() -> None:
    same = change(noisy(10, 3), noisy(10, 4))
    slower = change(noisy(10, 5), noisy(12, 6))
    assert same.low is not None
    assert same.high is not None
    assert same.low <= 0.01
    assert same.high >= -0.01
    assert slower.value == pytest.approx(0.2, abs=0.03)
    assert slower.low is not None
    assert slower.low > 0.1
