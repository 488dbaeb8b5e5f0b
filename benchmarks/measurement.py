"""Timing: each case in a process of its own, warmed up, then all in turn, round after round; and whole processes.

Only one process computes at a time. When the machine drifts, from heat or from other load, all cases suffer alike, and
ratios are taken within rounds. Cases that do not fit into memory together are measured in waves of whole blocks, so a
case always shares its wave with the PyTorch eager it is compared with.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import psutil

from benchmarks.fixtures import Fixtures
from benchmarks.machine import LoadMeter
from benchmarks.report import Quality, Roofline, StaticMetrics
from benchmarks.targets import Case, find_target
from benchmarks.worker import Call

ROUNDS = 12  # the number aimed for
FEWEST_ROUNDS, MOST_ROUNDS = 3, 20  # if time is short; if calls are short
MOST_CALLS = 15  # of one case in one round
COLD_ROUNDS = 5
WARM_UP_SECONDS = 6.0
PAUSE = 0.03  # seconds after an answer: a pool's threads keep spinning for a while, at the next case's expense
MEMORY_RESERVE = 0.1  # of the machine's memory, to stay free when the next block is opened

_ROOT = Path(__file__).parents[1]
_MAIN = "from t2i_engine.cli import main; main()"

OnProgress = Callable[[str], None]


class WorkerError(Exception):
    """A case that failed, with the reason in one line."""


class Worker:
    """The parent's side of benchmarks/worker.py: a process for one case, idle between requests."""

    def __init__(self, scratch: Path, threads: int, caches: str = "") -> None:
        """`caches` is the name of the caches that the process uses."""
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_environment(scratch, threads, caches),
            cwd=scratch,
            encoding="utf-8",
        )

    def ask(self, do: str, **request: Any) -> Any:  # noqa: ANN401  (JSON)
        """Sends a request and waits for the result. Raises `WorkerError` if it fails or the process dies."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
            raise WorkerError(f"the process exited with code {code}" + (f": {lines[-1][:300]}" if lines else ""))
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["found"]

    def close(self) -> None:
        """Kills the process, whatever it is doing: it has nothing to save."""
        self._process.kill()
        self._process.communicate()  # closes the pipes, too
        self._log.close()


@dataclass
class Timed:
    """An opened case and its calls, round by round."""

    case: Case
    worker: Worker
    opened: dict[str, float]
    warm: dict[str, Any]
    rounds: list[list[Call]] = field(default_factory=list)
    peak_memory: int = 0


@dataclass
class Findings:
    """What has been measured so far; an interruption leaves it intact."""

    on_progress: OnProgress
    rooflines: list[Roofline] = field(default_factory=list)
    static: list[StaticMetrics] = field(default_factory=list)
    timed: list[Timed] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    cold: dict[str, list[list[float]]] = field(default_factory=dict)
    """Milliseconds of each command, one per round."""
    quality: list[Quality] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Cases that failed, and why."""

    def fail(self, what: object, reason: object) -> None:
        """Notes that a case failed."""
        self.failed[str(what)] = str(reason)
        self.on_progress(f"failed: {what}: {reason}")


def measure(cases: Sequence[Case], fixtures: Fixtures, seconds: float, findings: Findings) -> None:
    """Times all cases into `findings`, in rounds that take about `seconds`; there are at least three."""
    blocks = [list(block) for _, block in groupby(cases, lambda case: case.block)]
    while blocks:
        wave: list[Timed] = []
        try:
            wave += _open_blocks(blocks, fixtures, findings)
            share = len(wave) / max(1, len(wave) + sum(map(len, blocks)))
            _run_rounds(wave, fixtures, share * seconds, findings)
            seconds -= share * seconds
        finally:
            for timed in wave:
                timed.worker.close()


def _open_blocks(blocks: list[list[Case]], fixtures: Fixtures, findings: Findings) -> Iterator[Timed]:
    """Takes blocks off the list, opens and warms them up, as long as the next one fits into memory."""
    needed = 0.0
    while blocks:
        free = psutil.virtual_memory().available
        if needed and free - 1.5 * needed < MEMORY_RESERVE * psutil.virtual_memory().total:
            findings.on_progress(
                f"{len(blocks)} more blocks of cases do not fit into memory now; they will be measured later"
            )
            return
        for case in blocks.pop(0):
            findings.on_progress(f"warming up {case}")
            try:
                yield _open(case, fixtures)
            except WorkerError as error:
                findings.fail(case, error)
        needed = max(needed, free - psutil.virtual_memory().available)


def _open(case: Case, fixtures: Fixtures) -> Timed:
    worker = Worker(fixtures.scratch, case.threads, case.caches)
    try:
        opened = open_case(worker, case, fixtures)
        warm = worker.ask("warm", captions=fixtures.captions[: case.batch], seconds=WARM_UP_SECONDS)
    except BaseException:
        worker.close()
        raise
    return Timed(case, worker, opened, warm)


def open_case(worker: Worker, case: Case, fixtures: Fixtures) -> dict[str, float]:
    """Has a worker open a case; returns the milliseconds of `importing` and `opening`. Raises `WorkerError`."""
    folder = fixtures.folder(case.network, find_target(case.target))
    opened: dict[str, float] = worker.ask(
        "open", folder=str(folder), target=case.target, device=case.device, threads=case.threads
    )
    return opened


def _run_rounds(wave: list[Timed], fixtures: Fixtures, seconds: float, findings: Findings) -> None:
    """Calls every case in turn until the time is up. An interrupted slice leaves no trace."""
    findings.timed += wave
    slice_ = seconds / ROUNDS / max(1, len(wave))
    counts = {id(one): max(1, min(MOST_CALLS, round(1000 * slice_ / one.warm["milliseconds"]))) for one in wave}
    started, meter, number = time.perf_counter(), LoadMeter(), 0
    while wave and number < MOST_ROUNDS and (number < FEWEST_ROUNDS or time.perf_counter() - started < seconds):
        number += 1
        findings.on_progress(f"round {number}, {time.perf_counter() - started:.0f} of {seconds:.0f} s")
        for one in list(wave):
            try:
                found = one.worker.ask("calls", captions=fixtures.captions[: one.case.batch], count=counts[id(one)])
                one.rounds.append(found["calls"])
                one.peak_memory = found["memory"]
            except WorkerError as error:
                findings.fail(one.case, error)
                wave.remove(one)
                one.worker.close()
            time.sleep(PAUSE)
        findings.loads.append(meter.read())


def measure_cold_starts(findings: Findings, bundle: Path, caption: str, scratch: Path) -> None:
    """Runs whole commands, each once per round; an extra first round warms the system's file cache.

    A command that fails is dropped with a line for `on_progress`.
    """
    main, generate = [sys.executable, "-P", "-c", _MAIN], ["generate", caption, "--out", "cold.png"]
    commands = {
        f"t2i-engine {shlex.join(generate)}": [*main, *generate, "--bundle", str(bundle.absolute())],
        "t2i-engine --version": [*main, "--version"],
        'python -c "import torch"': [sys.executable, "-c", "import torch"],
        'python -c "pass"': [sys.executable, "-c", "pass"],
    }
    for number in range(COLD_ROUNDS + 1):
        findings.on_progress(f"cold start, round {number} of {COLD_ROUNDS}")
        for name, command in list(commands.items()):
            started = time.perf_counter()
            done = subprocess.run(command, cwd=scratch, env=_environment(scratch), capture_output=True, check=False)
            if done.returncode:
                findings.on_progress(f"cold start: {name} failed and was dropped")
                del commands[name]
            elif number:
                findings.cold.setdefault(name, []).append([1000 * (time.perf_counter() - started)])


def _environment(scratch: Path, threads: int | None = None, caches: str = "") -> dict[str, str]:
    """A measured process sees this package and its run's own caches, so that all runs start alike."""
    own = {
        "XDG_CACHE_HOME": str(scratch / "caches" / caches),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no subprocesses, which would be counted and would linger
    }
    found = {**os.environ, **own, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    if threads:
        found["OMP_NUM_THREADS"] = str(threads)
    return found
