"""Workers: what they open before a server listens."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest

from t2i_engine.backends import onnxruntime
from t2i_engine.engine import MANY, Engine
from t2i_engine.errors import BackendError, UserError
from t2i_engine.serve.queue import Ask, Drawn, Queue
from t2i_engine.serve.service import MOST_WORKERS, Service, Settings
from t2i_engine.serve.workers import EngineOptions, InProcess, Replica, Worker
from tests.t2i_engine.serve.processes import SECONDS


def ask(seed: int = 0) -> Ask:
    return Ask("tiny", "a bird", (1,), seed, 1.0, "png", 95)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_precision_that_passed_the_gate_is_served(tiny_bundle: Path, precision: str) -> None:
    options = EngineOptions({"tiny": tiny_bundle}, "onnxruntime", precision, "cpu")
    assert options.open()["tiny"].selection.format.precision == precision


def test_auto_chooses_for_many_pictures_and_measures_before_replicas_start(
    plain_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[object] = []
    select = Engine.select

    def noted(*arguments: Any) -> object:  # noqa: ANN401
        expected.append(arguments[-1])
        return select(*arguments)

    monkeypatch.setattr(Engine, "select", noted)
    options = EngineOptions({"tiny": plain_bundle}, "auto", "auto", "cpu")
    options.prepare()
    options.open()
    assert expected == [MANY, MANY]


@pytest.mark.parametrize(("processors", "workers"), [(3, 3), (400, MOST_WORKERS)])
def test_there_is_a_worker_for_each_processor_that_the_process_may_use(
    plain_bundle: Path, monkeypatch: pytest.MonkeyPatch, processors: int, workers: int
) -> None:
    started: list[Worker] = []
    monkeypatch.setattr(Worker, "start", lambda worker: started.append(worker))
    monkeypatch.setattr("t2i_engine.serve.service.available_threads", lambda: processors)
    Service.open([plain_bundle])
    assert len(started) == workers


def test_replicas_do_not_start_before_what_they_run_is_built(
    plain_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "needs_build", lambda *_: "no engine yet: t2i-engine build tiny", raising=False)
    with pytest.raises(BackendError, match="before replicas start: no engine yet: t2i-engine build tiny"):
        Service.open([plain_bundle], Settings(backend="onnxruntime", replicas=1))


def test_a_replica_that_starts_slowly_has_not_ended(plain_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2i_engine.serve.workers.SECONDS_TO_START", 0.01)
    monkeypatch.setattr("t2i_engine.serve.workers.SECONDS_TO_STOP", 0)
    options = EngineOptions({"tiny": plain_bundle}, "onnxruntime", "auto", "cpu")
    with (
        closing(Replica(options)) as replica,
        pytest.raises(UserError, match=r"did not open its bundles within 0\.01 s"),
    ):
        replica.runs_as()


class Picky(InProcess):
    """Draws, unless seed 1 is among what it is asked for."""

    def draw(self, asks: Sequence[Ask]) -> list[Drawn]:
        if any(ask.seed == 1 for ask in asks):
            raise ValueError("seed 1")
        return [Drawn(b"drawn", 0, 0, 0) for _ in asks]


def test_a_picture_that_cannot_be_drawn_fails_alone() -> None:
    queue = Queue(10, 1)
    first, failing, last = queue.put([ask(seed) for seed in range(3)])
    Worker(queue, Picky({}))
    with pytest.raises(ValueError, match="seed 1"):
        failing.result(SECONDS)
    assert first.result(SECONDS).content == last.result(SECONDS).content == b"drawn"
    queue.close()


def test_a_replica_that_cannot_be_started_is_tried_again(plain_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))])
    start = SpawnProcess.start

    def start_unless_it_fails(process: SpawnProcess) -> None:
        for failure in failures:
            raise failure
        start(process)

    with closing(Replica(EngineOptions({"tiny": plain_bundle}, "onnxruntime", "auto", "cpu"))) as replica:
        replica.runs_as()
        monkeypatch.setattr(SpawnProcess, "start", start_unless_it_fails)
        monkeypatch.setattr("t2i_engine.serve.workers.SECONDS_BETWEEN_STARTS", 0)
        queue = Queue(1, 1)
        worker = Worker(queue, replica)
        for child in multiprocessing.active_children():
            child.kill()
        (waiting,) = queue.put([ask()])
        assert waiting.result(SECONDS).content.startswith(b"\x89PNG")
        assert worker.restarts == 2
        queue.close()
        worker.join(SECONDS)
        assert not worker.is_alive()


def test_a_service_that_closes_does_not_wait_for_a_replica_that_hangs(
    plain_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2i_engine.serve.service.SECONDS_TO_FINISH", 0.1)
    before = set(multiprocessing.active_children())
    service = Service.open([plain_bundle], Settings(backend="onnxruntime", replicas=1))
    (replica,) = set(multiprocessing.active_children()) - before
    assert replica.pid is not None
    os.kill(replica.pid, signal.SIGSTOP)
    (waiting,) = service.queue.put([ask()])
    closing = threading.Thread(target=service.close, daemon=True)
    closing.start()
    closing.join(SECONDS / 2)
    assert not closing.is_alive()
    assert not replica.is_alive()
    with pytest.raises(RuntimeError, match="died"):
        waiting.result(0)


LOW_PRIORITY = """
import os
from t2i_engine.serve.queue import Ask, Drawn, Queue
from t2i_engine.serve.workers import InProcess, Worker

InProcess.draw = lambda self, asks: [Drawn(b"drawn", 0, 0, 0) for _ in asks]
os.nice(10)
if os.getuid() == 0:
    os.setuid(65534)
queue = Queue(1, 1)
Worker(queue, InProcess({}))
(waiting,) = queue.put([Ask("tiny", "a bird", (1,), 0, 1.0, "png", 95)])
print(waiting.result(30).content.decode())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_a_server_of_low_priority_draws_without_being_root() -> None:
    found = subprocess.run([sys.executable, "-c", LOW_PRIORITY], capture_output=True, text=True, timeout=60)
    assert found.stdout == "drawn\n", found.stderr
