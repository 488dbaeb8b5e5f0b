"""Workers: what they open before a server listens."""

from pathlib import Path

import pytest

from t2i_engine.serve.workers import EngineOptions


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_precision_that_passed_the_gate_is_served(tiny_bundle: Path, precision: str) -> None:
    options = EngineOptions({"tiny": tiny_bundle}, "onnxruntime", precision, "cpu", threads=1)
    assert options.open()["tiny"].selection.format.precision == precision
