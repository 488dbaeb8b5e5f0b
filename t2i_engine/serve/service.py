"""A running service: bundles, the queue and its workers. The app asks it for pictures."""

import asyncio
import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory

from t2i_engine.backend_selection import AUTO
from t2i_engine.backends.base import available_threads
from t2i_engine.bundle import Bundle
from t2i_engine.engine import DEFAULT_BUNDLE
from t2i_engine.errors import OptionError, OutputError, listed, quoted
from t2i_engine.serve.metrics import Metrics
from t2i_engine.serve.queue import Drawn, Queue
from t2i_engine.serve.requests import ApiError, Catalogue, Model, Order
from t2i_engine.serve.workers import Drawer, EngineOptions, InProcess, Replica, Worker

DIGEST_DIGITS = 12
MOST_WORKERS = 256
SECONDS_TO_FINISH = 5.0
"""For replicas to draw what waits when the service closes."""


@dataclass(frozen=True)
class Settings:
    """How bundles are served."""

    backend: str = AUTO
    precision: str = AUTO
    device: str = AUTO
    workers: int | None = None
    """Concurrent runs, of one thread each; None: one per processor that this process may use."""
    replicas: int = 0
    """Processes that draw instead of this one's threads."""
    queue: int = 256
    """Pictures that may wait."""
    deadline: float = 30.0
    """Seconds within which pictures must be drawn, unless their request says otherwise."""
    resizes: bool = False
    """Resizes pictures to the size that a request asks for; otherwise, only the bundle's own is accepted."""
    api_key: str | None = None
    allow_origin: tuple[str, ...] = ()
    log_captions: bool = False
    exact_words: bool = False
    """Leaves out all unknown words; otherwise, those near a known word are read as that word."""


class Service:
    """Opened bundles and the workers that draw them."""

    def __init__(self, catalogue: Catalogue, drawers: Sequence[Drawer], settings: Settings, held: ExitStack) -> None:
        """Starts a worker for each drawer; `held` is freed when the service closes."""
        self.catalogue, self.settings, self._held = catalogue, settings, held
        self.draining = False
        self.queue = queue = Queue(settings.queue, len(drawers))
        self._workers = workers = [Worker(queue, drawer) for drawer in drawers]
        self.metrics = Metrics(
            lambda: len(queue), lambda: sum(worker.restarts for worker in workers), lambda: self.not_ready() is None
        )

    @classmethod
    def open(cls, bundles: Sequence[str | Path] = (DEFAULT_BUNDLE,), settings: Settings = Settings()) -> "Service":
        """Opens bundles, by name or folder, and starts the workers. Raises a `UserError` if one cannot be served."""
        workers = min(available_threads(), MOST_WORKERS) if settings.workers is None else settings.workers
        count = settings.replicas or workers
        if not 1 <= count <= MOST_WORKERS:
            raise OptionError(f"{count} workers are out of range; 1 to {MOST_WORKERS} expected")
        opened: dict[str, Bundle] = {}
        for bundle in map(Bundle.open, bundles):
            if bundle.name in opened:
                raise OptionError(f"two bundles are called {quoted(bundle.name)}; serve one of them")
            opened[bundle.name] = bundle
        folders = {name: bundle.folder for name, bundle in opened.items()}
        options = EngineOptions(folders, settings.backend, settings.precision, settings.device)
        with ExitStack() as stack:
            drawers: list[Drawer]
            if settings.replicas:
                options.prepare()
                options = replace(options, folders=_copy(folders, stack))  # a replica may start after a bundle changed
                drawers = [stack.enter_context(closing(Replica(options))) for _ in range(count)]
            else:
                engines = options.open()
                drawers = [InProcess({name: stack.enter_context(engine) for name, engine in engines.items()})] * count
            for drawer in drawers:
                runs_as = drawer.runs_as()
            models = {
                name: Model(bundle, bundle.tokenizer(settings.exact_words), _digest(bundle), runs_as[name])
                for name, bundle in opened.items()
            }
            return cls(Catalogue(models, settings.resizes), drawers, settings, stack.pop_all())

    def not_ready(self) -> str | None:
        """Why no requests are accepted; None if they are."""
        if self.draining:
            return "the server is stopping"
        return None if any(worker.able for worker in self._workers) else "the workers are being replaced"

    async def draw(self, order: Order, deadline: float | None) -> list[Drawn]:
        """Draws an order's pictures; `deadline` in seconds from now. Raises `QueueFull` or `ApiError`."""
        seconds = self.settings.deadline if deadline is None else deadline
        waiting = self.queue.put(order.asks)
        try:
            async with asyncio.timeout(seconds):
                drawn = await asyncio.gather(*map(asyncio.wrap_future, waiting))
        except TimeoutError:
            message = f"the picture was not drawn within {seconds:g} s"
            raise ApiError(HTTPStatus.GATEWAY_TIMEOUT, message, "deadline_passed") from None
        finally:  # the rest, if a picture failed or the client went away
            for future in waiting:
                future.cancel()
        for picture in drawn:
            self.metrics.drew(order.model.name, picture)
        return drawn

    def close(self) -> None:
        """Draws what waits, kills replicas that take too long, and frees everything. A second call does nothing."""
        self.queue.close()
        deadline = time.monotonic() + SECONDS_TO_FINISH
        for worker in self._workers:
            worker.finish(deadline)
        self._held.close()


def _copy(folders: Mapping[str, Path], held: ExitStack) -> dict[str, Path]:
    """Copies of bundles, which `held` deletes. Raises `OutputError` if they cannot be written."""
    try:
        copies = Path(held.enter_context(TemporaryDirectory(prefix="t2i-engine-")))
        for name, folder in folders.items():
            (copies / name).mkdir()
            for file in filter(Path.is_file, folder.iterdir()):
                shutil.copyfile(file, copies / name / file.name)
    except OSError as error:
        cure = "set TMPDIR to a folder with room"
        raise OutputError(f"cannot copy {listed(folders)} ({error.strerror}); {cure}") from error
    return {name: copies / name for name in folders}


def _digest(bundle: Bundle) -> str:
    return hashlib.sha256(bundle.manifest.to_json()).hexdigest()[:DIGEST_DIGITS]
