"""Checkpoints: complete or absent, and never executed."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from t2i_engine.errors import OutputError
from t2i_engine.manifest import ModelSizes
from tests.training.random_weights import randomised
from training.checkpoint import CheckpointError, load_checkpoint, load_model, require_resumable, save_checkpoint
from training.models.text_to_image import TextToImage

WORDS = ("<end>", *(f"w{i}" for i in range(1, 20)))


def save(path: Path, sizes: ModelSizes, seed: int = 0) -> TextToImage:
    model = TextToImage(sizes)
    randomised(model, seed)
    save_checkpoint(path, sizes, WORDS, model.state_dict(), {"dataset": "none"}, {"step": 3})
    return model


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path, sizes: ModelSizes) -> None:
    model = save(tmp_path / "a.pt", sizes)
    loaded = load_model(tmp_path / "a.pt")
    assert loaded.words == WORDS
    assert loaded.provenance == {"dataset": "none"}
    assert loaded.model.sizes == sizes
    assert not loaded.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name])


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_a_user_error(tmp_path: Path, sizes: ModelSizes, kept: float) -> None:
    path = tmp_path / "a.pt"
    save(path, sizes)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        load_model(path)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_malicious_file_is_refused_and_not_executed(tmp_path: Path, writer: str) -> None:
    path, target = tmp_path / "evil.pt", tmp_path / "executed"
    if writer == "torch":
        torch.save({"weights": Payload(target)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        load_model(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("state", "said"),
    [({}, "holds only weights"), ({"gan": {"average": {}}, "position": {}}, "the run of an earlier version")],
)
def test_what_cannot_be_resumed_is_a_user_error_that_names_init(
    tmp_path: Path, sizes: ModelSizes, state: dict[str, object], said: str
) -> None:
    """An earlier version's state was written under the same format, and its model can still be read."""
    path = tmp_path / "a.pt"
    save_checkpoint(path, sizes, WORDS, TextToImage(sizes).state_dict(), {}, {"gan": {}})
    content = load_checkpoint(path)
    require_resumable(path, content)
    content["state"] = state
    with pytest.raises(CheckpointError, match=rf"{said}.* start a new run from it with --init .*a\.pt"):
        require_resumable(path, content)
    torch.save(content, path)
    assert load_model(path).words == WORDS


def test_other_pytorch_files_are_told_apart(tmp_path: Path) -> None:
    torch.save({"netG": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a 't2i-engine checkpoint"):
        load_model(tmp_path / "other.pt")


def test_a_failed_write_leaves_the_previous_checkpoint_and_nothing_else(
    tmp_path: Path, sizes: ModelSizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    save(path, sizes)
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        save(path, sizes, seed=1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
