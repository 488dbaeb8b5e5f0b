"""Small stand-ins for what measures: features that a test can follow, and batches without a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2i_engine.backends.base import Array
from t2i_engine.manifest import ModelSizes
from t2i_engine.pictures import Pixels
from t2i_engine.sampler import Sampler
from t2i_engine.tokenizer import Tokenizer
from training.evaluation import GeneratedBatch


@dataclass(frozen=True)
class PaintingSampler(Sampler):
    """Pictures are painted by a function of the test's, of each caption's last token and seed."""

    paint: Callable[[Array, Sequence[int]], Pixels]

    def draw(self, sentences: Array, seeds: Sequence[int], truncation: float = 1.0) -> Pixels:
        """Paints the tokens that `sentences` are made of."""
        return self.paint(sentences[:, 0].astype(int), seeds)


def painting_sampler(
    tokenizer: Tokenizer, resolution: int, paint: Callable[[Array, Sequence[int]], Pixels]
) -> PaintingSampler:
    """A sampler for pictures of a resolution."""
    sizes = ModelSizes(resolution, 1, 1, 2, 1, len(tokenizer.words), False, False)
    return PaintingSampler(sizes, tokenizer, _LastToken(), _LastToken(), paint)


class _LastToken:
    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        last = feeds["tokens"][np.arange(len(feeds["lengths"])), feeds["lengths"] - 1]
        return {"sentence": last[:, None].astype(np.float32)}


class MeanColours:
    """A feature network that counts its pictures: the mean colour of each quarter of a picture."""

    width = 12

    def __init__(self, name: str = "mean colours") -> None:
        self.name = name
        self.pictures = 0

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        self.pictures += len(pixels)
        image = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255
        return torch.nn.functional.adaptive_avg_pool2d(image, 2).flatten(1)


def noise_pictures(count: int, seed: int, side: int = 8) -> NDArray[np.uint8]:
    """Pictures uint8 (N, side, side, 3) of noise around a colour each."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 200, (count, 1, 1, 3))
    return (colours + rng.integers(0, 56, (count, side, side, 3))).astype(np.uint8)


def batch_of(
    pixels: NDArray[np.uint8],
    real: NDArray[np.uint8],
    captions: list[str],
    groups: list[int] | None = None,
    described: list[tuple[str, ...]] | None = None,
) -> GeneratedBatch:
    """A batch; without `groups`, each caption is a group of its own, without `described` its picture's only one."""
    groups, described = groups or list(range(len(captions))), described or [(caption,) for caption in captions]
    return GeneratedBatch(pixels, real, captions, groups, described)
