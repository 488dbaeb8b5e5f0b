"""Workers: what they open before a server listens."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from t2i_engine.engine import MANY, Engine
from t2i_engine.serve.workers import EngineOptions


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
    options.measure()
    options.open()
    assert expected == [MANY, MANY]


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
