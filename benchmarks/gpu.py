"""`python -m benchmarks.gpu`: every TensorRT format of a bundle on this machine's GPU, as one file to send back.

Each step is a command of the project in a process of its own: one that fails or crashes becomes part of the report, and
the others still run.
"""

import argparse
import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.machine import describe_machine
from t2i_engine.backend_selection import backend_status
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, OutputError, UserError, quoted
from t2i_engine.files import write_atomically
from t2i_engine.formats import FORMATS
from t2i_engine.tensorrt.engines import cached_records
from training.provenance import working_commit

LONGEST_STEP = 1_800.0
"""Seconds."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and all that it printed."""

    command: str
    code: int | None
    """None: it took too long; negative: the signal that ended it."""
    seconds: float
    output: str

    @property
    def result(self) -> str:
        """The end in a word or two."""
        if self.code is None:
            return "timed out"
        return "done" if self.code == 0 else f"exit {self.code}" if self.code > 0 else f"crashed, signal {-self.code}"


def planned(bundle: Path, formats: Sequence[str], out: Path) -> list[list[str]]:
    """The commands' arguments: each format is added to a copy of a bundle, built, verified and measured."""
    each = [[verb, str(bundle), "--formats", name] for verb in ("export", "build") for name in formats]
    options = ["--quick", "--batch-sizes", "1,4,16", "--minutes", "3", "--out", str(out)]
    return [["info"], *each, ["verify", str(bundle)], ["benchmark", str(bundle), *options]]


def run_step(command: Sequence[str], shown: str, longest: float = LONGEST_STEP) -> Outcome:
    """Runs a command until it ends, however that is; `shown` stands for it in the report."""
    start = time.perf_counter()
    code: int | None = None
    with tempfile.TemporaryFile() as printed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = subprocess.run(command, stdout=printed, stderr=subprocess.STDOUT, timeout=longest).returncode
        printed.seek(0)
        output = printed.read().decode(errors="replace")
    return Outcome(shown, code, time.perf_counter() - start, output)


def as_markdown(bundle: str, outcomes: Sequence[Outcome]) -> str:
    """The report: the machine, how every step ended, and what it printed."""
    machine = describe_machine()
    gpus = [", ".join(f"{name} {value}" for name, value in gpu.items()) for gpu in machine.gpus] or ["no GPU"]
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [f"# TensorRT formats of `{bundle}`", "", "`python -m benchmarks.gpu`", "", *gpus, ""]
    lines += [
        f"{machine.identity}; {machine.system}; Python {machine.python}; {versions}; "
        f"commit {working_commit() or 'unknown'}."
    ]
    lines += ["", "| step | result | time, s |", "| --- | --- | --- |"]
    lines += [f"| `{one.command}` | {one.result} | {one.seconds:.0f} |" for one in outcomes]
    for one in outcomes:
        lines += ["", f"## {one.command}", "", "````", one.output.rstrip(), "````"]
    return "\n".join([*lines, ""])


def run(name: str, out: Path) -> bool:
    """Tries every TensorRT format that this machine has the packages for, and writes the report.

    Returns whether every step succeeded. Raises a `UserError` before anything runs.
    """
    lacks = {row.name: backend_status(row.backend).lacks for row in FORMATS if row.backend.startswith("tensorrt")}
    formats = [format_name for format_name, missing in lacks.items() if missing is None]
    if not formats:
        raise BackendError("; ".join(filter(None, dict.fromkeys(lacks.values()))))
    bundle = Bundle.open(name)
    _check_writable(out)
    with tempfile.TemporaryDirectory(prefix="t2i-engine-") as folder:
        copy, measured = Path(folder) / bundle.name, Path(folder) / "benchmark"
        shutil.copytree(bundle.folder, copy, copy_function=shutil.copyfile)
        outcomes = []
        for arguments in planned(copy, formats, measured):
            shown = shlex.join(["t2i-engine", *arguments]).replace(f"{folder}/", "")
            print(shown, file=sys.stderr)
            ended = run_step([sys.executable, "-m", "t2i_engine", *arguments], shown)
            outcomes.append(replace(ended, output=ended.output.replace(f"{folder}/", "")))
            print(f"  {outcomes[-1].result}, {outcomes[-1].seconds:.0f} s", file=sys.stderr)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as report:
            report.writestr("report.md", as_markdown(bundle.name, outcomes))
            for file in sorted(measured.glob("*")):
                report.write(file, f"benchmark/{file.name}")
            for engine, record in cached_records(Bundle.open(copy)):
                report.writestr(f"engines/{Path(engine).name}.json", record.to_json())
    write_atomically(out, content.getvalue(), "choose another --out")
    return all(one.code == 0 for one in outcomes)


def _check_writable(file: Path) -> None:
    folder = file.absolute().parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)) or file.is_dir():
        raise OutputError(f"cannot write {quoted(str(file), 200)}; choose another --out")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the report's path; exits with 1 if a step failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Try TensorRT on this machine's GPU.")
    parser.add_argument("--bundle", default="birds", metavar="BUNDLE", help="name or folder (default: birds)")
    parser.add_argument("--out", type=Path, default=Path("t2i-gpu-report.zip"), metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        succeeded = run(options.bundle, options.out)
    except UserError as error:
        parser.exit(2, f"error: {error.message}\n")
    print(options.out)
    sys.exit(0 if succeeded else 1)


if __name__ == "__main__":
    main()
