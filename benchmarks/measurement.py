"""Timing: every case in a process of its own, warmed up, then all in turn, round after round.

Only one process computes at a time. A machine that drifts, from heat or from others, hurts all cases alike, and a ratio
is taken between calls of one round. Cases that do not fit into memory together are measured in several waves of whole
blocks, so that a case and the PyTorch eager that it is compared with are always in one wave.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import LoadMeter
from benchmarks.material import Material
from benchmarks.processes import PAUSE, Worker, WorkerError
from benchmarks.report import Case
from benchmarks.rows import find_row
from benchmarks.worker import Call

ROUNDS = 12  # aimed at
FEWEST_ROUNDS, MOST_ROUNDS = 3, 20  # where time is short, or calls are
MOST_CALLS = 15  # of one case in one round
WARM_UP_SECONDS = 6.0
MEMORY_KEPT = 0.1  # of the machine's, which the next block must leave free

Report = Callable[[str], None]


@dataclass
class Timed:
    """A case that is open, or was, and its calls round by round."""

    case: Case
    worker: Worker
    opened: dict[str, float]
    warm: dict[str, Any]
    rounds: list[list[Call]] = field(default_factory=list)
    peak_memory: int = 0


@dataclass
class Findings:
    """What has been measured so far; an interruption leaves it as it is."""

    timed: list[Timed] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Cases that failed, and why."""
    loads: list[float] = field(default_factory=list)


def measure(
    cases: Sequence[Case], material: Material, seconds: float, scratch: Path, found: Findings, report: Report
) -> None:
    """Times all cases into `found`; the rounds take about `seconds`, and three are gone through in any case."""
    blocks = [list(block) for _, block in groupby(cases, lambda case: case.block)]
    while blocks:
        wave: list[Timed] = []
        try:
            wave += _opened(blocks, material, scratch, found, report)
            rest = sum(map(len, blocks))
            share = len(wave) / max(1, len(wave) + rest)
            _go_through(wave, material, share * seconds, found, report)
            seconds -= share * seconds
        finally:
            for timed in wave:
                timed.worker.close()


def _opened(
    blocks: list[list[Case]], material: Material, scratch: Path, found: Findings, report: Report
) -> Iterator[Timed]:
    """Opens and warms up block after block, taking them off the list, as long as the next one fits into memory."""
    needed = 0.0
    while blocks:
        free = psutil.virtual_memory().available
        if needed and free - 1.5 * needed < MEMORY_KEPT * psutil.virtual_memory().total:
            report(f"{len(blocks)} groups of cases do not fit into memory besides: they follow in another wave")
            return
        for case in blocks.pop(0):
            report(f"warming up {case}")
            try:
                yield _open(case, material, scratch)
            except WorkerError as error:
                found.failed[str(case)] = str(error)
                report(f"failed: {case}: {error}")
        needed = max(needed, free - psutil.virtual_memory().available)


def _open(case: Case, material: Material, scratch: Path) -> Timed:
    worker = Worker(scratch, case.threads)
    try:
        folder = material.folder(case.network, find_row(case.row))
        opened = worker.ask("open", folder=str(folder), row=case.row, device=case.device, threads=case.threads)
        warm = worker.ask("warm", captions=material.captions[: case.batch], seconds=WARM_UP_SECONDS)
    except BaseException:
        worker.close()
        raise
    return Timed(case, worker, opened, warm)


def _go_through(wave: list[Timed], material: Material, seconds: float, found: Findings, report: Report) -> None:
    """Calls every case in turn until the time is up. What is in the middle of a round stays out of it."""
    found.timed += wave
    slice_ = seconds / ROUNDS / max(1, len(wave))
    counts = {id(one): max(1, min(MOST_CALLS, round(1000 * slice_ / one.warm["milliseconds"]))) for one in wave}
    started, meter, number = time.perf_counter(), LoadMeter(_own_seconds(wave)), 0
    while wave and number < MOST_ROUNDS and (number < FEWEST_ROUNDS or time.perf_counter() - started < seconds):
        number += 1
        report(f"round {number}, {time.perf_counter() - started:.0f} of {seconds:.0f} s")
        for one in list(wave):
            try:
                calls = one.worker.ask("calls", captions=material.captions[: one.case.batch], count=counts[id(one)])
                one.rounds.append(calls)
                one.peak_memory = one.worker.ask("memory")
            except WorkerError as error:
                found.failed[str(one.case)] = str(error)
                wave.remove(one)
                one.worker.close()
            time.sleep(PAUSE)
        found.loads.append(meter.read(_own_seconds(wave)))


def _own_seconds(wave: Sequence[Timed]) -> float:
    times = os.times()
    return times.user + times.system + sum(one.worker.seconds() for one in wave)
