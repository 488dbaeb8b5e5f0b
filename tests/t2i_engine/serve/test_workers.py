"""Workers: what they open before a server listens."""

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
