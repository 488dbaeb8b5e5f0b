"""A discriminator on pretrained features (Projected GAN, Sauer et al., 2021; text as in StyleGAN-T, 2023)."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.generator import SMALLEST_SIDE
from training.models.lite0 import open_lite0, speed_up

STRIDES = (4, 8, 16, 32)
"""Strides of the four scales, in pixels of what the frozen network sees."""
SMALLEST_INPUT = 128
"""Smallest side of what the frozen network sees, so that the coarsest map has 4 × 4 places."""


class ProjectedDiscriminator(nn.Module):
    """Maps an image and a sentence vector to one logit per scale (docs/method.md, "On pretrained features").

    Only the heads learn. All else is buffers, which `requires_grad_` and optimizers ignore: the random projections are
    part of the state dict; the frozen network is not, because its weights come with a package. Raises `MissingExtra`
    without that package; with `pretrained` false, the frozen network is random.
    """

    def __init__(self, resolution: int, sentence_width: int, channels: int = 64, pretrained: bool = True) -> None:
        super().__init__()
        self.input_resolution = max(resolution, SMALLEST_INPUT)
        network = open_lite0(pretrained)
        blocks: Any = network.blocks
        lasts = [[block.bn3 for block in blocks[stage]] for stage in (1, 2, 4, 6)]
        self.channel_mixers = nn.ModuleList(_channel_mixer(norms, channels) for norms in lasts)
        self.scale_mixers = nn.ModuleList(_random_conv(channels, channels, 3) for _ in STRIDES)
        speed_up(network)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(network.conv_stem, network.bn1, *blocks[:2]),
                blocks[2],
                nn.Sequential(*blocks[3:5]),
                nn.Sequential(*blocks[5:]),
            ]
        )
        _freeze(self.stages, saved=False)
        _freeze(self.channel_mixers, saved=True)
        _freeze(self.scale_mixers, saved=True)
        self.heads = nn.ModuleList(
            _Head(self.input_resolution // stride, channels, sentence_width) for stride in STRIDES
        )
        self.to(memory_format=torch.channels_last)

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """Features of an image (B, 3, R, R) in [−1, 1], before anything learned: (B, C, H, W), finest scale first.

        The frozen network expects [−1, 1] too. It sees `image` enlarged bilinearly to at least 128, and never reduced.
        """
        side = self.input_resolution
        image = image.float().contiguous(memory_format=torch.channels_last)
        x = F.interpolate(image, size=(side, side), mode="bilinear")
        maps: list[Tensor] = []
        for stage, mixer in zip(self.stages, self.channel_mixers, strict=True):
            x = stage(x)
            maps.append(mixer(x))
        mixed: list[Tensor] = []
        for own, mixer in zip(reversed(maps), reversed(self.scale_mixers), strict=True):
            coarser = F.interpolate(mixed[-1], scale_factor=2, mode="bilinear") if mixed else 0
            mixed.append(mixer(own + coarser))
        return tuple(reversed(mixed))

    def logits(self, features: tuple[Tensor, ...], sentence: Tensor) -> Tensor:
        """Scores `features` against `sentence` (B, S): float32 (B, 4), a logit per scale.

        `sentence` may hold several for each picture, (…, B, S), at next to no cost; the logits are then (…, B, 4).
        """
        return torch.stack([head(x, sentence) for head, x in zip(self.heads, features, strict=True)], dim=-1)

    def forward(self, image: Tensor, sentence: Tensor) -> Tensor:
        """Scores `image` (B, 3, R, R) against `sentence` (B, S): a logit per scale (B, 4)."""
        return self.logits(self.features(image), sentence)


class SpectralConv2d(nn.Conv2d):
    """A convolution whose weight, as a matrix (out, in · k · k), has a spectral norm of 1 (Miyato et al., 2018).

    A pass that learns improves the estimate by one power iteration; other passes, such as those of the generator's
    update, leave it unchanged. PyTorch's own would iterate in both, and in reduced precision under a GPU's autocast.
    """

    left: Tensor

    def __init__(self, in_channels: int, out_channels: int, side: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, side, stride, padding=1)
        self.register_buffer("left", F.normalize(torch.randn(out_channels), dim=0))

    def forward(self, features: Tensor) -> Tensor:
        """Convolves (B, in, H, W)."""
        with torch.autocast(features.device.type, enabled=False):
            matrix = self.weight.permute(0, 2, 3, 1).flatten(1)  # without a copy where channels come last
            right = F.normalize(matrix.detach().T @ self.left, dim=0)
            left = matrix @ right
            norm = left.norm()
            if self.training and self.weight.requires_grad:
                self.left.copy_((left / norm).detach())
            weight = self.weight / norm
        convolved: Tensor = self._conv_forward(features, weight, self.bias)
        return convolved


class _Head(nn.Module):
    """Down-blocks to 4 × 4, and their features' mean over places, projected on a direction that the sentence gives.

    The direction is linear in the sentence; its constant part is what scores a picture without regard to the text. No
    batch norm, unlike Projected GAN: a logit must not depend on who shares the batch.
    """

    def __init__(self, side: int, channels: int, sentence_width: int) -> None:
        super().__init__()
        width = 2 * channels
        halvings = (side // SMALLEST_SIDE).bit_length() - 1
        widths = (channels, *[width] * halvings)
        self.trunk = nn.Sequential(
            *(layer for n, m in pairwise(widths) for layer in (SpectralConv2d(n, m, 4, stride=2), nn.LeakyReLU(0.2))),
            SpectralConv2d(widths[-1], width, 3),
            nn.LeakyReLU(0.2),
        )
        self.direction = nn.Linear(sentence_width, width)

    def forward(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Scores (B, C, H, W) against (…, B, S): (…, B)."""
        pooled = self.trunk(features).float().mean(dim=(2, 3))
        logits: Tensor = (pooled * self.direction(sentence)).sum(dim=-1)
        return logits


def _random_conv(in_channels: int, out_channels: int, side: int) -> nn.Conv2d:
    """A convolution that keeps the variance of what it mixes (He et al., 2015)."""
    conv = nn.Conv2d(in_channels, out_channels, side, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    return conv


@torch.no_grad()
def _channel_mixer(norms: list[nn.BatchNorm2d], channels: int) -> nn.Conv2d:
    """A random 1×1 convolution of a standardised map; the map is the sum of the outputs of `norms`.

    Their shifts and scales tell the map's mean and deviation over ImageNet. The heads, without batch norm, need maps of
    the same magnitude, and the frozen network's differ by a factor of three.
    """
    mean = torch.stack([norm.bias for norm in norms]).sum(0)
    deviation = torch.stack([norm.weight for norm in norms]).norm(dim=0)
    conv = _random_conv(len(mean), channels, 1)
    conv.weight /= deviation[:, None, None]
    conv.bias = nn.Parameter(-conv.weight.flatten(1) @ mean)
    return conv


def _freeze(module: nn.Module, saved: bool) -> None:
    """Turns parameters into buffers, which are part of the state dict if `saved`."""
    for layer in module.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            delattr(layer, name)
            layer.register_buffer(name, parameter.detach(), persistent=saved)
