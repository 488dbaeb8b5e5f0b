"""Cold starts: whole processes of the command line, beside what Python and PyTorch take to come up."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.processes import environment
from benchmarks.report import ColdStart
from benchmarks.statistics import summarise

_MAIN = "from t2i_engine.cli import main; main()"


Times = dict[str, list[list[float]]]
"""Milliseconds of each command, one for each round."""

GENERATE = "t2i-engine generate"


def measure_cold_starts(
    times: Times, bundle: str, caption: str, rounds: int, scratch: Path, report: Callable[[str], None]
) -> None:
    """Runs each command once per round, in turn, into `times`; a first round only warms the system's file cache.

    A command that fails is left out, and `report` gets a line.
    """
    main, out = [sys.executable, "-P", "-c", _MAIN], str(scratch / "cold.png")
    commands = {
        GENERATE: [*main, "generate", caption, "--bundle", bundle, "--out", out],
        "t2i-engine --version": [*main, "--version"],
        'python -c "import torch"': [sys.executable, "-c", "import torch"],
        'python -c "pass"': [sys.executable, "-c", "pass"],
    }
    for number in range(rounds + 1):
        report(f"cold start, round {number} of {rounds}")
        for name, command in list(commands.items()):
            milliseconds = _run(command, scratch)
            if milliseconds is None:
                report(f"cold start: {name} fails, and is left out")
                del commands[name]
            elif number:
                times.setdefault(name, []).append([milliseconds])


def cold_starts(times: Times, caption: str) -> list[ColdStart]:
    """The figures of the commands; what is generated is `caption`."""
    shown = {GENERATE: f"{GENERATE} {shlex.quote(caption)} --out cold.png"}
    return [ColdStart(name, shown.get(name, name), summarise(found)) for name, found in times.items()]


def _run(command: Sequence[str], scratch: Path) -> float | None:
    started = time.perf_counter()
    done = subprocess.run(command, cwd=scratch, env=environment(scratch), capture_output=True, check=False)
    return 1000 * (time.perf_counter() - started) if done.returncode == 0 else None
