"""The queue between requests and workers: bounded, with batches made up of whatever is waiting already."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

LARGEST_BATCH = 8
MOST_ATTEMPTS = 3
"""A picture that ends three workers is not tried on a fourth."""


@dataclass(frozen=True)
class Ask:
    """One picture to draw and encode: everything it depends on."""

    bundle: str
    caption: str
    ids: tuple[int, ...]
    seed: int
    truncation: float
    kind: str
    """png, jpeg or webp."""
    quality: int
    side: int | None = None
    """Resized to this side; None: as drawn."""


class Drawn(NamedTuple):
    """An encoded picture, and the milliseconds that it took in each stage."""

    content: bytes
    queue: float
    draw: float
    encode: float


class QueueFull(Exception):  # noqa: N818
    """More pictures wait than the queue holds."""


@dataclass
class Job:
    """An `Ask` in the queue."""

    ask: Ask
    asked: float = field(default_factory=time.monotonic)
    future: Future[Drawn] = field(default_factory=Future)
    attempts: int = 0


class Queue:
    """Pictures that wait for a worker, in the order of their requests. May be used from several threads at once."""

    def __init__(self, limit: int, workers: int) -> None:
        """Holds `limit` pictures at most, which are divided among `workers`."""
        self.limit, self._workers = limit, workers
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self.closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def check_room(self, pictures: int = 1) -> None:
        """Raises `QueueFull` if there is no room for this many."""
        if self.closed or len(self._jobs) + pictures > self.limit:
            raise QueueFull(f"{self.limit} pictures are waiting")

    def put(self, asks: Sequence[Ask]) -> list[Future[Drawn]]:
        """Enqueues all pictures of a request or, if they do not all fit, none. Raises `QueueFull`.

        A picture whose future is cancelled before a worker takes it is not drawn.
        """
        with self._changed:
            self.check_room(len(asks))
            jobs = [Job(ask) for ask in asks]
            self._jobs.extend(jobs)
            self._changed.notify(len(jobs))
        return [job.future for job in jobs]

    def take(self) -> list[Job]:
        """Waits for a picture, and takes a worker's share of those that wait for the same bundle; empty once closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self.closed)
                if not self._jobs:
                    return []
                share = min(LARGEST_BATCH, -(-len(self._jobs) // self._workers))
                if batch := self._batch(share):
                    return batch

    def _batch(self, share: int) -> list[Job]:
        batch: list[Job] = []
        others: deque[Job] = deque()
        while self._jobs and len(batch) < share:
            job = self._jobs.popleft()
            if batch and not _together(batch[0], job):
                others.append(job)
            elif job.attempts or job.future.set_running_or_notify_cancel():
                batch.append(job)
        self._jobs.extendleft(reversed(others))
        return batch

    def put_back(self, jobs: Sequence[Job], error: Exception) -> None:
        """Puts jobs that a worker could not finish because of `error` back in front; their pictures come out the same.

        From now on, each is taken alone. Those that have been tried `MOST_ATTEMPTS` times fail with `error`.
        """
        with self._changed:
            for job in reversed(jobs):
                job.attempts += 1
                if job.attempts < MOST_ATTEMPTS:
                    self._jobs.appendleft(job)
                else:
                    job.future.set_exception(error)
            self._changed.notify(len(jobs))

    def close(self) -> None:
        """Accepts no more pictures; workers finish those that wait."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


def _together(first: Job, other: Job) -> bool:
    if first.attempts or other.attempts:  # a picture that killed its worker must not take others with it
        return False
    return first.ask.bundle == other.ask.bundle and first.ask.truncation == other.ask.truncation
