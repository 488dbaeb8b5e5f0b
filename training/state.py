"""States: small files with which a run continues on another machine (`python -m training.state`).

A state holds the networks of a run in half precision, without optimizers and without ImageNet networks, which come with
their packages. Rounding to 11 bits changes a weight by at most 1/2048 of itself, and up as often as down, so that it
shifts neither what a network computes on average nor the moving average it continues; weights below 6e-5 keep fewer
bits, to the nearest 6e-8.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from t2i_engine.bundle import HUB
from t2i_engine.errors import UserError
from t2i_engine.files import write_atomically
from t2i_engine.manifest import ModelSizes
from t2i_engine.table import size
from training.checkpoint import State, TrainedModel, is_frozen, load_checkpoint, load_model, model_in
from training.models.text_to_image import TextToImage
from training.provenance import segments_of

FORMAT = "t2i-engine state 1"
KEY = "t2i-engine"
"""The only key of the metadata: several would be written in arbitrary order."""
SUFFIX = ".safetensors"
MOST = torch.finfo(torch.float16).max


class StateError(UserError):
    """A state that cannot be written, or is missing, broken, or of another format."""


@dataclass(frozen=True)
class RunState:
    """What a run continues from: its networks in float32, and how far it had come."""

    trained: TrainedModel
    """With averaged weights, without ImageNet networks."""
    generator: State | None
    """The weights in training, which `trained` averages; None if only weights were kept, to start another run."""
    steps: dict[str, int]
    """Completed steps of each phase; none of a run that cannot continue."""
    plan: dict[str, Any]
    """The fields of the run's `Plan`."""


def is_trained(name: str) -> bool:
    """Whether a name is that of a file that `load_trained` reads, and not of a bundle."""
    return name.endswith((".pt", SUFFIX)) and not name.startswith(HUB)


def write_state(checkpoint: Path, out: Path, weights_only: bool = False) -> Path:
    """Writes the state of the run in a checkpoint, atomically, and returns its path.

    `weights_only` keeps what draws pictures, in a third of the size; a run can only start from it at step 0. Raises
    `CheckpointError`, `StateError`, and `OutputError`.
    """
    if out.suffix != SUFFIX:
        raise StateError(f"--out '{out}' is not a state's path; expected one that ends in {SUFFIX}")
    content = load_checkpoint(checkpoint)
    trained, run = model_in(checkpoint, content), content["state"]
    if "gan" not in run:
        raise StateError(f"'{checkpoint}' holds only weights, no run to continue; start a run from it with --init")
    networks: dict[str, Mapping[str, Tensor]] = {
        "text_encoder": trained.model.text_encoder.state_dict(),
        "average": trained.model.generator.state_dict(),
    }
    if not weights_only:
        networks |= {
            "generator": run["gan"]["generator"],
            "discriminator": trained.discriminator or {},
            "image_encoder": trained.image_encoder or {},
        }
    tensors = {
        f"{network}.{name}": _half(f"{network}.{name}", tensor)
        for network, state in networks.items()
        for name, tensor in state.items()
        if not is_frozen(name)
    }
    described = {
        "format": FORMAT,
        "sizes": asdict(trained.model.sizes),
        "words": trained.words,
        "provenance": trained.provenance | {"segments": segments_of(trained.provenance)},
        "plan": run["plan"],
    }
    metadata = {KEY: json.dumps(described, ensure_ascii=False)}
    return write_atomically(out, save(tensors, metadata), "choose another --out")


def load_state(path: Path) -> RunState:
    """Reads a state. Raises `StateError`."""
    if not path.is_file():
        raise StateError(f"state '{path}' not found; expected a file written by `python -m training.state`")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise StateError(f"state '{path}' is truncated or not a safetensors file ({error}); write it again") from error
    try:
        run = json.loads(metadata.get(KEY, "{}"))
        if run.get("format") != FORMAT:
            raise StateError(f"'{path}' is not a '{FORMAT}' file; expected one written by `python -m training.state`")
        with torch.device("meta"):  # no memory for sizes that the file does not have
            model = TextToImage(ModelSizes(**run["sizes"]))
        generator = _network(tensors, "generator")
        if generator:
            model.generator.load_state_dict(generator, assign=True)  # it must fit as the average must
        model.generator.load_state_dict(_network(tensors, "average"), assign=True)
        model.text_encoder.load_state_dict(_network(tensors, "text_encoder"), assign=True)
        encoder, discriminator = _network(tensors, "image_encoder"), _network(tensors, "discriminator")
        words, provenance = tuple(run["words"]), dict(run["provenance"])
        trained = TrainedModel(model.eval(), words, provenance, encoder or None, discriminator or None)
        steps = {phase: int(count) for phase, count in provenance["steps"].items()}
        return RunState(trained, generator or None, steps if generator else {}, dict(run["plan"]))
    except (RuntimeError, AttributeError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise StateError(f"state '{path}' does not fit its own description ({reason}); write it again") from error


def load_trained(path: Path) -> TrainedModel:
    """The model of a checkpoint, or of a state as it was rounded. Raises `CheckpointError` and `StateError`."""
    return load_state(path).trained if path.suffix == SUFFIX else load_model(path)


def _network(tensors: Mapping[str, Tensor], network: str) -> State:
    """The state dict of one network, in float32."""
    prefix = f"{network}."
    return {
        name.removeprefix(prefix): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _half(name: str, tensor: Tensor) -> Tensor:
    """A tensor in half precision, if it holds fractions. Raises `StateError` where that would overflow."""
    if not tensor.is_floating_point():
        return tensor.contiguous()
    if not bool((tensor.abs() <= MOST).all()):
        raise StateError(
            f"{name} holds a value beyond {MOST:,.0f}, the largest in half precision; "
            "continue this run from its checkpoint.pt"
        )
    return tensor.half().contiguous()


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes a state; prints its path and size."""
    parser = argparse.ArgumentParser(
        prog="python -m training.state", description="Write what a run needs to continue on another machine."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT.pt")
    parser.add_argument("--out", type=Path, required=True, metavar="NAME.safetensors", help="in training/states/")
    parser.add_argument("--weights-only", action="store_true", help="what draws pictures, to start another run from")
    options = parser.parse_args(arguments)
    try:
        path = write_state(options.checkpoint, options.out, options.weights_only)
    except UserError as error:
        parser.exit(2, f"error: {error.message}\n")
    print(f"{path}  {size(path.stat().st_size)}")


if __name__ == "__main__":
    main()
