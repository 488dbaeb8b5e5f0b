"""One case in a process of its own, so that its memory is its own: `python -m benchmarks.worker`, driven by JSON lines.

Each line of standard input is a request, `{"do": NAME, …}`, each line of standard output its answer. The process ends
with its input. It imports nothing that its case does not need.
"""

import json
import math
import os
import re
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from benchmarks.machine import measure_peaks
from benchmarks.targets import find_target
from t2i_engine.backend_selection import BackendSelection
from t2i_engine.backends import find_backend
from t2i_engine.backends.base import Array, Runner
from t2i_engine.bundle import Bundle
from t2i_engine.engine import Engine
from t2i_engine.errors import ParityError, UserError
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Differences
from t2i_engine.pictures import Picture, in_threads

STEADY = 0.05  # warm once three calls take as long, within this fraction, as the three before
SEED = 0

Call = tuple[float, float, float]
"""Milliseconds in the text encoder, in the generator, and of the whole request."""


class TimedRunner:
    """A runner that adds up the time it takes. Results are NumPy arrays, so a GPU has finished when `run` returns."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.milliseconds = runner, 0.0

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """As the runner's own."""
        started = time.perf_counter()
        computed = self.runner.run(feeds, outputs)
        self.milliseconds += 1000 * (time.perf_counter() - started)
        return computed


class OpenCase:
    """A user's engine for one target, with its runners timed."""

    def __init__(self, folder: str, target: str, device: str, threads: int) -> None:
        opened = find_target(target)
        self.row, self.device, self.threads = opened.format, device, threads
        started = time.perf_counter()
        for module in find_backend(self.row.backend).IMPORTS:
            import_module(module)
        imported = time.perf_counter()
        bundle = self.bundle = Bundle.open(Path(folder))
        self.text_encoder, self.generator = (
            TimedRunner(opened.open(bundle, graph, device, threads)) for graph in (TEXT_ENCODER, GENERATOR)
        )
        runners = self.text_encoder, self.generator
        self.engine = Engine(bundle.sizes, bundle.tokenizer(), *runners, bundle, BackendSelection(self.row, device, ""))
        self.importing, self.opening = 1000 * (imported - started), 1000 * (time.perf_counter() - imported)

    def call(self, captions: Sequence[str]) -> Call:
        """One whole request: captions in, PNG files out."""
        self.text_encoder.milliseconds = self.generator.milliseconds = 0.0
        started = time.perf_counter()
        for _ in in_threads(self.engine.generate_all(captions, [SEED], batch_size=len(captions)), Picture.to_png):
            pass
        whole = 1000 * (time.perf_counter() - started)
        return self.text_encoder.milliseconds, self.generator.milliseconds, whole

    def calls(self, captions: Sequence[str], count: int) -> dict[str, Any]:
        """`count` calls, one after the other, and the process's peak memory so far."""
        return {"calls": [self.call(captions) for _ in range(count)], "memory": peak_memory()}

    def warm(self, captions: Sequence[str], seconds: float) -> dict[str, Any]:
        """Calls until call times settle, for `seconds` at most; the first call is reported separately."""
        first = self.call(captions)[2]
        times: list[float] = []
        started, steady = time.perf_counter(), False
        while not steady and (len(times) < 2 or time.perf_counter() - started < seconds):
            times.append(self.call(captions)[2])
            last, before = times[-3:], times[-6:-3]
            steady = len(times) >= 6 and abs(statistics.median(last) / statistics.median(before) - 1) < STEADY
        return {"first": first, "calls": len(times), "steady": steady, "milliseconds": statistics.median(times[-3:])}

    def differences(self, expected: str, batch: int) -> dict[str, float]:
        """The largest differences from PyTorch's pictures in the file `expected`, drawn `batch` at a time."""
        from benchmarks.fixtures import read_cases
        from t2i_engine.parity import OpenFormat, as_parity, compare

        row = replace(self.row, tolerance=Differences(psnr=0.0))  # PSNR for every target, but no shares
        opened = OpenFormat(row, {TEXT_ENCODER: self.text_encoder, GENERATOR: self.generator})
        findings = compare([opened], read_cases(Path(expected), batch), "PyTorch")
        if not all(math.isfinite(one.difference) for one in findings):
            raise ParityError("it draws NaN, or pictures of another shape")
        return asdict(as_parity(findings, row).worst)

    def operators(self, expected: str, batch: int) -> dict[str, float]:
        """Milliseconds per kind of operator in one call of the generator, longest first, if the backend has them."""
        from benchmarks.fixtures import read_cases

        profile = getattr(find_backend(self.row.backend), "profile", None)
        if profile is None or self.device != "cpu":
            return {}
        feeds = next(case.feeds for case in read_cases(Path(expected), batch) if case.graph == GENERATOR)
        sums: dict[str, float] = defaultdict(float)
        for kind, milliseconds in profile(self.bundle, self.row, feeds, self.threads):
            sums[kind] += milliseconds
        return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


def peak_memory() -> int:
    """The process's peak resident memory in bytes."""
    if sys.platform == "linux":  # where ru_maxrss starts with the memory of the process that executed this program
        kilobytes = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
        return int(kilobytes[1]) << 10 if kilobytes else 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def serve(requests: Iterable[str], answers: IO[str]) -> None:
    """Answers line by line; a case is opened before it is asked for anything. A failure is also an answer."""
    case: OpenCase | None = None
    for line in requests:
        request = json.loads(line)
        do = request.pop("do")
        try:
            if do == "open":
                case = OpenCase(**request)
                found: Any = {"importing": case.importing, "opening": case.opening}
            else:
                found = measure_peaks(**request) if do == "peaks" else getattr(case, do)(**request)
            answer = {"found": found}
        except Exception as error:  # whatever a backend raises: the report gives it as the reason
            reason = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            answer = {"error": " ".join(reason.split())[:500]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what libraries print goes to standard error
        serve(sys.stdin, answers)
