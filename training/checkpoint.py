"""Checkpoints: one file, written atomically, read with `weights_only` so that nothing in it is executed."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from t2i_engine.bundle import ModelSizes
from t2i_engine.errors import UserError
from training.judges import Judges, judges_of_checkpoint
from training.models.text_to_image import TextToImage

FORMAT = "t2i-engine checkpoint 1"


class CheckpointError(UserError):
    """A checkpoint that is missing, broken, or not one of ours."""


@dataclass(frozen=True)
class TrainedModel:
    """What leaves training: the model with its averaged weights, the words it knows, and where it comes from."""

    model: TextToImage
    """In evaluation mode, float32, on the CPU."""
    words: tuple[str, ...]
    """The vocabulary by token id; word 0 is padding."""
    provenance: dict[str, Any]
    judges: Judges
    """The networks that it learned from."""


def save_checkpoint(
    path: Path,
    sizes: ModelSizes,
    words: tuple[str, ...],
    weights: Mapping[str, torch.Tensor],
    provenance: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
) -> None:
    """Writes the model's `weights` (TextToImage's state dict) and, for resuming, the `state` of the run.

    The file appears under its name only when it is complete and on the disk. Raises `OSError` where it cannot be.
    """
    content = {
        "format": FORMAT,
        "sizes": asdict(sizes),
        "words": list(words),
        "weights": dict(weights),
        "provenance": dict(provenance),
        "state": dict(state or {}),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except RuntimeError as error:  # torch.save tells of a full disk by one, with the reason behind it
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def not_finite(content: object, name: str = "") -> list[str]:
    """The names of the tensors in nested containers that hold NaN or infinity."""
    if isinstance(content, torch.Tensor):
        return [] if content.isfinite().all() else [name]
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(content, Mapping):
        parts = content.items()
    elif isinstance(content, list | tuple):
        parts = enumerate(content)
    return [found for key, part in parts for found in not_finite(part, f"{name}.{key}".removeprefix("."))]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint's content onto the CPU. Raises `CheckpointError`."""
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' not found; expected a .pt file written by `t2i-engine train`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own: OSError for half a file, IndexError for a text
        raise CheckpointError(
            f"checkpoint '{path}' is truncated or not a plain PyTorch file; take another, or train again"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' is not a '{FORMAT}' file; export and --init take those of `t2i-engine train`")
    return content


def load_model(path: Path) -> TrainedModel:
    """Reads the model of a checkpoint, ready to draw or to be exported. Raises `CheckpointError`."""
    content = load_checkpoint(path)
    try:
        model = TextToImage(ModelSizes(**content["sizes"]))
        model.load_state_dict(content["weights"])
        return TrainedModel(model.eval(), tuple(content["words"]), content["provenance"], judges_of_checkpoint(content))
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"checkpoint '{path}' does not fit its own sizes: {reason}") from error
