"""Runs: their folder, resuming exactly, starting from weights, and errors with their cure."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image

from export.pipeline import export_bundle
from tests.training.runs import TINY, assert_same, config_file, train
from training.checkpoint import load_checkpoint, load_model
from training.phase import StepLosses
from training.step import GanPhase


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


def stop_at(monkeypatch: pytest.MonkeyPatch, number_to_stop_at: int) -> None:
    """Interrupts the training of the GAN, as Ctrl-C does."""
    step = GanPhase.step

    def stop(trainer: GanPhase, number: int) -> StepLosses:
        if number == number_to_stop_at:
            raise KeyboardInterrupt
        return step(trainer, number)

    monkeypatch.setattr(GanPhase, "step", stop)


def test_a_run_leaves_a_checkpoint_samples_losses_and_what_it_was_made_with(straight: Path) -> None:
    model = load_model(straight / "checkpoint.pt")
    assert model.provenance["steps"] == {"damsm": 4, "gan": 6}
    assert model.provenance["dataset"]["source"] == "synthbirds"
    assert set(model.provenance["versions"]) >= {"python", "torch", "t2i-engine"}
    assert set(model.provenance["metrics"]["losses"]) == {"damsm", "gan"}
    assert "yellow" in model.words
    assert yaml.safe_load((straight / "config.yaml").read_text(encoding="utf-8"))["gan"]["steps"] == 6
    assert json.loads((straight / "versions.json").read_text(encoding="utf-8"))["torch"] == version("torch")
    assert sorted(path.name for path in (straight / "samples").iterdir()) == ["000003.png", "000006.png"]
    assert Image.open(straight / "samples" / "000006.png").size == (8 * 32, 32)
    rows = [json.loads(line) for line in (straight / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["phase"], row["step"]) for row in rows] == [("damsm", 4), ("gan", 6)]
    assert {"D real", "D penalty", "G adversarial", "G kl", "G text", "G image"} <= set(rows[-1])


def test_standard_output_holds_only_the_checkpoints_path(tmp_path: Path) -> None:
    result = train(TINY, "--out", tmp_path / "run")
    assert result.stdout == f"{tmp_path / 'run' / 'checkpoint.pt'}\n"
    assert "pictures/s" in result.stderr


@pytest.mark.parametrize("stopped_at", [2, 4])
def test_a_stopped_and_resumed_run_ends_bit_for_bit_as_an_unbroken_one(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    stop_at(monkeypatch, stopped_at)
    assert train(TINY, "--out", tmp_path / "run").exit_code == 1
    monkeypatch.undo()
    assert train(TINY, "--out", tmp_path / "run", "--resume").exit_code == 0
    resumed = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert_same(load_checkpoint(straight / "checkpoint.pt"), resumed)


def test_a_run_on_pretrained_features_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_file(tmp_path, gan={"discriminator": "projected", "diffaugment": True}, precision="fp32")
    assert train(config, "--out", tmp_path / "unbroken").exit_code == 0
    stop_at(monkeypatch, 4)
    assert train(config, "--out", tmp_path / "run").exit_code == 1
    monkeypatch.undo()
    assert train(config, "--out", tmp_path / "run", "--resume").exit_code == 0
    unbroken, resumed = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("unbroken", "run"))
    assert_same(unbroken, resumed)
    assert not any("stages" in name for name in resumed["state"]["gan"]["discriminator"])  # come with their package


def start(script: str, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """Trains in a process of its own: other tests leave another number of threads, which sums in another order."""
    command = [sys.executable, "-c", script, "train", str(TINY), "--out", str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


TRAIN = "from t2i_engine.cli import main; main()"
KILLED_WHILE_WRITING = f"""
import io, os, signal, torch
written, save = [], torch.save

def half(content, file):
    whole = io.BytesIO()
    save(content, whole)
    written.append(whole.getvalue())
    if len(written) == 4:  # the third checkpoint is there, of step 3 of the GAN
        file.write(written[-1][: len(written[-1]) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    file.write(written[-1])

torch.save = half
{TRAIN}
"""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The checkpoint of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    assert start(TRAIN, folder).wait() == 0
    return load_checkpoint(folder / "checkpoint.pt")


def test_a_killed_run_resumes_to_the_same_end(tmp_path: Path, unbroken: dict[str, object]) -> None:
    folder = tmp_path / "killed"
    process = start(TRAIN, folder)
    while not (folder / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert start(TRAIN, folder, "--resume").wait() == 0
    assert_same(unbroken, load_checkpoint(folder / "checkpoint.pt"))


def test_a_run_killed_while_it_writes_a_checkpoint_resumes_to_the_same_end(
    tmp_path: Path, unbroken: dict[str, object]
) -> None:
    folder = tmp_path / "killed"
    assert start(KILLED_WHILE_WRITING, folder).wait() == -signal.SIGKILL
    assert list(folder.glob(".*.partial*"))
    assert load_checkpoint(folder / "checkpoint.pt")["state"]["position"]["steps"] == {"damsm": 4, "gan": 3}
    assert start(TRAIN, folder, "--resume").wait() == 0
    assert_same(unbroken, load_checkpoint(folder / "checkpoint.pt"))
    assert not list(folder.glob(".*.partial*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_that_is_being_trained_is_not_resumed_and_stays_as_it_is(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.run_folder.SECONDS_FOR_LOCK", 0.1)
    folder = shutil.copytree(straight, tmp_path / "run")
    with FileLock(folder / ".lock"):  # as the process that trains it holds it, while it writes
        (folder / ".1-1-a.partial.pt").write_bytes(b"half a checkpoint")
        with (folder / "losses.jsonl").open("a") as file:
            file.write('{"phase": "gan", "step": 50}\n')
        before = contents(folder)
        result = train(TINY, "--out", folder, "--resume")
        assert result.exit_code == 2, result.output
        assert f"another process is training in '{folder}'" in result.stderr
        assert contents(folder) == before
    assert train(TINY, "--out", folder, "--resume").exit_code == 0


def test_a_resume_that_is_refused_leaves_the_folder_as_it_is(straight: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(straight, tmp_path / "run")
    with (folder / "losses.jsonl").open("a") as file:
        file.write('{"phase": "gan", "step": 50}\n')
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config["data"]["synthbirds_count"] = 65  # not what its checkpoint was trained on
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    before = contents(folder)
    assert train(folder / "config.yaml", "--out", folder, "--resume").exit_code == 2
    assert contents(folder) == before


def test_resuming_a_finished_run_changes_nothing(straight: Path) -> None:
    before = (straight / "checkpoint.pt").read_bytes()
    assert train(TINY, "--out", straight, "--resume").exit_code == 0
    assert (straight / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    "model", [{"conditioning_augmentation": False}, {"adaptive_block": False}, {"base_channels": 3}], ids=str
)
def test_every_switch_and_size_trains(tmp_path: Path, model: dict[str, object]) -> None:
    config = config_file(tmp_path, model=model, precision="fp32", folded=False)
    assert train(config, "--out", tmp_path / "run").exit_code == 0
    sizes = load_model(tmp_path / "run" / "checkpoint.pt").model.sizes
    for name, value in model.items():
        assert getattr(sizes, name) == value


@pytest.mark.parametrize(("source", "damsm_steps"), [("checkpoint.pt", 0), ("bundle", 4)])
def test_init_starts_from_the_words_and_weights_of_a_checkpoint_or_bundle(
    straight: Path, tmp_path: Path, source: str, damsm_steps: int
) -> None:
    initial = straight / "checkpoint.pt"
    if source == "bundle":  # without an image encoder, which DAMSM has to train
        initial = export_bundle(initial, tmp_path / "bundle", "tiny", lambda _: None).folder
    slow = {"generator_learning_rate": 1e-12, "discriminator_learning_rate": 1e-12}
    config = config_file(tmp_path, gan=slow, precision="fp32")
    result = train(config, "--out", tmp_path / "run", "--init", initial)
    assert result.exit_code == 0, result.output
    start, end = (load_model(folder / "checkpoint.pt") for folder in (straight, tmp_path / "run"))
    assert end.words == start.words
    assert end.provenance["steps"] == {"damsm": damsm_steps, "gan": 6}
    for name, tensor in start.model.state_dict().items():
        torch.testing.assert_close(end.model.state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_a_retrained_text_encoder_keeps_its_words_and_learns_those_it_lacks(straight: Path, tmp_path: Path) -> None:
    """Other birds are described in other words; with a rate of next to nothing all else stays as it was."""
    slow = {"generator_learning_rate": 1e-12, "discriminator_learning_rate": 1e-12}
    changes: dict[str, object] = {"gan": slow, "data": {"synthbirds_count": 200}, "precision": "fp32"}
    config = config_file(tmp_path, damsm={"finetune": True, "learning_rate": 1e-12}, **changes)
    result = train(config, "--out", tmp_path / "run", "--init", straight / "checkpoint.pt")
    assert result.exit_code == 0, result.output
    start, end = (load_model(folder / "checkpoint.pt") for folder in (straight, tmp_path / "run"))
    assert end.words[: len(start.words)] == start.words
    assert len(end.words) > len(start.words)
    assert end.provenance["steps"] == {"damsm": 4, "gan": 6}
    for name, tensor in start.model.state_dict().items():
        now = end.model.state_dict()[name][: len(tensor)]
        torch.testing.assert_close(now, tensor, rtol=0, atol=1e-6)


def test_in_its_head_start_the_discriminator_learns_alone(straight: Path, tmp_path: Path) -> None:
    config = config_file(tmp_path, gan={"discriminator_warmup": 6}, precision="fp32")
    result = train(config, "--out", tmp_path / "run", "--init", straight / "checkpoint.pt")
    assert result.exit_code == 0, result.output
    start, end = (load_checkpoint(folder / "checkpoint.pt") for folder in (straight, tmp_path / "run"))
    assert_same(start["weights"], end["weights"])
    assert not torch.equal(*(run["state"]["gan"]["discriminator"]["conv_img.weight"] for run in (start, end)))


@pytest.mark.parametrize("stopped_at", [1, 4])
def test_a_run_that_began_from_weights_resumes_as_it_began(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    initial = tmp_path / "initial.pt"
    shutil.copy(straight / "checkpoint.pt", initial)
    assert train(TINY, "--out", tmp_path / "unbroken", "--init", initial).exit_code == 0
    stop_at(monkeypatch, stopped_at)
    assert train(TINY, "--out", tmp_path / "run", "--init", initial).exit_code == 1
    monkeypatch.undo()
    assert train(TINY, "--out", tmp_path / "run", "--resume", "--init", "birds").exit_code == 2
    if stopped_at > 3:
        initial.unlink()  # the checkpoint holds all of it
    result = train(TINY, "--out", tmp_path / "run", "--resume")
    assert result.exit_code == 0, result.output
    unbroken, resumed = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("unbroken", "run"))
    assert_same(unbroken, resumed)
    assert resumed["provenance"]["initial"]["run"] == "tiny"
    assert resumed["provenance"]["steps"] == {"damsm": 0, "gan": 6}


def test_a_resumed_run_may_go_on_longer_and_slower(straight: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(straight, tmp_path / "run")
    config = config_file(tmp_path, gan={"steps": 8, "generator_learning_rate": 1e-12}, precision="fp32")
    assert train(config, "--out", folder, "--resume").exit_code == 0
    content = load_checkpoint(folder / "checkpoint.pt")
    assert content["state"]["position"]["steps"] == {"damsm": 4, "gan": 8}
    assert content["provenance"]["config"]["gan"]["steps"] == 8
    before = load_checkpoint(straight / "checkpoint.pt")["state"]["gan"]["generator"]
    for name, tensor in content["state"]["gan"]["generator"].items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-6)


def test_a_run_goes_on_after_half_a_line_of_losses(straight: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(straight, tmp_path / "run")
    with (folder / "losses.jsonl").open("a") as file:
        file.write('{"phase": "ga')
    assert train(TINY, "--out", folder, "--resume").exit_code == 0
    rows = (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["step"] for row in rows] == [4, 6]


def test_a_failed_start_leaves_no_folder_behind(straight: Path, tmp_path: Path) -> None:
    starts: list[dict[str, object]] = [
        {"sample_captions": ["xyzzy"]},
        {"gan": {"batch_size": 65}},
        {"model": {"noise_width": 5000}},
        {"gan": {"adam_betas": [0.0, 1.5]}},
        {"model": {"base_channels": 8}, "init_from": str(straight / "checkpoint.pt")},
    ]
    for number, changes in enumerate(starts):
        folder = tmp_path / f"run{number}"
        result = train(config_file(tmp_path, **changes), "--out", folder)
        assert result.exit_code == 2, result.output
        assert len([line for line in result.stderr.splitlines() if line.startswith("Error")]) == 1
        assert not folder.exists()


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, calls = os.fsync, iter(range(100))

    def full(descriptor: int) -> None:
        if next(calls) > 2:  # config.yaml, versions.json and the first checkpoint
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    result = train(TINY, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["state"]["position"]["steps"]["damsm"] == 3


def test_init_with_other_sizes_is_an_error_naming_them(straight: Path, tmp_path: Path) -> None:
    config = config_file(tmp_path, model={"base_channels": 8})
    result = train(config, "--out", tmp_path / "run", "--init", straight / "checkpoint.pt")
    assert result.exit_code == 2
    assert "base_channels 4 instead of 8" in result.stderr


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = GanPhase.step

    def spoiled(phase: GanPhase, number: int) -> StepLosses:
        losses = step(phase, number)
        if number == 4:
            losses.values[losses.names.index("G kl")] = float("nan")
        return losses

    monkeypatch.setattr(GanPhase, "step", spoiled)
    result = train(TINY, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "gan step 4: G kl is not finite" in result.stderr
    assert str(tmp_path / "run" / "checkpoint.pt") in result.stderr
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["state"]["position"]["steps"]["gan"] == 3


def test_wrong_folders_and_files_are_one_line_with_the_cure(straight: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    other = config_file(tmp_path, gan={"batch_size": 4})
    cases: list[tuple[list[object], str]] = [
        ([TINY, "--out", straight], "--resume"),
        ([TINY, "--out", tmp_path / "new", "--resume"], "holds no run to resume"),
        ([other, "--out", straight, "--resume"], "gan.batch_size"),
        ([TINY, "--out", file / "run"], "cannot be written"),
        ([tmp_path / "none.yaml"], "none.yaml"),
        ([TINY, "--out", tmp_path / "new", "--init", tmp_path / "none.pt"], "not found"),
        ([TINY, "--out", tmp_path / "new", "--init", "birdz"], "birdz"),
    ]
    for arguments, part in cases:
        result = train(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert part in result.stderr
        assert "Traceback" not in result.output
    assert not (tmp_path / "new").exists()
