"""Between images, float in [−1, 1], and pixels, uint8: the only conversions in either direction."""

import torch
from torch import Tensor


def to_levels(image: Tensor) -> Tensor:
    """Maps `image` float (B, 3, R, R) in [−1, 1] to whole numbers 0 to 255 of the same shape, rounding half to even."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round()


def to_pixels(image: Tensor) -> Tensor:
    """Maps `image` float (B, 3, R, R) in [−1, 1] to pixels uint8 (B, R, R, 3)."""
    return to_levels(image).to(torch.uint8).permute(0, 2, 3, 1)


def to_image(pixels: Tensor) -> Tensor:
    """Maps `pixels` uint8 (B, R, R, 3) to an image float32 (B, 3, R, R) in [−1, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
