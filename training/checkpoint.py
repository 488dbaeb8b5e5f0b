"""Checkpoints: single files, written atomically, and read with `weights_only` so that nothing in them is executed."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from t2i_engine.errors import UserError
from t2i_engine.files import write_atomically
from t2i_engine.manifest import ModelSizes
from training.models.text_to_image import TextToImage

FORMAT = "t2i-engine checkpoint 2"
OLD_FORMATS = ("t2i-engine checkpoint 1",)
"""Those that `t2i-engine migrate` converts (migration.py)."""

RUN_STATE = 2
"""The layout of the state that a run resumes from. It may change even if models can still be read."""

FROZEN = ".backbone.network."
"""Part of the names of an ImageNet network's tensors in an image encoder; these tensors never change."""

State = dict[str, torch.Tensor]


class CheckpointError(UserError):
    """A checkpoint that is missing, broken, or of another format."""


@dataclass(frozen=True)
class TrainedModel:
    """The result of training: the model with averaged weights, its vocabulary, and its provenance."""

    model: TextToImage
    """In evaluation mode, float32, on the CPU."""
    words: tuple[str, ...]
    """The vocabulary by token id; word 0 is padding."""
    provenance: dict[str, Any]
    image_encoder: State | None = None
    """DAMSM's state dict, including a frozen backbone, where the checkpoint has it; R-precision needs it too."""
    discriminator: State | None = None
    """Without it, a run that starts from the generator first unlearns much of what the generator had learned."""


def save_checkpoint(
    path: Path,
    sizes: ModelSizes,
    words: tuple[str, ...],
    weights: Mapping[str, torch.Tensor],
    provenance: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
    cure: str = "choose another --out",
) -> None:
    """Writes the model's `weights` (TextToImage's state dict) and, for resuming, the `state` of the run, atomically.

    Raises `OutputError`, ending with `cure`.
    """
    content = {
        "format": FORMAT,
        "sizes": asdict(sizes),
        "words": list(words),
        "weights": dict(weights),
        "provenance": dict(provenance),
        "state": {"layout": RUN_STATE, **state} if state else {},
    }
    write_atomically(path, lambda file: _save(content, file), cure)


def _save(content: Mapping[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # what torch.save makes of an OSError, such as a full disk
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def not_finite(content: object, name: str = "") -> list[str]:
    """The names of tensors in nested containers that contain NaN or infinity."""
    if isinstance(content, torch.Tensor):
        return [] if content.isfinite().all() else [name]
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(content, Mapping):
        parts = content.items()
    elif isinstance(content, list | tuple):
        parts = enumerate(content)
    return [found for key, part in parts for found in not_finite(part, f"{name}.{key}".removeprefix("."))]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads the content of a checkpoint onto the CPU. Raises `CheckpointError`."""
    content = read_content(path)
    if content.get("format") in OLD_FORMATS:
        command = f"t2i-engine migrate {shlex.quote(str(path))}"
        raise CheckpointError(f"checkpoint '{path}' is of an earlier version; convert it: {command}")
    if content.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' is not a '{FORMAT}' file; expected one written by `t2i-engine train`")
    return content


def require_resumable(path: Path, content: Mapping[str, Any]) -> None:
    """Raises `CheckpointError` if a checkpoint's content holds only a model, or the state of an earlier version."""
    state = content["state"]
    if state.get("layout") != RUN_STATE:
        found = "the run of an earlier version, which cannot be resumed" if "gan" in state else "only weights"
        raise CheckpointError(f"'{path}' holds {found}; start a new run from it with --init {shlex.quote(str(path))}")


def read_content(path: Path) -> dict[str, Any]:
    """Reads any PyTorch file onto the CPU; empty if it holds no dictionary. Raises `CheckpointError`."""
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' not found; expected a .pt file written by `t2i-engine train`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own: OSError for half a file, IndexError for text
        raise CheckpointError(
            f"checkpoint '{path}' is truncated or not a plain PyTorch file; use another, or train again"
        ) from error
    return content if isinstance(content, dict) else {}


def load_model(path: Path) -> TrainedModel:
    """Reads the model of a checkpoint, ready for drawing or export. Raises `CheckpointError`."""
    return model_in(path, load_checkpoint(path))


def model_in(path: Path, content: Mapping[str, Any]) -> TrainedModel:
    """The model in a checkpoint's content. Raises `CheckpointError`."""
    try:
        model = TextToImage(ModelSizes(**content["sizes"]))
        model.load_state_dict(content["weights"])
        networks, prefix = content["state"].get("damsm", {}).get("networks", {}), "image_encoder."
        encoder = {key.removeprefix(prefix): value for key, value in networks.items() if key.startswith(prefix)}
        discriminator = content["state"].get("gan", {}).get("discriminator")
        words, provenance = tuple(content["words"]), content["provenance"]
        return TrainedModel(model.eval(), words, provenance, encoder or None, discriminator)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"checkpoint '{path}' does not fit its own sizes: {reason}") from error


def is_frozen(name: str) -> bool:
    """Whether a tensor of this name belongs to an ImageNet network, which comes with a package."""
    return FROZEN in f".{name}"


def load_learned(network: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Loads a state dict that may lack a frozen ImageNet network, which then stays as it is.

    Raises `RuntimeError` for any other tensor that is missing, unexpected, or of another shape.
    """
    frozen = {name: tensor for name, tensor in network.state_dict().items() if is_frozen(name)}
    network.load_state_dict(frozen | dict(state))


def backbone_of(provenance: Mapping[str, Any]) -> str:
    """The backbone of the image encoder in a run's config; empty if the provenance has none."""
    return str(provenance.get("config", {}).get("damsm", {}).get("image_encoder", ""))
