"""Checkpoints of earlier versions, rewritten for this one: the same weights and training state under today's names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2i_engine.manifest import ModelSizes
from t2i_engine.migration import OLD_SIZES, migrate_config
from training.checkpoint import FORMAT, OLD_FORMATS, CheckpointError, read_content, save_checkpoint
from training.models.image_encoder import EfficientNetLite0

BACKBONE = "image_encoder.backbone.network."


def migrate_checkpoint(path: Path, out: Path) -> None:
    """Writes a checkpoint of an earlier version to `out`, which may be `path`, in today's format.

    Raises `CheckpointError` if it is not one, and `OutputError`.
    """
    content = read_content(path)
    if content.get("format") == FORMAT:
        raise CheckpointError(f"checkpoint '{path}' is up to date; there is nothing to migrate")
    if content.get("format") not in OLD_FORMATS:
        raise CheckpointError(f"'{path}' is not a checkpoint of t2i-engine; expected one written by `t2i-engine train`")
    try:
        sizes = ModelSizes(**{OLD_SIZES.get(name, name): value for name, value in content["sizes"].items()})
        words, weights = tuple(content["words"]), dict(content["weights"])
        provenance, state = dict(content["provenance"]), dict(content["state"])
        if "config" in provenance:
            provenance["config"] = migrate_config(provenance["config"])
        if "damsm" in state:
            state["damsm"] = state["damsm"] | {"networks": _migrate_networks(state["damsm"]["networks"])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"checkpoint '{path}' is damaged ({reason}); migrate another copy of it") from error
    save_checkpoint(out, sizes, words, weights, provenance, state)


def _migrate_networks(networks: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the tensors of an EfficientNet-Lite0, which timm's network has in the same order."""
    old = [name for name in networks if name.startswith(f"{BACKBONE}to_")]
    names = EfficientNetLite0(pretrained=False).network.state_dict() if old else {}
    renamed = dict(zip(old, (BACKBONE + name for name in names), strict=True))
    return {renamed.get(name, name): tensor for name, tensor in networks.items()}
