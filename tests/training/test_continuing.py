"""A run continued from a state: the same run, elsewhere, with fresh moments."""

import math
from pathlib import Path

import pytest
import torch

from tests.training.runs import TINY, assert_same, config_file, train
from training.checkpoint import load_checkpoint, load_model
from training.config import load_config, model_sizes
from training.damsm import DamsmPhase
from training.models.text_to_image import TextToImage
from training.state import write_state

SLOW = {"generator_learning_rate": 1e-12, "discriminator_learning_rate": 1e-12}


def state_of(run: Path, folder: Path) -> Path:
    return write_state(run / "checkpoint.pt", folder / "tiny.safetensors")


def test_a_run_continues_from_a_state_at_its_steps_and_says_so(straight: Path, tmp_path: Path) -> None:
    """With a rate of next to nothing, generator, average, discriminator and encoders are the state's."""
    config = config_file(tmp_path, gan=SLOW | {"steps": 9}, precision="fp32")
    result = train(config, "--out", tmp_path / "run", "--init", state_of(straight, tmp_path))
    assert result.exit_code == 0, result.output
    before, after = (load_checkpoint(folder / "checkpoint.pt") for folder in (straight, tmp_path / "run"))
    assert after["provenance"]["steps"] == {"damsm": 4, "gan": 9}
    assert after["provenance"]["initial"] is None
    first, second = after["provenance"]["segments"]
    assert first["steps"] == {"damsm": [0, 4], "gan": [0, 6]}
    assert second["steps"] == {"damsm": [4, 4], "gan": [6, 9]}
    assert second["note"] == "fresh optimizer moments"
    assert after["words"] == before["words"]
    for part, network in (("gan", "generator"), ("gan", "discriminator"), ("damsm", "networks")):
        for name, tensor in before["state"][part][network].items():
            found = after["state"][part][network][name]
            torch.testing.assert_close(found, tensor, rtol=2**-11, atol=1e-6, msg=f"{network}.{name}")


def test_a_run_continued_from_a_state_resumes_exactly_and_stays_in_its_segment(straight: Path, tmp_path: Path) -> None:
    state = state_of(straight, tmp_path)
    longer, shorter = (
        config_file(folder(tmp_path, name), gan={"steps": steps}) for name, steps in (("a", 12), ("b", 9))
    )
    assert train(longer, "--out", tmp_path / "unbroken", "--init", state).exit_code == 0
    assert train(shorter, "--out", tmp_path / "run", "--init", state).exit_code == 0
    state.unlink()  # the checkpoint holds all of it
    assert train(longer, "--out", tmp_path / "run", "--resume").exit_code == 0
    unbroken, resumed = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("unbroken", "run"))
    assert len(resumed["provenance"]["segments"]) == 2
    for part in ("generator", "average", "discriminator", "generator_optimizer"):
        assert_same(unbroken["state"]["gan"][part], resumed["state"]["gan"][part])


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_a_run_has_one_segment_and_an_exact_resume_adds_none(straight: Path) -> None:
    (segment,) = load_model(straight / "checkpoint.pt").provenance["segments"]
    assert segment["steps"] == {"damsm": [0, 4], "gan": [0, 6]}
    assert "note" not in segment


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_damsms_learning_rate_goes_on_from_a_state(steps: int) -> None:
    config = load_config(TINY)

    def phase() -> DamsmPhase:
        return DamsmPhase(config, TextToImage(model_sizes(config, 9)).text_encoder, torch.device("cpu"))

    unbroken, continued = phase(), phase()
    continued.skip(steps)
    for number in range(4):
        for one in (unbroken, continued) if number >= steps else (unbroken,):
            one.optimizer.step()
            one.schedule.step()
        if number >= steps:
            rates = [one.optimizer.param_groups[0]["lr"] for one in (unbroken, continued)]
            assert math.isclose(*rates, abs_tol=1e-12)


def test_an_earlier_versions_run_cannot_be_resumed(straight: Path, tmp_path: Path) -> None:
    run = folder(tmp_path, "run")
    (run / "config.yaml").write_bytes((straight / "config.yaml").read_bytes())
    content = load_checkpoint(straight / "checkpoint.pt")
    del content["state"]["layout"]
    torch.save(content, run / "checkpoint.pt")
    result = train(TINY, "--out", run, "--resume")
    assert result.exit_code == 2
    assert "start a new run from it with --init" in result.stderr
    assert result.stderr.count("\n") == 1
