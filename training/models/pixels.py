"""From the generator's image to what is saved: the one rounding that PyTorch, the exported graphs and samples share."""

import torch
from torch import Tensor


def to_levels(image: Tensor) -> Tensor:
    """Maps `image` float (B, 3, R, R) in [−1, 1] to whole numbers 0 to 255, halves to even, of the same shape."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round()


def to_pixels(image: Tensor) -> Tensor:
    """Maps `image` float (B, 3, R, R) in [−1, 1] to pixels uint8 (B, R, R, 3)."""
    return to_levels(image).to(torch.uint8).permute(0, 2, 3, 1)
