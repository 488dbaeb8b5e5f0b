"""`t2i-engine serve` as a process: started, watched and ended."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

import psutil

from benchmarks.load import Load, closed_loop
from t2i_engine.errors import UserError

SECONDS_TO_WAIT = 60.0
"""For a server to start, or to end."""


@dataclass(frozen=True)
class Resources:
    """The resources that a server holds."""

    memory: float
    """MiB."""
    files: int
    threads: int


@dataclass
class Server:
    """A server's process, and the lines that it printed."""

    process: subprocess.Popen[str]
    started: float
    port: int = 0
    seconds_to_ready: float = 0.0
    lines: list[str] = field(default_factory=list)

    def load(self, requests: Sequence[bytes], concurrency: int, seconds: float) -> Load:
        """A load from this many clients."""
        return closed_loop(self.port, requests, concurrency, lambda _, elapsed: elapsed < seconds)

    def resources(self) -> Resources:
        """What the process and its replicas hold now."""
        main = psutil.Process(self.process.pid)
        held = [main, *main.children(recursive=True)]
        return Resources(
            sum(process.memory_info().rss for process in held) / 2**20,
            sum(process.num_fds() for process in held),
            sum(process.num_threads() for process in held),
        )

    def replicas(self) -> list[psutil.Process]:
        """The processes that draw for it."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@contextmanager
def served(*arguments: object) -> Iterator[Server]:
    """A server on a free port. Raises `UserError` if it does not start."""
    command = [sys.executable, "-m", "t2i_engine", "serve", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    server = Server(process, time.perf_counter())
    ready = threading.Event()
    assert process.stderr is not None
    reader = threading.Thread(target=_read, args=(process.stderr, server, ready), daemon=True)
    reader.start()
    try:
        if not ready.wait(SECONDS_TO_WAIT) or not server.port:
            raise UserError("the server did not start: " + " ".join(server.lines[-3:]))
        yield server
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_WAIT)
        process.kill()
        reader.join()


def _read(stream: IO[str], server: Server, ready: threading.Event) -> None:
    for line in stream:
        server.lines.append(line.rstrip("\n"))
        if found := re.match(r"listening on .*:(\d+)$", line):
            server.seconds_to_ready = time.perf_counter() - server.started
            server.port = int(found[1])
            ready.set()
    ready.set()
