"""Images altered at random, for the two networks that judge them.

What the discriminator sees, real or generated: DiffAugment's colour, translation and cutout (Zhao et al., 2020),
differentiable by the image to any order, so that the generator learns through them and the gradient penalty is that of
discriminator and alteration together. What DAMSM's image encoder learns from: Random Erasing (Zhong et al., 2020).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHANCES = 7
"""Random numbers that an image takes."""
LARGEST_SHIFT = 1 / 8
CUT = 1 / 2
"""Of the side, like the shift."""
SPOTS, SPOT_CHANCES = 4, 7
"""Spots of an image, and the random numbers that one of them takes."""
SMALLEST_SPOT, LARGEST_SPOT = 1 / 32, 1 / 6
"""Of the side."""


def augmented(image: Tensor, chances: Tensor) -> Tensor:
    """Alters `image`, float (B, 3, R, R), by `chances`, float (B, 7), uniform in [0, 1): float32 of the same shape."""
    brightness, saturation, contrast, down, right, row, column = chances[:, :, None, None, None].unbind(1)
    image = _coloured(image.float(), brightness, saturation, contrast)
    return _cut(_shifted(image, down, right), row, column)


def spotted(image: Tensor, chances: Tensor) -> Tensor:
    """Paints rectangles of random colours over `image`, float (B, 3, R, R), by `chances`, float (B, SPOTS, 7).

    A generator that is judged by an image encoder finds the spots of colour by which that can be pleased; one that has
    seen such spots on true pictures thinks little of them.
    """
    side = image.shape[2]
    places = torch.arange(side, device=image.device)

    def inside(length: Tensor, middle: Tensor) -> Tensor:
        half = side * (SMALLEST_SPOT + length * (LARGEST_SPOT - SMALLEST_SPOT)) / 2
        return (places - middle[:, None] * side).abs() <= half[:, None]  # (B, R)

    for spot in chances.unbind(1):
        height, width, row, column, *colour = spot.unbind(1)
        covered = inside(height, row)[:, None, :, None] & inside(width, column)[:, None, None, :]
        image = torch.where(covered, 2 * torch.stack(colour, dim=1)[:, :, None, None] - 1, image)
    return image


def _coloured(image: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness by ± ½, saturation by a factor below 2, contrast by one of ½ to 1½."""
    image = image + (brightness - 0.5)
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * (2 * saturation)
    average = image.mean((1, 2, 3), keepdim=True)
    return average + (image - average) * (contrast + 0.5)


def _shifted(image: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Moves by whole pixels, at most an eighth of the side; 0 comes in."""
    side = image.shape[2]
    most = round(side * LARGEST_SHIFT)
    places = torch.arange(side, device=image.device)

    def origins(chance: Tensor) -> Tensor:
        shift = (chance * (2 * most + 1)).long() - most
        return (places - shift.flatten(1) + 1).clamp(0, side + 1)  # (B, R), in an image with a border of 0

    bordered = F.pad(image, (1, 1, 1, 1))
    pictures = torch.arange(len(image), device=image.device)[:, None, None]
    return bordered.permute(0, 2, 3, 1)[pictures, origins(down)[:, :, None], origins(right)[:, None]].permute(
        0, 3, 1, 2
    )


def _cut(image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Sets a square of half the side to 0, around any place of the image."""
    side = image.shape[2]
    half = round(side * CUT / 2)
    places = torch.arange(side, device=image.device)

    def inside(chance: Tensor) -> Tensor:
        middle = (chance * (side + 1)).long().flatten(1)
        return (places >= middle - half) & (places < middle + half)  # (B, R)

    cut = inside(row)[:, None, :, None] & inside(column)[:, None, None, :]
    return image * ~cut
