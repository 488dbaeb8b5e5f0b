"""Evaluations in a bundle's manifest."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from t2i_engine.bundle import Bundle
from t2i_engine.cli import main
from t2i_engine.engine import Engine
from training.evaluation import Conditions, Evaluation, Result
from training.evaluation.evaluate import add_to_manifest

CONDITIONS = Conditions("tiny", "onnx on cpu", 32, "synthbirds", "test", "", 12, 0)


def evaluation(value: float, captions: int = 12) -> Evaluation:
    fid = Result({"fid": {"value": value, "pictures": captions, "real": 12}}, "")
    return Evaluation(replace(CONDITIONS, captions=captions), [fid])


def evaluations(folder: Path) -> list[dict[str, Any]]:
    found = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))["provenance"]["metrics"]["evaluations"]
    assert isinstance(found, list)
    return found


def test_evaluations_are_added_to_a_bundle_that_stays_as_it_was_otherwise(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "tiny")
    before = Bundle.open(folder).manifest
    add_to_manifest(Bundle.open(folder), evaluation(3.0))
    add_to_manifest(Bundle.open(folder), evaluation(5.0, captions=100))
    add_to_manifest(Bundle.open(folder), evaluation(2.0))
    found = evaluations(folder)
    assert [(one["captions"], one["fid"]["value"]) for one in found] == [(100, 5.0), (12, 2.0)]
    after = Bundle.open(folder).manifest
    assert after.files == before.files
    assert {key: value for key, value in after.provenance.items() if key != "metrics"} == {
        key: value for key, value in before.provenance.items() if key != "metrics"
    }
    assert Engine.open(folder).generate("a red bird").pixels.shape == (32, 32, 3)


@pytest.mark.parametrize("model", ["checkpoint.pt", "nowhere"])
def test_a_manifest_that_cannot_be_written_is_an_error_before_anything_is_measured(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("training.evaluation.evaluate.evaluate", never)
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path / model), "--update-manifest"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
