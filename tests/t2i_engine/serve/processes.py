"""Servers as processes, for tests."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple, TypeVar

T = TypeVar("T")

SECONDS = 60.0
COMMAND = [sys.executable, "-m", "t2i_engine", "serve"]
WITH_LIMITS = "import t2i_engine.serve.server as server, t2i_engine.cli as cli; vars(server).update({}); cli.main()"


def eventually(condition: Callable[[], T]) -> T:
    """The first true value of `condition`, which may take `SECONDS`."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


class Server(NamedTuple):
    process: subprocess.Popen[str]
    port: int
    lines: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def served(*arguments: object, limits: dict[str, float] | None = None) -> Iterator[Server]:
    """A server on a free port; what it prints is collected. `limits` replace constants of `t2i_engine.serve.server`."""
    start = COMMAND if limits is None else [sys.executable, "-c", WITH_LIMITS.format(limits), "serve"]
    process = subprocess.Popen([*start, "--port", "0", *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=_collect, args=(process.stderr, lines), daemon=True)
    reader.start()
    try:
        eventually(lambda: process.poll() is not None or any(line.startswith("listening on") for line in lines))
        listening = [line for line in lines if line.startswith("listening on")]
        assert listening, lines
        yield Server(process, int(listening[0].rpartition(":")[2]), lines)
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        finally:
            process.kill()
            reader.join(SECONDS)


def _collect(stream: IO[str], lines: list[str]) -> None:
    lines.extend(line.rstrip("\n") for line in stream)
