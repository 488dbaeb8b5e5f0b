"""FID and attribute accuracy of each format, found in what `evaluate` gives."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks.quality import check_quality, measure_quality
from benchmarks.report import Quality
from t2i_engine.bundle import Bundle
from t2i_engine.errors import OptionError
from tests.training.evaluation.instruments import MeanColours
from training.evaluation.attribute_accuracy import Recipe
from training.evaluation.evaluate import Instruments, evaluate

QUICK = Instruments(MeanColours(), Recipe(pictures=16, steps=1, batch_size=8, tested=2))


def test_each_format_that_is_measured_has_its_figures(
    plain_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick = partial(evaluate, cache=tmp_path, instruments=QUICK)
    monkeypatch.setattr("training.evaluation.evaluate.evaluate", quick)
    found = list(measure_quality(Bundle.open(plain_bundle), {"onnx", "pytorch"}, "synthbirds", 12, lambda _: None))
    assert [one.target for one in found] == ["onnx", "pytorch"]
    onnx, pytorch = (one.fid for one in found)
    assert onnx == pytest.approx(pytorch, rel=1e-3)
    assert all(0 <= (one.attribute_accuracy or 0) <= 100 for one in found)
    assert found[0].attribute_accuracy is not None


def test_what_was_not_measured_is_none() -> None:
    found = Quality("onnx", "synthbirds", 8, {"captions": 8})
    assert (found.fid, found.attribute_accuracy) == (None, None)


def test_random_weights_have_no_quality(plain_bundle: Path) -> None:
    bundle = Bundle.open(plain_bundle)
    paper = replace(bundle, manifest=replace(bundle.manifest, provenance={"weights": "random"}))
    with pytest.raises(OptionError, match="random"):
        check_quality(paper, "synthbirds", 1000)
