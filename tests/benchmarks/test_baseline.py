"""What counts as a slowdown, and what may be compared."""

from dataclasses import replace

import pytest

from benchmarks.baseline import as_lines, changes, check_comparable
from benchmarks.benchmark import Outcome
from benchmarks.report import BaselineError, Report
from benchmarks.statistics import summarise


def timed(report: Report, rounds: list[list[float]]) -> Report:
    """The report with every request of the same rounds, and nothing else to compare."""
    cases = []
    for one in report.cases:
        same = summarise([[1.0]] * 5)
        cases.append(replace(one, text_encoder=same, generator=same, request=summarise(rounds)))
    return replace(report, cases=tuple(cases))


STEADY = [[10.0, 10.1, 9.9]] * 8
SLOWER = [[11.5, 11.6, 11.4]] * 8
NOISY = [[level] * 3 for level in (6.0, 9.0, 11.2, 11.3, 11.5, 14.0, 18.0, 9.5)]


def test_the_same_run_passes(outcome: Outcome) -> None:
    lines = as_lines(changes(outcome.report, outcome.report), 0.0)
    assert lines[-1] == "PASSED"
    assert len(lines) == 2 + 3 * len(outcome.report.cases)


def test_a_slowdown_beyond_limit_and_noise_fails(outcome: Outcome) -> None:
    before, after = timed(outcome.report, STEADY), timed(outcome.report, SLOWER)
    found = [one for one in changes(before, after) if one.part == "request"]
    assert all(one.is_regression(10) for one in found)
    assert not any(one.is_regression(20) for one in found)
    assert as_lines(found, 10)[-1] == "FAILED: slower by more than both 10 % and the noise: 4 of 4 timings"
    assert "SLOWER" in as_lines(found, 10)[1]
    assert "+15.0 % (+15.0 to +15.0)" in as_lines(found, 10)[1]


def test_a_slowdown_within_the_noise_passes(outcome: Outcome) -> None:
    found = changes(timed(outcome.report, STEADY), timed(outcome.report, NOISY))
    noisy = [one for one in found if one.part == "request"]
    assert all(one.estimate.value > 0.1 for one in noisy)
    assert not any(one.is_regression(10) for one in noisy)


def test_faster_is_no_regression(outcome: Outcome) -> None:
    assert as_lines(changes(timed(outcome.report, SLOWER), timed(outcome.report, STEADY)), 10)[-1] == "PASSED"


def test_two_rounds_prove_nothing(outcome: Outcome) -> None:
    found = changes(timed(outcome.report, STEADY[:2]), timed(outcome.report, SLOWER[:2]))
    assert not any(one.is_regression(10) for one in found)


def test_no_case_in_common_fails(outcome: Outcome) -> None:
    assert as_lines(changes(replace(outcome.report, cases=()), outcome.report), 10)[-1].startswith("FAILED")


def test_another_machine_or_network_is_compared_only_if_asked(outcome: Outcome) -> None:
    report = outcome.report
    machine = replace(report.machine, cpu="Z80", versions={"onnxruntime": "0.1"})
    network = replace(report.network, sizes={**report.network.sizes, "resolution": 512})
    with pytest.raises(BaselineError, match="another machine"):
        check_comparable(report, machine, report.network, anyway=False)
    with pytest.raises(BaselineError, match="another network"):
        check_comparable(report, report.machine, network, anyway=False)
    problems = check_comparable(report, machine, network, anyway=True)
    assert any("another machine" in problem for problem in problems)
    assert any("onnxruntime" in problem for problem in problems)
    assert check_comparable(report, report.machine, report.network, anyway=False) == []
