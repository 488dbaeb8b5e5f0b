"""The networks that judge a generator while it learns, as they leave training, in a checkpoint.

DAMSM's image encoder measures R-precision, and both are what training goes on with: a generator that meets a new
discriminator unlearns much of what it knew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Judges:
    """State dicts of the networks; None for what is not there."""

    image_encoder: State | None = None
    discriminator: State | None = None


def judges_of_checkpoint(content: Mapping[str, Any]) -> Judges:
    """Those in a checkpoint's content, a frozen backbone's weights included."""
    networks, prefix = content["state"].get("damsm", {}).get("networks", {}), "image_encoder."
    encoder = {key.removeprefix(prefix): value for key, value in networks.items() if key.startswith(prefix)}
    return Judges(encoder or None, content["state"].get("gan", {}).get("discriminator"))


def backbone_of(provenance: Mapping[str, Any]) -> str:
    """The name of the backbone that a run's config chose; empty where the provenance does not tell."""
    return str(provenance.get("config", {}).get("damsm", {}).get("image_encoder", ""))
