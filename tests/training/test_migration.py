"""Checkpoints of earlier versions: refused with the cure, and after it they draw and resume as before."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2i_engine.manifest import ModelSizes
from t2i_engine.migration import OLD_KEYS, OLD_SIZES
from t2i_engine.tokenizer import Tokenizer
from tests.tiny_model import WORDS, make_model
from tests.training.runs import TINY, assert_same, train
from training.checkpoint import FORMAT, OLD_FORMATS, CheckpointError, load_checkpoint, load_model, save_checkpoint
from training.migration import BACKBONE, migrate_checkpoint
from training.models.image_encoder import EfficientNetLite0, ImageEncoder
from training.sampling import network_sampler


def aged(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint as the version before wrote it."""
    old_sizes = {new: old for old, new in OLD_SIZES.items()}
    old_keys = {new: old for old, new in OLD_KEYS.items()}

    def older(config: dict[str, Any], section: str = "") -> dict[str, Any]:
        return {
            old_keys.get(section + key, section + key).removeprefix(section): older(value, f"{section}{key}.")
            if isinstance(value, dict)
            else value
            for key, value in config.items()
        }

    provenance = content["provenance"] | {"config": older(content["provenance"].get("config", {}))}
    sizes = {old_sizes.get(name, name): value for name, value in content["sizes"].items()}
    return content | {"format": OLD_FORMATS[-1], "sizes": sizes, "provenance": provenance}


@pytest.mark.parametrize(
    "damage",
    [{"sizes": None}, {"sizes": {"x": 1}}, {"weights": None}, {"provenance": {"config": 3}}, {"state": {"damsm": {}}}],
    ids=str,
)
def test_a_damaged_old_checkpoint_is_one_line_and_leaves_nothing(
    straight: Path, tmp_path: Path, damage: dict[str, Any]
) -> None:
    old, new = tmp_path / "old.pt", tmp_path / "new.pt"
    torch.save(aged(load_checkpoint(straight / "checkpoint.pt")) | damage, old)
    with pytest.raises(CheckpointError, match=r"old\.pt' is damaged \(.*\); migrate another copy") as caught:
        migrate_checkpoint(old, new)
    assert "\n" not in caught.value.message
    assert not new.exists()


def draw(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    trained = load_model(path)
    model = trained.model
    sampler = network_sampler(model.sizes, Tokenizer(trained.words), model.text_encoder, model.generator)
    return sampler.draw(sampler.encode(["a yellow bird", "a red one"]), [0, 1])


def test_an_old_checkpoint_is_refused_with_the_cure_and_draws_the_same_once_migrated(
    straight: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.pt", tmp_path / "new.pt"
    content = aged(load_checkpoint(straight / "checkpoint.pt"))
    assert {"picture_side", "base_width", "width_limit"} <= content["sizes"].keys()
    assert {"side", "mirror"} <= content["provenance"]["config"]["data"].keys()
    torch.save(content, old)
    with pytest.raises(CheckpointError, match=rf"earlier version.*t2i-engine migrate {old}"):
        load_model(old)
    migrate_checkpoint(old, new)
    assert_same(load_checkpoint(straight / "checkpoint.pt"), load_checkpoint(new))
    assert np.array_equal(draw(new), draw(straight / "checkpoint.pt"))


def test_a_run_resumes_from_its_migrated_checkpoint(straight: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(straight, tmp_path / "run")
    checkpoint = folder / "checkpoint.pt"
    torch.save(aged(load_checkpoint(checkpoint)), checkpoint)
    longer = ("--out", folder, "--resume", "--set", "gan.steps=7")
    result = train(TINY, *longer)
    assert result.exit_code == 2
    assert "t2i-engine migrate" in result.stderr
    migrate_checkpoint(checkpoint, checkpoint)
    assert train(TINY, *longer).exit_code == 0
    assert load_checkpoint(checkpoint)["state"]["position"]["steps"]["gan"] == 7


def test_the_tensors_of_an_efficientnet_get_timms_names(tmp_path: Path, sizes: ModelSizes) -> None:
    encoder = ImageEncoder(EfficientNetLite0(pretrained=False), sizes.sentence_width)
    expected = encoder.state_dict()
    networks = {}
    for number, (name, tensor) in enumerate(expected.items()):
        backbone = f"image_encoder.{name}".startswith(BACKBONE)
        networks[f"{BACKBONE}to_regions.{number}" if backbone else f"image_encoder.{name}"] = tensor
    save_checkpoint(tmp_path / "a.pt", sizes, WORDS, make_model().state_dict(), {}, {"damsm": {"networks": networks}})
    torch.save(aged(load_checkpoint(tmp_path / "a.pt")), tmp_path / "a.pt")
    migrate_checkpoint(tmp_path / "a.pt", tmp_path / "a.pt")
    found = load_checkpoint(tmp_path / "a.pt")["state"]["damsm"]["networks"]
    assert_same({f"image_encoder.{name}": tensor for name, tensor in expected.items()}, found)


@pytest.mark.parametrize(
    ("content", "named"), [({"format": FORMAT}, "nothing to migrate"), ([1], "is not a checkpoint")]
)
def test_what_cannot_be_migrated_is_a_user_error(tmp_path: Path, content: object, named: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=named):
        migrate_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()
