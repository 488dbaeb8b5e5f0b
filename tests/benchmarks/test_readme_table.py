"""README's table of speeds is what docs/benchmarks/report.json says."""

from pathlib import Path

import pytest

from benchmarks.benchmark import Outcome
from benchmarks.readme import BEGIN, END, NO_GPU, README, main, section, updated


def test_readme_agrees_with_the_report() -> None:
    assert main(["--check"]) == 0, "run: python -m benchmarks.readme"


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--chek", 2)])
def test_only_the_plain_command_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, code: int
) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"{BEGIN}\nold\n{END}\n", encoding="utf-8")
    monkeypatch.setattr("benchmarks.readme.README", file)
    with pytest.raises(SystemExit) as exit_:
        main([argument])
    assert exit_.value.code == code
    assert "old" in file.read_text(encoding="utf-8")
    assert main([]) == 0
    assert "old" not in file.read_text(encoding="utf-8")
    assert main(["--check"]) == 0


def test_gpus_are_said_to_be_unmeasured() -> None:
    assert NO_GPU in README.read_text(encoding="utf-8")


def test_a_report_becomes_a_table_between_the_markers(outcome: Outcome) -> None:
    readme = updated(f"before\n{BEGIN}\nold\n{END}\nafter\n", outcome.report)
    assert readme.startswith("before\n")
    assert readme.endswith("\nafter\n")
    assert "old" not in readme
    assert section(outcome.report).count("| `onnx` |") == 1
    assert updated(readme, outcome.report) == readme
    assert NO_GPU in readme
