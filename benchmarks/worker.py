"""One case in a process of its own, so that its memory is its own: `python -m benchmarks.worker`, driven by JSON lines.

Each line of standard input is a request, `{"do": NAME, …}`, each line of standard output the answer to one. The process
ends with its input. Nothing is imported here that the case itself does not need.
"""

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.rows import find_row
from t2i_engine.backend_selection import BackendSelection
from t2i_engine.backends.base import Array, Runner
from t2i_engine.bundle import Bundle
from t2i_engine.engine import Engine
from t2i_engine.errors import UserError
from t2i_engine.formats import GENERATOR, TEXT_ENCODER

STEADY = 0.05  # warm where three calls take as long, within this, as the three before them
SEED = 0

_PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "pytorch": "torch"}

Call = tuple[float, float, float]
"""Milliseconds in the text encoder, in the generator, and of the whole request."""


class TimedRunner:
    """A runner that adds up the time it takes. Results are NumPy arrays, so that a GPU is done when `run` returns."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.milliseconds = runner, 0.0

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """As the runner's own."""
        started = time.perf_counter()
        computed = self.runner.run(feeds, outputs)
        self.milliseconds += 1000 * (time.perf_counter() - started)
        return computed


class OpenCase:
    """An engine for one row, as the user's, with its runners timed."""

    def __init__(self, folder: str, row: str, device: str, threads: int) -> None:
        target = find_row(row)
        self.row, self.device, self.threads = target.format, device, threads
        started = time.perf_counter()
        import_module(_PACKAGES.get(self.row.backend, "t2i_engine.tensorrt"))
        imported = time.perf_counter()
        self.bundle = Bundle.open(Path(folder))
        self.text_encoder, self.generator = (
            TimedRunner(target.open(self.bundle, graph, device, threads)) for graph in (TEXT_ENCODER, GENERATOR)
        )
        choice = BackendSelection(self.row, device, "")
        self.engine = Engine(
            self.bundle.sizes, self.bundle.tokenizer(), self.text_encoder, self.generator, self.bundle, choice
        )
        self.importing, self.opening = 1000 * (imported - started), 1000 * (time.perf_counter() - imported)

    def call(self, captions: Sequence[str]) -> Call:
        """One whole request: captions in, PNG files out."""
        self.text_encoder.milliseconds = self.generator.milliseconds = 0.0
        started = time.perf_counter()
        for picture in self.engine.generate_all(captions, [SEED], batch_size=len(captions)):
            picture.to_png()
        whole = 1000 * (time.perf_counter() - started)
        return self.text_encoder.milliseconds, self.generator.milliseconds, whole

    def warm(self, captions: Sequence[str], seconds: float) -> dict[str, Any]:
        """Calls until calls take equally long, for `seconds` at most; the first call apart."""
        first = self.call(captions)[2]
        times: list[float] = []
        started, steady = time.perf_counter(), False
        while not steady and (len(times) < 2 or time.perf_counter() - started < seconds):
            times.append(self.call(captions)[2])
            last, before = times[-3:], times[-6:-3]
            steady = len(times) >= 6 and abs(statistics.median(last) / statistics.median(before) - 1) < STEADY
        return {"first": first, "calls": len(times), "steady": steady, "milliseconds": statistics.median(times[-3:])}

    def differences(self, reference: str, batch: int) -> dict[str, float | None]:
        """The largest differences from PyTorch's pictures in the file `reference`, drawn `batch` at once."""
        from benchmarks.material import read_cases
        from t2i_engine.parity import OpenFormat, as_parity, compare

        row = replace(self.row, tolerance=replace(self.row.tolerance, psnr=0.0))  # PSNR of every row
        opened = OpenFormat(row, {TEXT_ENCODER: self.text_encoder, GENERATOR: self.generator})
        worst = asdict(as_parity(compare([opened], read_cases(Path(reference), batch), REFERENCE_IS), row).worst)
        return {
            name: value if value is not None and abs(value) < float("inf") else None for name, value in worst.items()
        }

    def operators(self, reference: str, batch: int) -> list[tuple[str, float]]:
        """Milliseconds per kind of operator in one call of the generator; nothing where the backend does not tell."""
        from benchmarks.material import read_cases
        from benchmarks.profiles import PROFILERS

        profile = PROFILERS.get(self.row.backend)
        if profile is None or self.device != "cpu":
            return []
        feeds = next(case.feeds for case in read_cases(Path(reference), batch) if case.graph == GENERATOR)
        return profile(self.bundle, self.row, feeds, self.threads)


REFERENCE_IS = "PyTorch"


def peak_memory() -> int:
    """The most memory, in bytes, that this process has ever had resident."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        # Not ru_maxrss, which on Linux begins with what the process had before it became this program.
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Handler:
    """Answers requests; the case is opened by the first."""

    def __init__(self) -> None:
        self.case: OpenCase | None = None

    def open(self, folder: str, row: str, device: str, threads: int) -> dict[str, float]:
        """Opens the case."""
        self.case = OpenCase(folder, row, device, threads)
        return {"importing": self.case.importing, "opening": self.case.opening}

    def warm(self, captions: list[str], seconds: float) -> dict[str, Any]:
        """See `OpenCase.warm`."""
        return self._opened.warm(captions, seconds)

    def calls(self, captions: list[str], count: int) -> list[Call]:
        """`count` calls, one after the other."""
        return [self._opened.call(captions) for _ in range(count)]

    def differences(self, reference: str, batch: int) -> dict[str, float | None]:
        """See `OpenCase.differences`."""
        return self._opened.differences(reference, batch)

    def operators(self, reference: str, batch: int) -> list[tuple[str, float]]:
        """See `OpenCase.operators`."""
        return self._opened.operators(reference, batch)

    def memory(self) -> int:
        """See `peak_memory`."""
        return peak_memory()

    def limits(self, device: str, threads: int) -> dict[str, float | None]:
        """See benchmarks/limits.py."""
        from benchmarks.limits import measure_limits

        return measure_limits(device, threads)

    @property
    def _opened(self) -> OpenCase:
        assert self.case is not None
        return self.case


def serve(requests: Iterator[str], answer: Callable[[str], object]) -> None:
    """Answers one line after the other; what goes wrong is an answer too."""
    handler = Handler()
    for line in requests:
        request = json.loads(line)
        try:
            found: dict[str, Any] = {"found": getattr(handler, request.pop("do"))(**request)}
        except UserError as error:
            found = {"error": error.message}
        except Exception as error:  # whatever a backend raises: the row is reported with it
            found = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
        answer(json.dumps(found))


def main() -> None:
    """Serves standard input. What libraries print goes to standard error, and Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        serve(iter(sys.stdin), lambda line: print(line, file=answers, flush=True))


if __name__ == "__main__":
    main()
