"""What counts as a slowdown, and what may be compared."""

from dataclasses import replace

import pytest

from benchmarks.baseline import as_lines, changes, check_comparable
from benchmarks.command import Done
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


def test_the_same_run_passes(done: Done) -> None:
    lines = as_lines(changes(done.report, done.report), 0.0)
    assert lines[-1] == "PASSED"
    assert len(lines) == 2 + 3 * len(done.report.cases)


def test_a_slowdown_beyond_limit_and_noise_fails(done: Done) -> None:
    before, after = timed(done.report, STEADY), timed(done.report, SLOWER)
    found = [one for one in changes(before, after) if one.part == "request"]
    assert all(one.is_regression(10) for one in found)
    assert not any(one.is_regression(20) for one in found)
    assert as_lines(found, 10)[-1].startswith("FAILED: 4 slower")
    assert "SLOWER" in as_lines(found, 10)[1]
    assert "+15.0 % (+15.0 to +15.0)" in as_lines(found, 10)[1]


def test_a_slowdown_within_the_noise_passes(done: Done) -> None:
    found = changes(timed(done.report, STEADY), timed(done.report, NOISY))
    noisy = [one for one in found if one.part == "request"]
    assert all(one.estimate.value > 0.1 for one in noisy)
    assert not any(one.is_regression(10) for one in noisy)


def test_faster_is_no_regression(done: Done) -> None:
    assert as_lines(changes(timed(done.report, SLOWER), timed(done.report, STEADY)), 10)[-1] == "PASSED"


def test_two_rounds_prove_nothing(done: Done) -> None:
    found = changes(timed(done.report, STEADY[:2]), timed(done.report, SLOWER[:2]))
    assert not any(one.is_regression(10) for one in found)


def test_no_case_in_common_fails(done: Done) -> None:
    assert as_lines(changes(replace(done.report, cases=()), done.report), 10)[-1].startswith("FAILED")


def test_another_machine_or_network_is_compared_only_if_asked(done: Done) -> None:
    report = done.report
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
