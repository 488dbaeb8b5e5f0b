import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from t2i_engine.cli import main
from t2i_engine.errors import OptionError, UserError
from tests.training.data.made import picture
from tests.training.evaluation.instruments import MeanColours
from training.data.source import DataError
from training.evaluation import Evaluation, GeneratedBatch, Result
from training.evaluation.attribute_accuracy import Recipe
from training.evaluation.evaluate import METRICS, Instruments, evaluate, open_model, own_data

QUICK = Recipe(pictures=16, steps=1, batch_size=8, tested=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def measure(
    model: Path,
    cache: Path,
    metrics: str = "fid",
    count: int = 12,
    data: str = "synthbirds",
    backend: str = "auto",
    real_resolution: int | None = None,
    truncation: float = 1.0,
) -> Evaluation:
    opened = open_model(str(model), backend, "fp32")
    tools = Instruments(MeanColours(), QUICK, seeds=4, clip=MeanColours("what CLIP sees"))
    return evaluate(
        opened, data, metrics.split(","), str(model), count, real_resolution, truncation, cache=cache, instruments=tools
    )


def test_evaluation_names_model_data_numbers_and_network_beside_the_figures(tiny_bundle: Path, cache: Path) -> None:
    evaluation = measure(tiny_bundle, cache, "fid,kid,fid-floor")
    found = evaluation.as_json()
    assert found["model"] == "tiny"
    assert found["data"] == "synthbirds"
    assert found["features"] == "mean colours"
    assert found["captions"] + found["skipped"] == 12
    assert found["fid"]["pictures"] == found["captions"]
    assert found["fid"]["real"] == found["fid_floor"]["real"] == found["fid_floor"]["pictures"] == 12
    assert found["fid"]["value"] > found["fid_floor"]["value"]
    assert json.loads(json.dumps(found)) == found
    text = evaluation.as_markdown()
    assert f"{found['captions']} against 12 real" in text
    assert "Features: mean colours" in text


class Matching:
    """Stands for R-precision, and notes the sizes of the real pictures it gets."""

    sides: ClassVar[set[int]] = set()

    def __init__(self, encoders: object, source: object) -> None:
        self.sides.clear()

    def update(self, batch: GeneratedBatch) -> None:
        self.sides.add(batch.real.shape[1])

    def result(self) -> Result:
        return Result({}, "")


def test_distances_compare_with_real_pictures_of_the_given_size_and_r_precision_does_not(
    tiny_checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluation.evaluate.RPrecision", Matching)
    monkeypatch.setattr("training.evaluation.evaluate.load_encoders", lambda model: None)
    own, larger = (
        measure(tiny_checkpoint, cache, "fid,fid-floor,r-precision", 100, real_resolution=side) for side in (None, 64)
    )
    before, found = own.as_json(), larger.as_json()
    assert (before["real_resolution"], found["real_resolution"]) == (32, 64)
    assert found["fid"]["value"] != before["fid"]["value"]
    assert found["fid_floor"]["value"] != before["fid_floor"]["value"]
    assert Matching.sides == {32}
    assert "32 × 32; real pictures at 64 × 64  \n" in larger.as_markdown()
    assert "real pictures at" not in own.as_markdown()


def test_real_pictures_are_cropped_if_the_model_was_trained_on_random_crops(
    tiny_checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its birds are as large as crops show them."""
    monkeypatch.setattr("training.evaluation.evaluate.RPrecision", Matching)
    monkeypatch.setattr("training.evaluation.evaluate.load_encoders", lambda model: None)
    plain = open_model(str(tiny_checkpoint), "auto", "fp32")
    provenance = {**plain.provenance, "config": {"data": {"random_crop": True}}}
    tools = Instruments(MeanColours(), QUICK)
    metrics = ("fid", "fid-floor", "r-precision")
    whole, smaller, cropped = (
        evaluate(model, "synthbirds", metrics, "", 100, side, cache=cache, instruments=tools)
        for model, side in ((plain, 76), (plain, 64), (replace(plain, provenance=provenance), 64))
    )
    (*others, found) = (evaluation.as_json() for evaluation in (whole, smaller, cropped))
    assert [one["crops"] for one in (*others, found)] == [0, 0, 1]
    assert found["fid"]["real"] == found["fid_floor"]["real"] == 100
    for other in others:
        for metric in ("fid", "fid_floor"):
            assert found[metric]["value"] != pytest.approx(other[metric]["value"], rel=1e-3)
    assert Matching.sides == {32}
    assert "32 × 32; real pictures at 64 × 64, a random crop of each  \n" in cropped.as_markdown()


def test_the_floor_is_that_of_a_fair_selection_of_training_pictures(
    tiny_checkpoint: Path, cache: Path, tmp_path: Path
) -> None:
    """The first half of the training pictures is black, as classes are in the order of their names."""
    for split, colours in (("train", ["black"] * 60 + ["white"] * 60), ("test", ["black", "white"] * 30)):
        for number, colour in enumerate(colours):
            picture(tmp_path / split / f"{number:03d}.png", colour).with_suffix(".txt").write_text("a red bird")
    found = measure(tiny_checkpoint, cache, "fid-floor", 60, data=f"folder:{tmp_path}").as_json()
    assert found["fid_floor"]["pictures"] == 60
    assert found["fid_floor"]["value"] < 0.1


def test_truncation_is_that_of_the_drawn_pictures(tiny_checkpoint: Path, cache: Path) -> None:
    whole, cut = (measure(tiny_checkpoint, cache, "fid,diversity", truncation=one) for one in (1.0, 0.1))
    assert "seeds from 0, truncation 1" in whole.as_markdown()
    assert "seeds from 0, truncation 0.1" in cut.as_markdown()
    spreads = [one.as_json()["diversity"]["captions"][0]["generated"] for one in (whole, cut)]
    assert spreads[1] < 0.5 * spreads[0]
    assert whole.as_json()["fid"] != cut.as_json()["fid"]


def test_clip_fid_stands_beside_fid_with_a_network_of_its_own(tiny_checkpoint: Path, cache: Path) -> None:
    evaluation = measure(tiny_checkpoint, cache, "fid,clip-fid")
    found = evaluation.as_json()
    assert (found["features"], found["clip_features"]) == ("mean colours", "what CLIP sees")
    assert found["clip_fid"] == pytest.approx(found["fid"])  # the stand-ins differ in name alone
    text = evaluation.as_markdown()
    assert "| CLIP-FID |" in text
    assert "Features: what CLIP sees. FID rises" in text
    alone = measure(tiny_checkpoint, cache, "clip-fid").as_json()
    assert alone["clip_fid"] == found["clip_fid"]
    assert "fid" not in alone


def test_every_backend_and_the_checkpoint_give_the_same_fid(
    tiny_bundle: Path, tiny_checkpoint: Path, cache: Path
) -> None:
    evaluations = [
        measure(tiny_bundle, cache, backend="onnxruntime"),
        measure(tiny_bundle, cache, backend="pytorch"),
        measure(tiny_checkpoint, cache),
    ]
    values = [evaluation.as_json()["fid"]["value"] for evaluation in evaluations]
    assert values == pytest.approx([values[0]] * 3, rel=1e-3)
    assert len({evaluation.as_json()["runs_as"] for evaluation in evaluations}) == 3


def test_attributes_and_diversity_are_measured_on_synthbirds(tiny_checkpoint: Path, cache: Path) -> None:
    evaluation = measure(tiny_checkpoint, cache, "attributes,diversity")
    found = evaluation.as_json()
    assert found["attribute_accuracy"]["captions"] == found["captions"]
    assert found["attribute_accuracy"]["attributes"]["main colour"]["asked"] > 0
    assert found["diversity"]["seeds"] == 4
    assert "| caption | generated | renders | ratio |" in evaluation.as_markdown()
    assert "fid" not in found


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"source": "cub:birds"}, "was trained on 'cub:birds'; name its test data, for example --data cub:data/birds"),
        ({"source": "packed:x", "origin": "folder:a"}, "was trained on 'folder:a'; name its test data"),
        (None, "does not say what it was trained on; name its test data"),
        ("a note", "does not say what it was trained on; name its test data"),
    ],
)
def test_a_model_is_judged_on_drawn_birds_by_default_only_if_it_learnt_from_them(
    tiny_bundle: Path, dataset: object, message: str
) -> None:
    opened = open_model(str(tiny_bundle), "auto", "fp32")
    assert own_data(replace(opened, provenance={"dataset": {"source": "synthbirds"}})) == "synthbirds"
    with pytest.raises(OptionError) as caught:
        own_data(replace(opened, provenance={"dataset": dataset}))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("metrics", "count", "data", "message"),
    [
        ("fdi", 12, "synthbirds", "unknown metric 'fdi' (did you mean 'fid'?)"),
        ("fid", 1, "synthbirds", "1 pictures are too few for fid; at least 2 expected"),
        ("r-precision", 99, "synthbirds", "99 pictures are too few for r-precision; at least 100 expected"),
        ("fid", 12, "cob:birds", "unknown data source 'cob:birds'"),
    ],
)
def test_what_cannot_be_measured_is_said(
    tiny_checkpoint: Path, cache: Path, metrics: str, count: int, data: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        measure(tiny_checkpoint, cache, metrics, count, data)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real_resolution": 0}, "real resolution 0 is out of range; 1 to 1024 expected"),
        ({"real_resolution": 4096}, "real resolution 4096 is out of range; 1 to 1024 expected"),
        ({"real_resolution": 16}, "synthbirds are drawn at 32 × 32 pixels or more, not at 16 × 16"),
        ({"truncation": 1.5}, "truncation 1.5 is out of range"),
    ],
)
def test_a_size_or_truncation_out_of_range_is_refused(
    tiny_checkpoint: Path, cache: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        measure(tiny_checkpoint, cache, **options)
    assert caught.value.message.startswith(message)


def test_attributes_need_synthbirds(tiny_checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises((OptionError, DataError), match="available for synthbirds only"):
        measure(tiny_checkpoint, cache, "attributes", data=f"folder:{tmp_path}")


def test_a_checkpoint_is_not_measured_with_another_backend_than_pytorch(tiny_checkpoint: Path) -> None:
    with pytest.raises(OptionError, match="export it and measure the bundle"):
        open_model(str(tiny_checkpoint), backend="onnxruntime")


def test_command_prints_errors_in_one_line_and_exits_with_2(tiny_checkpoint: Path) -> None:
    found = CliRunner().invoke(main, ["evaluate", str(tiny_checkpoint), "--data", "synthbirds", "--metrics", "beauty"])
    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr == f"Error: unknown metric 'beauty'; available: {', '.join(METRICS)}\n"


def test_command_prints_markdown_or_json(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("training.evaluation.evaluate.Inception", lambda device: MeanColours())
    arguments = ["evaluate", str(tiny_checkpoint), "--data", "synthbirds", "--metrics", "fid", "--count", "8"]
    assert "| FID |" in CliRunner().invoke(main, arguments).stdout
    options = ["--json", "--real-resolution", "64", "--truncation", "0.88"]
    found = json.loads(CliRunner().invoke(main, [*arguments, *options]).stdout)
    assert found["fid"]["real"] == 8
    assert (found["real_resolution"], found["truncation"]) == (64, 0.88)
