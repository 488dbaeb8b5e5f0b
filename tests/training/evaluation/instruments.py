"""Small stand-ins for what measures: features that a test can follow, and samples without a model."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.evaluation.samples import Sample


class MeanColours:
    """A feature network that counts its calls: the mean colour of each quarter of a picture."""

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


def sample_of(
    pixels: NDArray[np.uint8], real: NDArray[np.uint8], captions: list[str], groups: list[int] | None = None
) -> Sample:
    """A sample whose captions are groups of their own."""
    return Sample(pixels, real, captions, groups or list(range(len(captions))))
