"""Evaluations in a bundle's manifest."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.cli import main
from t2i_engine.engine import Engine
from training.evaluation import Conditions, Evaluation, Result
from training.evaluation.evaluate import add_to_manifest

CONDITIONS = Conditions("tiny", "onnx on cpu", 32, 32, "synthbirds", "test", "", 12, 1.0, 0)


def evaluation(value: float, conditions: Conditions = CONDITIONS) -> Evaluation:
    fid = Result({"fid": {"value": value, "pictures": conditions.captions, "real": 12}}, "")
    return Evaluation(conditions, [fid])


def evaluations(folder: Path) -> list[dict[str, Any]]:
    found = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))["provenance"]["metrics"]["evaluations"]
    assert isinstance(found, list)
    return found


def test_evaluations_are_added_to_a_bundle_that_stays_as_it_was_otherwise(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "tiny")
    before = Bundle.open(folder).manifest
    add_to_manifest(Bundle.open(folder), evaluation(3.0))
    add_to_manifest(Bundle.open(folder), evaluation(5.0, replace(CONDITIONS, captions=100)))
    add_to_manifest(Bundle.open(folder), evaluation(2.0))
    found = evaluations(folder)
    assert [(one["captions"], one["fid"]["value"]) for one in found] == [(100, 5.0), (12, 2.0)]
    after = Bundle.open(folder).manifest
    assert after.files == before.files
    assert {key: value for key, value in after.provenance.items() if key != "metrics"} == {
        key: value for key, value in before.provenance.items() if key != "metrics"
    }
    assert Engine.open(folder).generate("a red bird").pixels.shape == (32, 32, 3)


def test_metrics_measured_one_after_the_other_are_kept_together(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "tiny")
    add_to_manifest(Bundle.open(folder), evaluation(3.0))
    add_to_manifest(Bundle.open(folder), Evaluation(CONDITIONS, [Result({"kid": {"mean": 0.5}}, "")]))
    add_to_manifest(Bundle.open(folder), evaluation(2.0))
    (found,) = evaluations(folder)
    assert (found["fid"]["value"], found["kid"]["mean"]) == (2.0, 0.5)


def test_only_the_same_truncation_and_size_of_real_pictures_replace_an_evaluation(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "tiny")
    before = evaluation(3.0)
    bundle = Bundle.open(folder)
    earlier = {
        key: value for key, value in before.as_json().items() if key not in ("truncation", "real_resolution", "crops")
    }
    provenance = {**bundle.manifest.provenance, "metrics": {"evaluations": [earlier]}}
    write_bundle(
        folder, replace(bundle.manifest, provenance=provenance), {n: bundle.path(n) for n in bundle.manifest.files}
    )
    for value, changes in ((4.0, {"truncation": 0.88}), (5.0, {"real_resolution": 256}), (2.0, {})):
        add_to_manifest(Bundle.open(folder), evaluation(value, replace(CONDITIONS, **changes)))
    assert [one["fid"]["value"] for one in evaluations(folder)] == [4.0, 5.0, 2.0]


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
