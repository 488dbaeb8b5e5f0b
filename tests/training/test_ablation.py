"""Ablations: rows trained alike with the same encoders, each evaluated once, and the table of their results."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.training.evaluation.instruments import MeanColours
from tests.training.runs import TINY
from training.ablation import load_ablation, main
from training.checkpoint import load_checkpoint, load_model
from training.config import load_config
from training.evaluation import Evaluation
from training.evaluation.evaluate import EvaluatedModel, Instruments, evaluate

ROWS = (
    {"name": "DF-GAN", "set": {"model.adaptive_block": False, "gan.contrastive.enabled": False}},
    {"name": "the full method", "seeds": [0, 1]},
)
ABLATIONS = Path(__file__).parents[2] / "training" / "configs" / "ablations"


def run(folder: Path, *options: str, **further: object) -> None:
    path = folder / "rows.yaml"
    path.write_text(yaml.safe_dump({"config": str(TINY), "rows": list(ROWS), **further}), encoding="utf-8")
    arguments = [
        str(path),
        "--out",
        str(folder / "out"),
        "--count",
        "100",
        "--results",
        str(folder / "results"),
        *options,
    ]
    main(arguments)


def test_every_row_is_trained_with_the_same_encoders_and_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = partial(evaluate, cache=tmp_path / "cache", instruments=Instruments(MeanColours()))
    monkeypatch.setattr("training.ablation.evaluate", quick)
    run(tmp_path)
    out, results = tmp_path / "out", tmp_path / "results"
    table = (results / "table.md").read_text(encoding="utf-8")
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
        with Image.open(results / name) as picture:
            assert picture.width > 100

    def never(*arguments: object) -> None:
        raise AssertionError("measured a second time")

    monkeypatch.setattr("training.ablation.evaluate", never)
    before = (out / "df-gan-0" / "checkpoint.pt").read_bytes()
    run(tmp_path)
    assert (out / "df-gan-0" / "checkpoint.pt").read_bytes() == before
    assert (results / "table.md").read_text(encoding="utf-8") == table
    with pytest.raises(AssertionError, match="measured a second time"):
        run(tmp_path, "--set", "gan.steps=7")


def test_separate_encoders_evaluate_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def quick(model: EvaluatedModel, data: str, metrics: Sequence[str], encoders: str, count: int) -> Evaluation:
        used.append(encoders)
        tools = Instruments(MeanColours())
        return evaluate(model, data, metrics, encoders, count, cache=tmp_path / "cache", instruments=tools)

    monkeypatch.setattr("training.ablation.evaluate", quick)
    run(tmp_path)
    run(tmp_path, evaluation_encoders={"seed": 7})  # what was measured by others is measured again
    out = tmp_path / "out"
    assert used == [str(out / name / "checkpoint.pt") for name in ["encoders"] * 3 + ["evaluation-encoders"] * 3]
    separate, encoders = (load_model(out / name / "checkpoint.pt") for name in ("evaluation-encoders", "encoders"))
    assert separate.provenance["config"]["seed"] == 7
    row = load_model(out / "df-gan-0" / "checkpoint.pt").model.text_encoder.encoder.weight
    assert row.equal(encoders.model.text_encoder.encoder.weight)
    assert not row.equal(separate.model.text_encoder.encoder.weight)


def test_the_shipped_ablations_fit_their_configs() -> None:
    for path in ABLATIONS.glob("*.yaml"):
        ablation = load_ablation(path)
        for changes in (ablation.evaluation_encoders, *(row.set for row in ablation.rows)):
            load_config(ablation.config, [f"{key}={yaml.safe_dump(value)}" for key, value in changes.items()])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("rows: [", "cannot be read"),
        ("config: tiny.yaml", "rows: Field required"),
        ("{config: tiny.yaml, rows: [{name: a, sets: {}}]}", "rows.0.sets"),
    ],
)
def test_a_bad_file_of_rows_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit) as exit_:
        main([str(path), "--out", str(tmp_path / "out")])
    assert exit_.value.code == 2
    stderr = capsys.readouterr().err
    assert said in stderr
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
