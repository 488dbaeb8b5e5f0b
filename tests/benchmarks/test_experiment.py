"""Experiments: rows trained alike with the same encoders, each measured once, and a report of what was found."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from benchmarks.experiment import load_experiment, main
from tests.training.evaluation.instruments import MeanColours
from tests.training.runs import TINY
from training.checkpoint import load_checkpoint, load_model
from training.config import load_config
from training.evaluation import Evaluation
from training.evaluation.evaluate import EvaluatedModel, Instruments, evaluate

ROWS = (
    {"name": "DF-GAN", "set": {"model.adaptive_block": False, "gan.contrastive.enabled": False}},
    {"name": "the full method", "seeds": [0, 1]},
)
EXPERIMENTS = Path(__file__).parents[2] / "training" / "configs" / "experiments"


def run(folder: Path, *options: str, **further: object) -> Result:
    path = folder / "rows.yaml"
    path.write_text(yaml.safe_dump({"config": str(TINY), "rows": list(ROWS), **further}), encoding="utf-8")
    arguments = [
        str(path),
        "--out",
        str(folder / "out"),
        "--count",
        "100",
        "--report",
        str(folder / "report"),
        *options,
    ]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_every_row_is_trained_with_the_same_encoders_and_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = partial(evaluate, cache=tmp_path / "cache", instruments=Instruments(MeanColours()))
    monkeypatch.setattr("benchmarks.experiment.evaluate", quick)
    assert run(tmp_path).exit_code == 0
    out, report = tmp_path / "out", tmp_path / "report"
    table = (report / "table.md").read_text(encoding="utf-8")
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:5]] == ["DF-GAN", *["the full method"] * 2]
    rows = {name: load_model(out / name / "checkpoint.pt") for name in ("df-gan-0", "the-full-method-0")}
    assert [row.model.sizes.adaptive_block for row in rows.values()] == [False, True]
    assert {row.provenance["steps"]["damsm"] for row in rows.values()} == {0}
    first, second = (load_checkpoint(out / f"the-full-method-{seed}" / "checkpoint.pt") for seed in (0, 1))
    encoders, generators = (
        [content["weights"][name] for content in (first, second)]
        for name in ("text_encoder.encoder.weight", "generator.fc.weight")
    )
    assert encoders[0].equal(encoders[1])
    assert not generators[0].equal(generators[1])
    assert str(tmp_path) not in str(first["provenance"])
    for name in ("curves.png", "figure.png", "samples-df-gan-0.jpg"):
        with Image.open(report / name) as picture:
            assert picture.width > 100

    def never(*arguments: object) -> None:
        raise AssertionError("measured a second time")

    monkeypatch.setattr("benchmarks.experiment.evaluate", never)
    before = (out / "df-gan-0" / "checkpoint.pt").read_bytes()
    assert run(tmp_path).exit_code == 0
    assert (out / "df-gan-0" / "checkpoint.pt").read_bytes() == before
    assert (report / "table.md").read_text(encoding="utf-8") == table
    with pytest.raises(AssertionError, match="measured a second time"):
        run(tmp_path, "--set", "gan.steps=7")


def test_a_judge_of_its_own_measures_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judges = []

    def quick(model: EvaluatedModel, data: str, metrics: Sequence[str], encoders: str, count: int) -> Evaluation:
        judges.append(encoders)
        tools = Instruments(MeanColours())
        return evaluate(model, data, metrics, encoders, count, cache=tmp_path / "cache", instruments=tools)

    monkeypatch.setattr("benchmarks.experiment.evaluate", quick)
    assert run(tmp_path).exit_code == 0
    assert run(tmp_path, judge={"seed": 7}).exit_code == 0  # what was measured by others is measured again
    out = tmp_path / "out"
    assert judges == [str(out / name / "checkpoint.pt") for name in ["encoders"] * 3 + ["judge"] * 3]
    judge, encoders = (load_model(out / name / "checkpoint.pt") for name in ("judge", "encoders"))
    assert judge.provenance["config"]["seed"] == 7
    row = load_model(out / "df-gan-0" / "checkpoint.pt").model.text_encoder.encoder.weight
    assert row.equal(encoders.model.text_encoder.encoder.weight)
    assert not row.equal(judge.model.text_encoder.encoder.weight)


def test_the_shipped_experiments_fit_their_configs() -> None:
    for path in EXPERIMENTS.glob("*.yaml"):
        experiment = load_experiment(path)
        for changes in (experiment.judge, *(row.set for row in experiment.rows)):
            load_config(experiment.config, [f"{key}={yaml.safe_dump(value)}" for key, value in changes.items()])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("rows: [", "cannot be read"),
        ("config: tiny.yaml", "rows: Field required"),
        ("{config: tiny.yaml, rows: [{name: a, sets: {}}]}", "rows.0.sets"),
    ],
)
def test_a_bad_file_of_rows_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text(content, encoding="utf-8")
    result = CliRunner().invoke(main, [str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
