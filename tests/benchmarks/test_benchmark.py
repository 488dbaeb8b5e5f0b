"""A run of the benchmark: what is in its reports, and how it ends."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.benchmark import Outcome
from benchmarks.fixtures import Fixtures
from benchmarks.measurement import OnProgress, WorkerError
from benchmarks.report import FILE, SCHEMA, Report, StaticMetrics, read_report
from benchmarks.targets import Case
from t2i_engine.cli import main
from t2i_engine.errors import OutputError
from t2i_engine.files import write_atomically


def test_every_target_that_can_run_is_measured_and_the_others_say_why(outcome: Outcome) -> None:
    assert {(one.case.target, one.case.batch) for one in outcome.report.cases} == {
        (row, batch) for row in ("pytorch", "onnx") for batch in (1, 2)
    }
    assert (outcome.failed, outcome.interrupted, outcome.report.missing) == (False, False, ())


def test_a_request_takes_at_least_as_long_as_its_parts(outcome: Outcome) -> None:
    for one in outcome.report.cases:
        assert len(one.request.rounds) >= 3
        assert one.request.calls == sum(map(len, one.request.rounds))
        assert one.request.mean >= one.text_encoder.mean + one.generator.mean
        assert one.request.best <= one.request.p50 <= one.request.p90 <= one.request.p99
        assert one.pictures_per_second == pytest.approx(1000 * one.case.batch / one.request.p50)
        assert one.peak_memory > 1 << 20


def test_ratios_are_against_pytorch_of_the_same_conditions(outcome: Outcome) -> None:
    for one in outcome.report.cases:
        assert (one.speedup is None) == (one.case.target == "pytorch")


def test_pictures_are_those_of_pytorch(outcome: Outcome) -> None:
    assert {row.target for row in outcome.report.static} == {"pytorch", "onnx"}
    for row in outcome.report.static:
        assert row.differences.pixels is not None
        assert row.differences.pixels <= 1
        assert row.differences.psnr is not None
        assert row.differences.psnr > 80


def test_operators_of_onnx_runtime_are_listed(outcome: Outcome) -> None:
    operators = next(row.operators for row in outcome.report.static if row.target == "onnx")
    assert any("Conv" in kind for kind in operators)
    assert all(milliseconds >= 0 for milliseconds in operators.values())


def test_the_report_is_read_as_it_was_written(outcome: Outcome) -> None:
    assert read_report(outcome.paths[0]) == outcome.report


def test_the_report_has_its_conditions_and_no_path_of_this_machine(outcome: Outcome, plain_bundle: Path) -> None:
    text = outcome.paths[0].read_text(encoding="utf-8")
    found = json.loads(text)
    assert found["schema"] == SCHEMA
    assert found["machine"]["versions"]["onnxruntime"]
    assert found["machine"]["cpu"]
    assert found["load"]["during"]
    assert found["rooflines"][0]["fp32"] > 0
    assert str(plain_bundle) not in text
    assert str(Path.cwd()) not in text


def test_markdown_has_a_row_for_each_case(outcome: Outcome) -> None:
    text = outcome.paths[1].read_text(encoding="utf-8")
    first = text.split("## ")[1]
    assert len(re.findall(r"^\| (onnx|pytorch) \|", first, re.MULTILINE)) == len(outcome.report.cases)
    for title in ("Latency", "Differences from PyTorch", "This machine's roofline", "Targets", "Conditions"):
        assert f"## {title}" in text


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.foreign: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.foreign += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in ("meta", "circle", "line", "rect", "polyline", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("circle", "line", "rect", "polyline", "path"):
            assert self.open.pop() == tag


def test_html_is_one_file_with_plots_and_without_scripts(outcome: Outcome) -> None:
    text = outcome.paths[2].read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.foreign == []
    assert "script" not in page.tags
    assert "prefers-color-scheme: dark" in text
    for title in ("Speed against fidelity", "Latency of whole requests", "Roofline", "Time against batch size"):
        assert f"<h3>{title}</h3>" in text


def test_html_escapes_what_it_shows(outcome: Outcome, tmp_path: Path) -> None:
    from benchmarks.page import as_html

    report = replace(outcome.report, command="<b>bold</b>", unavailable={"<i>": "& why"})
    text = as_html(report)
    assert "<b>bold" not in text
    assert "<i>" not in text


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"before")
    (tmp_path / "report.md").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_atomically(tmp_path / "report.md", b"after")
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, "report.md"]


def test_ctrl_c_keeps_what_was_measured_and_says_what_is_missing(tmp_path: Path, plain_bundle: Path) -> None:
    command = ["benchmark", str(plain_bundle), "--quick", "--formats", "onnx", "--threads", "1", "--out", str(tmp_path)]
    program = "from t2i_engine.cli import main; main()"
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {program}"  # ignored behind &
    with subprocess.Popen(
        [sys.executable, "-c", program, *command, "--minutes", "30"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        assert any("round 3" in line for line in lines)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        process.wait(60)
    report = read_report(tmp_path / FILE)
    assert process.returncode == 130, rest
    assert {one.case.target for one in report.cases} == {"pytorch", "onnx"}
    assert report.missing == ("the remaining rounds",)
    assert "interrupted" in rest


def test_a_case_that_crashes_fails_the_run_and_is_reported(
    tmp_path: Path, plain_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashed(case: Case, fixtures: Fixtures, on_progress: OnProgress) -> StaticMetrics:
        raise WorkerError(f"{case.target} has no kernel for Conv")

    monkeypatch.setattr("benchmarks.benchmark.measure_static", crashed)
    arguments = ["--quick", "--formats", "onnx", "--threads", "1", "--batch-sizes", "1", "--out", str(tmp_path)]
    found = CliRunner().invoke(main, ["benchmark", str(plain_bundle), *arguments])
    assert found.exit_code == 1, found.output
    reasons = read_report(tmp_path / FILE).unavailable
    assert reasons["onnx on cpu, tiny, batch 1, threads 1"] == "onnx has no kernel for Conv"


def scaled(report: Report, factor: float) -> Report:
    """The report as if every request had taken `factor` times as long."""
    cases = []
    for one in report.cases:
        rounds = tuple(tuple(factor * call for call in calls) for calls in one.request.rounds)
        cases.append(replace(one, request=replace(one.request, rounds=rounds, p50=factor * one.request.p50)))
    return replace(report, cases=tuple(cases))


def bad(*arguments: str) -> str:
    found = CliRunner().invoke(main, ["benchmark", *arguments])
    assert found.exit_code == 2, found.output
    assert len(found.output.strip().splitlines()) == 1, found.output
    return found.output


def test_bad_input_is_one_line(tmp_path: Path, plain_bundle: Path, outcome: Outcome) -> None:
    bundle = str(plain_bundle)
    file = tmp_path / "file"
    file.write_text("{}", encoding="utf-8")
    newer = tmp_path / "newer.json"
    newer.write_bytes(outcome.paths[0].read_bytes().replace(b'{"schema": 3', b'{"schema": 99', 1))
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes(replace(outcome.report, machine=replace(outcome.report.machine, cpu="Z80")).to_json())
    assert "did you mean 'onnx'" in bad(bundle, "--formats", "onxn")
    assert "out of range" in bad(bundle, "--batch-sizes", "0")
    assert "cannot be read" in bad(bundle, "--batch-sizes", "1;4")
    assert "out of range" in bad(bundle, "--threads", "5000")
    assert "exceeds tensorrt-fp16's maximum, 16" in bad(bundle, "--formats", "tensorrt-fp16", "--batch-sizes", "1,32")
    assert "not in the bundle" in bad(bundle, "--formats", "onnx-fp16")
    assert "cannot write" in bad(bundle, "--out", str(file))
    assert "cannot be read" in bad(bundle, "--baseline", str(file))
    assert "cannot be read" in bad(bundle, "--baseline", str(tmp_path / "none.json"))
    assert "schema '99'" in bad(bundle, "--baseline", str(newer))
    assert "another machine" in bad(bundle, "--baseline", str(elsewhere))
    assert "too few" in bad(bundle, "--quality", "1")
    assert "birdz" in bad("birdz")


def test_a_baseline_is_compared_and_a_slowdown_fails(outcome: Outcome, tmp_path: Path, plain_bundle: Path) -> None:
    baseline = tmp_path / "baseline.json"
    baseline.write_bytes(scaled(outcome.report, 1e-3).to_json())
    arguments = ["--quick", "--formats", "onnx", "--threads", "1", "--batch-sizes", "1", "--minutes", "0.01"]
    command = ["benchmark", str(plain_bundle), *arguments, "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(main, [*command, "--baseline", str(baseline), "--max-regression", "9900"])
    assert found.exit_code == 1, found.output
    assert found.stdout.splitlines()[:3] == [
        str(tmp_path / "out" / name) for name in (FILE, "report.md", "report.html")
    ]
    assert found.stdout.splitlines()[-1] == "FAILED: slower by more than both 9900 % and the noise: 2 of 6 timings"
    assert "in the baseline only: onnx on cpu, tiny, batch 2, threads 1" in found.stderr
