"""The queue: bounds, shares, and pictures that go back to its front."""

import threading

import pytest

from t2i_engine.serve.queue import LARGEST_BATCH, MOST_ATTEMPTS, Ask, Job, Queue, QueueFull
from tests.t2i_engine.serve.processes import eventually


def ask(seed: int, bundle: str = "tiny", truncation: float = 1.0) -> Ask:
    return Ask(bundle, "a bird", (1,), seed, truncation, "png", 95)


def seeds(jobs: list[Job]) -> list[int]:
    return [job.ask.seed for job in jobs]


def test_a_request_that_does_not_fit_is_refused_whole() -> None:
    queue = Queue(limit=4, workers=1)
    queue.put([ask(0), ask(1), ask(2)])
    with pytest.raises(QueueFull):
        queue.put([ask(3), ask(4)])
    queue.put([ask(5)])
    assert seeds(queue.take()) == [0, 1, 2, 5]


def test_workers_share_out_what_waits_and_no_batch_grows_too_large() -> None:
    queue = Queue(limit=100, workers=2)
    queue.put([ask(seed) for seed in range(5)])
    assert [seeds(queue.take()) for _ in range(3)] == [[0, 1, 2], [3], [4]]
    queue.put([ask(seed) for seed in range(50)])
    assert len(queue.take()) == LARGEST_BATCH


def test_a_batch_is_of_one_bundle_and_truncation_and_others_keep_their_turn() -> None:
    queue = Queue(limit=100, workers=1)
    queue.put([ask(0), ask(1, "other"), ask(2, truncation=0.5), ask(3), ask(4, "other")])
    assert [seeds(queue.take()) for _ in range(3)] == [[0, 3], [1, 4], [2]]


def test_what_was_cancelled_is_not_drawn() -> None:
    queue = Queue(limit=100, workers=1)
    cancelled, kept = queue.put([ask(1), ask(2)])
    cancelled.cancel()
    assert seeds(queue.take()) == [2]
    assert not kept.done()


def test_a_worker_sleeps_until_something_comes_and_ends_when_the_queue_closes() -> None:
    queue = Queue(limit=10, workers=1)
    taken: list[list[int]] = []

    def work() -> None:
        while jobs := queue.take():
            taken.append(seeds(jobs))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    queue.put([ask(7)])
    eventually(lambda: taken)
    queue.close()
    worker.join(10)
    assert not worker.is_alive()
    assert taken == [[7]]
    with pytest.raises(QueueFull):
        queue.put([ask(8)])


def test_pictures_of_a_dead_worker_come_first_again_each_alone_and_fail_at_last() -> None:
    queue = Queue(limit=10, workers=1)
    error = RuntimeError("died")
    fatal, *others = queue.put([ask(0), ask(1), ask(2)])
    queue.put_back(queue.take(), error)
    queue.put([ask(3), ask(4)])
    for _ in range(MOST_ATTEMPTS - 1):
        jobs = queue.take()
        assert seeds(jobs) == [0]
        queue.put_back(jobs, error)
    with pytest.raises(RuntimeError, match="died"):
        fatal.result(0)
    assert [seeds(queue.take()) for _ in range(3)] == [[1], [2], [3, 4]]
    assert not any(future.done() for future in others)
