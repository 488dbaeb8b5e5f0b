"""What `t2i-engine benchmark` does: all that can be wrong is said first, then it measures, writes and compares."""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import baseline
from benchmarks.benchmark import benchmark, network_of
from benchmarks.machine import describe_machine
from benchmarks.markdown import as_markdown
from benchmarks.page import as_html
from benchmarks.plan import Options, make_plan
from benchmarks.quality import check_quality
from benchmarks.report import FILE, Report, read_report, write_files
from benchmarks.tables import summary
from t2i_engine.bundle import Bundle
from t2i_engine.errors import OptionError, OutputError, quoted


@dataclass(frozen=True)
class Comparison:
    """An earlier report, and how much slower a case may be, in percent."""

    file: Path
    max_regression: float
    anyway: bool


@dataclass(frozen=True)
class Done:
    """What was written, what is to be printed, and how it ended."""

    report: Report
    paths: Sequence[Path]
    lines: Sequence[str]
    failed: bool
    interrupted: bool


def run(
    name: str,
    options: Options,
    out: Path,
    comparison: Comparison | None,
    quality: tuple[str, int] | None,
    command: str,
    say: Callable[[str], None],
) -> Done:
    """Measures a bundle and writes its reports. Raises a `UserError` before anything is measured."""
    _check_writable(out)
    before = None
    if comparison:
        if not (math.isfinite(comparison.max_regression) and comparison.max_regression >= 0):
            raise OptionError(f"--max-regression {comparison.max_regression:g} is out of range; 0 or more expected")
        before = read_report(comparison.file, comparison.anyway)
    bundle = Bundle.open(name)
    if before and comparison:
        for problem in baseline.check_comparable(before, describe_machine(), network_of(bundle), comparison.anyway):
            say(f"compared all the same: {problem}")
    plan = make_plan(bundle, options)
    if quality:
        check_quality(bundle, *quality)
    for row, why in plan.unavailable.items():
        say(f"not measured: {row}: {why}")
    report = benchmark(bundle, plan, quality, _without_paths(command), say)
    for line in summary(report):
        say(line)
    for warning in report.warnings:
        say(f"warning: {warning}")
    paths = write_files(out, {FILE: report.to_json()})  # before anything is made of it that could fail
    paths += write_files(out, {"report.md": as_markdown(report).encode(), "report.html": as_html(report).encode()})
    lines, failed = [], False
    if before and comparison:
        found = baseline.changes(before, report)
        lines = baseline.as_lines(found, comparison.max_regression)
        for case in baseline.not_compared(before, report):
            say(f"in the baseline only: {case}")
        failed = not found or any(one.is_regression(comparison.max_regression) for one in found)
    return Done(report, paths, lines, failed, bool(report.missing))


def _check_writable(folder: Path) -> None:
    """Raises `OutputError` where it is plain already that the folder cannot be written."""
    shown = quoted(str(folder), 200)
    try:
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise OutputError(
                f"cannot write to {shown} ({nearest} is no folder that can be written); choose another --out"
            )
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write to {shown} ({reason}); choose another --out") from None


def _without_paths(command: str) -> str:
    """The command without folders of this machine: a report is to be shown to others."""
    return re.sub(r"(?<=[\s=])'?/\S*/", "", command)
