"""The parent's side of benchmarks/worker.py: starts a process, asks it, and ends it."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import psutil

ROOT = Path(__file__).parents[1]
PAUSE = 0.03  # seconds after an answer: threads of a pool spin on for a while, at the next case's cost


class WorkerError(Exception):
    """A case that failed, with the reason in one line."""


def environment(scratch: Path, threads: int | None = None) -> dict[str, str]:
    """What a measured process sees: this package, and caches of this run's own, so that every run starts alike."""
    own = {
        "XDG_CACHE_HOME": str(scratch / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no processes of its own, which would count and stay
    }
    found = {**os.environ, **own, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if threads:
        found["OMP_NUM_THREADS"] = str(threads)
    return found


class Worker:
    """A process for one case. It stays, idle, between requests."""

    def __init__(self, scratch: Path, threads: int) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(scratch, threads),
            cwd=scratch,
            encoding="utf-8",
        )
        self._usage = psutil.Process(self._process.pid)

    def ask(self, do: str, **request: Any) -> Any:  # noqa: ANN401  (JSON)
        """Sends a request and waits for what it finds. Raises `WorkerError` where it fails or the process dies."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(self._last_words())
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["found"]

    def seconds(self) -> float:
        """The processor time that it has used so far."""
        try:
            times = self._usage.cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system

    def close(self) -> None:
        """Ends the process, whatever it is doing: it has nothing to keep."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):  # a request that it did not read
                    pipe.close()
        self._log.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return f"the process ended with {code}" + (f": {lines[-1][:300]}" if lines else "")
