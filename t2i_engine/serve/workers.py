"""Workers: threads that take pictures from the queue, and draw them in this process or in one that may be replaced."""

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from t2i_engine.backend_selection import build_needed
from t2i_engine.engine import MANY, Engine
from t2i_engine.errors import BackendError, BundleError, UserError
from t2i_engine.formats import GENERATOR, TEXT_ENCODER
from t2i_engine.parity import OpenFormat, compare
from t2i_engine.picture_reference import needed_picture_reference, sentence_reach
from t2i_engine.pictures import Picture, Pixels
from t2i_engine.reference import read_reference
from t2i_engine.serve.queue import Ask, Drawn, Job, Queue

_log = logging.getLogger(__name__)

THREADS = 1
"""Of each run: several runs draw at once."""
SECONDS_TO_START = 60.0
SECONDS_TO_DRAW = 60.0
SECONDS_TO_STOP = 5.0
SECONDS_BETWEEN_STARTS = 1.0
NICENESS = 5
"""Of threads that draw, relative to the server's own: only root may lower it."""


class WorkerDied(Exception):  # noqa: N818
    """A worker's process ended, or hangs, while it drew."""


@dataclass(frozen=True)
class EngineOptions:
    """How every worker opens its bundles: by name, from a folder, with `Engine.open`'s other arguments."""

    folders: Mapping[str, Path]
    backend: str
    precision: str
    device: str

    def prepare(self) -> None:
        """Lets `auto` measure which formats are fastest, before several processes do so at once.

        Raises a `UserError` if a bundle cannot be opened, or if something must be built first, which takes minutes.
        """
        for folder in self.folders.values():
            bundle, selection = Engine.select(folder, self.backend, self.precision, self.device, THREADS, MANY)
            if needs_build := build_needed(bundle, selection.format):
                raise BackendError(f"format {selection.format.name} needs a build before replicas start: {needs_build}")

    def open(self) -> dict[str, Engine]:
        """Opens every bundle and compares it with its own reference, which also warms it up.

        Raises a `UserError` if a bundle cannot be opened, or disagrees.
        """
        engines = {}
        for name, folder in self.folders.items():
            engine = Engine.open(folder, self.backend, self.precision, self.device, THREADS, MANY)
            runners = {TEXT_ENCODER: engine.text_encoder, GENERATOR: engine.generator}
            opened = OpenFormat(engine.selection.format, runners)
            reach = sentence_reach(needed_picture_reference(engine.bundle, opened.row))
            cases = read_reference(engine.bundle).cases()
            for found in compare([opened], cases, "the bundle's reference", sentence_reach=reach):
                if not found.ok:
                    raise BundleError(f"bundle {name} is not served: {found}")
            engines[name] = engine
        return engines


class InProcess:
    """Draws in the calling thread; several may share one."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self.engines = engines

    def runs_as(self) -> dict[str, str]:
        """What runs each bundle."""
        return {name: str(engine.selection) for name, engine in self.engines.items()}

    def draw(self, asks: Sequence[Ask]) -> list[Drawn]:
        """Draws and encodes pictures of one bundle and truncation."""
        engine, start = self.engines[asks[0].bundle], time.perf_counter()
        sentences = engine.encode_tokens([ask.ids for ask in asks])
        pixels = engine.draw(sentences, [ask.seed for ask in asks], asks[0].truncation)
        milliseconds = (time.perf_counter() - start) * 1000
        return [_encoded(ask, image, milliseconds) for ask, image in zip(asks, pixels, strict=True)]


class Replica:
    """Draws in a process of its own, which can be started anew if it dies."""

    def __init__(self, options: EngineOptions) -> None:
        """Starts the process; `runs_as` waits for it. Raises a `UserError` if it cannot be started."""
        self._options = options
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        try:
            connection, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._options), daemon=True)
            process.start()
        except OSError as error:
            raise UserError(f"cannot start a replica ({error.strerror}); use fewer --replicas") from error
        theirs.close()  # so that the end of the process ends the connection
        self._connection, self._process = connection, process

    def runs_as(self) -> dict[str, str]:
        """Waits until its engines are open, and says what runs each. Raises a `UserError` if they cannot be opened."""
        try:
            return cast("dict[str, str]", self._reply(SECONDS_TO_START))
        except TimeoutError as error:
            late = f"a replica did not open its bundles within {SECONDS_TO_START:g} s"
            raise UserError(f"{late}; use fewer --replicas, or serve fewer bundles") from error
        except (EOFError, OSError) as error:
            raise UserError("a replica ended before its bundles were open; see its messages above") from error

    def draw(self, asks: Sequence[Ask]) -> list[Drawn]:
        """Draws as `InProcess` does. Raises `WorkerDied` if the pictures must be drawn again."""
        try:
            self._connection.send(asks)
            return cast("list[Drawn]", self._reply(SECONDS_TO_DRAW))
        except (EOFError, OSError) as error:
            raise WorkerDied from error

    def _reply(self, seconds: float) -> object:
        """What the process answers; raises what it raises, `EOFError` or `OSError` if it ended, or `TimeoutError`."""
        if not self._connection.poll(seconds):
            raise TimeoutError
        found: object = self._connection.recv()
        if isinstance(found, Exception):
            raise found
        return found

    def restart(self) -> None:
        """Makes it able to draw again. Raises a `UserError` if that fails."""
        self.close()
        self._start()
        self.runs_as()

    def kill(self) -> None:
        """Ends the process at once; what it draws fails with `WorkerDied`."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join(SECONDS_TO_STOP)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, options: EngineOptions) -> None:
    """A replica's process: draws what comes until the connection ends."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):  # the server's own process decides when to stop
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        try:
            drawer = InProcess(options.open())
        except UserError as error:
            connection.send(UserError(error.message))  # other classes take other arguments, and cannot be unpickled
            return
        _give_way()
        connection.send(drawer.runs_as())
        while True:
            asks = connection.recv()
            try:
                connection.send(drawer.draw(asks))
            except Exception as error:
                connection.send(RuntimeError(f"{type(error).__name__}: {error}"))


Drawer = InProcess | Replica


def _give_way() -> None:
    """Gives requests priority over drawing: those that must be refused are refused at once, however many there are."""
    if sys.platform == "linux":  # elsewhere threads have no priority of their own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)


class Worker(threading.Thread):
    """A thread that draws what waits in a queue until it closes, and replaces its drawer if that dies."""

    def __init__(self, queue: Queue, drawer: Drawer) -> None:
        super().__init__(daemon=True)
        self.queue, self.drawer = queue, drawer
        self.able, self.restarts = True, 0
        self.start()

    def finish(self, deadline: float) -> None:
        """Waits until it has emptied its closed queue; kills a replica that has not by `deadline` (monotonic)."""
        if isinstance(self.drawer, Replica):
            self.join(max(0.0, deadline - time.monotonic()))
            if self.is_alive():
                self.drawer.kill()
        self.join()

    def run(self) -> None:
        """The thread's work."""
        _give_way()
        while jobs := self.queue.take():
            self._draw(jobs)

    def _draw(self, jobs: Sequence[Job]) -> None:
        started = time.monotonic()
        try:
            drawn = self.drawer.draw([job.ask for job in jobs])
        except WorkerDied:
            self.queue.put_back(jobs, RuntimeError("the worker died"))
            self._replace()
        except Exception as error:
            if len(jobs) > 1:  # one may be at fault: the others do not fail with it
                for job in jobs:
                    self._draw([job])
                return
            _log.exception("cannot draw")
            jobs[0].future.set_exception(error)
        else:
            for job, picture in zip(jobs, drawn, strict=True):
                job.future.set_result(picture._replace(queue=(started - job.asked) * 1000))

    def _replace(self) -> None:
        """Tries until it succeeds or the queue is closed."""
        assert isinstance(self.drawer, Replica)  # nothing else dies
        self.able = False
        while not (self.able or self.queue.closed):
            self.restarts += 1
            _log.warning("a worker died and is replaced; its pictures are drawn again")
            try:
                self.drawer.restart()
                self.able = True
            except UserError as error:
                _log.error("%s", error.message)
                time.sleep(SECONDS_BETWEEN_STARTS)


def _encoded(ask: Ask, pixels: Pixels, drawn: float) -> Drawn:
    start = time.perf_counter()
    if ask.side is not None and ask.side != len(pixels):
        pixels = np.asarray(Image.fromarray(pixels).resize((ask.side, ask.side), Image.Resampling.LANCZOS))
    picture = Picture(pixels, ask.caption, ask.seed, ask.bundle, truncation=ask.truncation)
    content = picture.encoded(ask.kind.upper(), ask.quality)
    return Drawn(content, 0.0, drawn, (time.perf_counter() - start) * 1000)
