"""The report from other people's GPUs: its commands exist, and a step that fails does not end it."""

import sys
from pathlib import Path

import click
import pytest

import benchmarks.gpu
from benchmarks.gpu import as_markdown, main, planned, run_step
from t2i_engine.backends.base import Status
from t2i_engine.cli import main as cli


def test_every_step_is_a_command_with_options_that_exist(tmp_path: Path) -> None:
    plans = planned(tmp_path / "birds", ["tensorrt-fp16", "tensorrt-rtx-fp32"], tmp_path / "out")
    assert [plan[0] for plan in plans] == ["info", "export", "export", "build", "build", "verify", "benchmark"]
    for name, *arguments in plans:
        command = cli.get_command(click.Context(cli), name)
        assert command
        assert command.make_context(name, list(arguments)).params


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("print('built')", "done"),
        ("print('built'); raise SystemExit(2)", "exit 2"),
        ("import os; print('built', flush=True); os.kill(os.getpid(), 11)", "crashed, signal 11"),
        ("import time; print('built', flush=True); time.sleep(60)", "timed out"),
    ],
)
def test_however_a_step_ends_the_report_says_so_and_has_what_it_printed(code: str, result: str) -> None:
    outcome = run_step([sys.executable, "-c", code], "t2i-engine build", 60 if result == "done" else 3)
    assert (outcome.result, outcome.output) == (result, "built\n")
    report = as_markdown("birds", [outcome])
    assert f"| `t2i-engine build` | {result} |" in report
    assert "````\nbuilt\n````" in report


def test_without_tensorrt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(benchmarks.gpu, "backend_status", lambda backend: Status(None, f"pip install {backend}"))
    with pytest.raises(SystemExit) as ended:
        main(["--out", str(tmp_path / "report.zip")])
    assert ended.value.code == 2
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.gpu, "backend_status", lambda _: Status("10.0", None))
    with pytest.raises(SystemExit) as ended:
        main(["--out", str(tmp_path / "none" / "report.zip")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("choose another --out\n")
