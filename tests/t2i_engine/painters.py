"""Runners that paint instead of drawing with a network: fast, and every input shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from t2i_engine.backends.base import Array
from t2i_engine.formats import GENERATOR, TEXT_ENCODER
from tests.tiny_model import SIZES

SIDE = SIZES.resolution


@dataclass
class Painter:
    """A generator: fields of colour by noise and sentence, and grain of a strength and pattern of their own."""

    drawn: int = 0

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Paints the pixels alone."""
        levels = feeds["noise"] + feeds["sentence"].mean(axis=1, keepdims=True)
        fields = 128 + 40 * np.repeat(np.repeat(levels.reshape(-1, 2, 4), SIDE // 2, axis=1), SIDE // 4, axis=2)
        grain = np.random.default_rng(0).normal(0, 4, (SIDE, SIDE, 3))
        picture = fields[..., None] * [1.0, 0.8, 0.6] + grain * np.exp(0.2 * levels[:, :1, None, None])
        self.drawn += len(levels)
        return {"pixels": self.changed(np.clip(np.round(picture), 0, 255).astype(np.uint8))}

    def changed(self, pixels: Array) -> Array:
        """What subclasses spoil; `drawn` counts pictures, this batch's included."""
        return pixels


@dataclass
class Encoder:
    """A text encoder: a vector per caption from the ids of its words."""

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Encodes each row."""
        known = np.arange(feeds["tokens"].shape[1]) < feeds["lengths"][:, None]
        words = np.sin(feeds["tokens"][..., None] * np.arange(1, SIZES.sentence_width + 1)) * known[..., None]
        return {"sentence": (words.sum(axis=1) / feeds["lengths"][:, None]).astype(np.float32)}


def paint() -> dict[str, Encoder | Painter]:
    """Both networks."""
    return {TEXT_ENCODER: Encoder(), GENERATOR: Painter()}
