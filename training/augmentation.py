"""Random augmentations of images, for the two networks that a generator learns from.

The discriminator sees images, real or generated, through DiffAugment's colour, translation and cutout (Zhao et al.,
2020), differentiable to any order so that the generator learns through them and the gradient penalty includes them.
DAMSM's image encoder learns from images with Random Erasing (Zhong et al., 2020).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

DIFFAUGMENT_UNIFORMS = 7
"""Random numbers per image."""
LARGEST_SHIFT = 1 / 8
CUT = 1 / 2
"""Both in units of R."""
RECTANGLES, RECTANGLE_UNIFORMS = 4, 7
"""Rectangles per image, and random numbers per rectangle."""
SMALLEST_RECTANGLE, LARGEST_RECTANGLE = 1 / 32, 1 / 6
"""Height and width, in units of R."""


def diffaugment(image: Tensor, uniforms: Tensor) -> Tensor:
    """Augments `image`, float (B, 3, R, R), by `uniforms`, float (B, 7) in [0, 1): float32 of the same shape."""
    brightness, saturation, contrast, down, right, row, column = uniforms[:, :, None, None, None].unbind(1)
    image = _coloured(image.float(), brightness, saturation, contrast)
    return _cut(_shifted(image, down, right), row, column)


def random_erasing(image: Tensor, uniforms: Tensor) -> Tensor:
    """Paints rectangles of random colours over `image`, float (B, 3, R, R), by `uniforms`, float (B, RECTANGLES, 7).

    A generator that learns from an image encoder finds the blobs of colour that please it; an encoder trained with such
    blobs on real pictures ignores them.
    """
    resolution = image.shape[2]
    places = torch.arange(resolution, device=image.device)

    def inside(length: Tensor, middle: Tensor) -> Tensor:
        half = resolution * (SMALLEST_RECTANGLE + length * (LARGEST_RECTANGLE - SMALLEST_RECTANGLE)) / 2
        return (places - middle[:, None] * resolution).abs() <= half[:, None]  # (B, R)

    for rectangle in uniforms.unbind(1):
        height, width, row, column, *colour = rectangle.unbind(1)
        covered = inside(height, row)[:, None, :, None] & inside(width, column)[:, None, None, :]
        image = torch.where(covered, 2 * torch.stack(colour, dim=1)[:, :, None, None] - 1, image)
    return image


def _coloured(image: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Changes brightness by ± ½, saturation by a factor in [0, 2), contrast by one in [½, 1½)."""
    image = image + (brightness - 0.5)
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * (2 * saturation)
    average = image.mean((1, 2, 3), keepdim=True)
    return average + (image - average) * (contrast + 0.5)


def _shifted(image: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Translates by whole pixels, at most R/8, and pads with 0."""
    resolution = image.shape[2]
    most = round(resolution * LARGEST_SHIFT)
    places = torch.arange(resolution, device=image.device)

    def origins(uniform: Tensor) -> Tensor:
        shift = (uniform * (2 * most + 1)).long() - most
        return (places - shift.flatten(1) + 1).clamp(0, resolution + 1)  # (B, R), in an image with a border of 0

    bordered = F.pad(image, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    pictures = torch.arange(len(image), device=image.device)[:, None, None]
    return bordered[pictures, origins(down)[:, :, None], origins(right)[:, None]].permute(0, 3, 1, 2)


def _cut(image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Sets a square of R/2 × R/2 to 0, centred anywhere in the image."""
    resolution = image.shape[2]
    half = round(resolution * CUT / 2)
    places = torch.arange(resolution, device=image.device)

    def inside(uniform: Tensor) -> Tensor:
        middle = (uniform * (resolution + 1)).long().flatten(1)
        return (places >= middle - half) & (places < middle + half)  # (B, R)

    cut = inside(row)[:, None, :, None] & inside(column)[:, None, None, :]
    return image * ~cut
