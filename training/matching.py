"""DAMSM's image encoder as it leaves training, in a checkpoint or a bundle: for R-precision, and to train on from."""

from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from t2i_engine.bundle import Bundle
from t2i_engine.errors import BundleError

IMAGE_ENCODER = "image_encoder.safetensors"
"""The file of a bundle, which the runtime never reads."""

State = dict[str, Tensor]


def of_checkpoint(content: Mapping[str, Any]) -> State | None:
    """The image encoder's state in a checkpoint's content, a frozen backbone's included; None where there is none."""
    networks, prefix = content["state"].get("damsm", {}).get("networks", {}), "image_encoder."
    found = {key.removeprefix(prefix): value for key, value in networks.items() if key.startswith(prefix)}
    return found or None


def of_bundle(bundle: Bundle) -> State | None:
    """The image encoder's state in a bundle; None where there is none. Raises `BundleError` for a broken file."""
    if IMAGE_ENCODER not in bundle.manifest.files:
        return None
    try:
        return load_file(bundle.path(IMAGE_ENCODER))
    except SafetensorError as error:
        raise BundleError(f"{bundle.folder / IMAGE_ENCODER} holds no tensors ({error}); export it again") from None


def backbone_of(provenance: Mapping[str, Any]) -> str:
    """The name of the backbone that a run's config chose; empty where the provenance does not tell."""
    return str(provenance.get("config", {}).get("damsm", {}).get("image_encoder", ""))
