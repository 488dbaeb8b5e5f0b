"""README's table of speeds is what docs/benchmarks/report.json says."""

from benchmarks.benchmark import Outcome
from benchmarks.readme import BEGIN, END, NO_GPU, README, main, section, updated


def test_readme_agrees_with_the_report() -> None:
    assert main(["--check"]) == 0, "run: python -m benchmarks.readme"


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
