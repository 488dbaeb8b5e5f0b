"""DF-GAN's generator (Tao et al., 2022), with conditioning augmentation and an adaptive block before every block.

The fold computes a nearest ×2 upsample and the following 3×3 convolution as one transposed convolution, exactly. Along
one axis, a kernel [a, b, c] on a doubled signal reads every input once or twice: even outputs are
a·x[i−1] + (b+c)·x[i], odd ones (a+b)·x[i] + c·x[i+1]. That is a transposed convolution of stride 2 and padding 1 with
the taps [c, b+c, a+b, a]. In two dimensions the same holds along each axis: 36 multiplications become 16.
"""

from collections import OrderedDict
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2i_engine.manifest import ModelSizes
from training.models.conditioning import AdaptiveBlock, ConditioningAugmentation

SMALLEST_SIDE = 4


def folded_kernel(kernel: Tensor) -> Tensor:
    """Maps a 3×3 kernel (out, in, 3, 3) to the kernel (in, out, 4, 4) of the equivalent transposed convolution."""
    for axis in (2, 3):
        a, b, c = kernel.unbind(axis)
        kernel = torch.stack([c, b + c, a + b, a], dim=axis)
    return kernel.transpose(0, 1)


def channel_widths(resolution: int, base_channels: int, limit: int = 8) -> list[int]:
    """Channels of the feature maps from 4×4 to R×R: nf · min(2^i, limit), widest first; DF-GAN's limit is 8."""
    steps = resolution.bit_length() - SMALLEST_SIDE.bit_length()
    return [base_channels * min(2**i, limit) for i in reversed(range(steps + 1))]


class Affine(nn.Module):
    """Scales and shifts each channel by γ(c) and β(c), two-layer MLPs of the condition; starts as the identity.

    `hidden_width` is the width of the hidden layer; None means `channels`.
    """

    def __init__(self, condition_width: int, channels: int, hidden_width: int | None) -> None:
        super().__init__()
        self.fc_gamma = self._mlp(condition_width, channels, hidden_width or channels, bias=1.0)
        self.fc_beta = self._mlp(condition_width, channels, hidden_width or channels, bias=0.0)

    @staticmethod
    def _mlp(condition_width: int, channels: int, hidden_width: int, bias: float) -> nn.Sequential:
        last = nn.Linear(hidden_width, channels)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, bias)
        first = nn.Linear(condition_width, hidden_width)
        return nn.Sequential(OrderedDict(linear1=first, relu=nn.ReLU(), linear2=last))

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Maps `features` (B, C, H, W) by `condition` (B, Z + S) to the same shape."""
        gamma = self.fc_gamma(condition)[:, :, None, None]
        beta = self.fc_beta(condition)[:, :, None, None]
        return torch.addcmul(beta, gamma, features)


class DFBlock(nn.Module):
    """Affine → LeakyReLU 0.2 → affine → LeakyReLU 0.2: DF-GAN's deep fusion of text into a feature map."""

    def __init__(self, condition_width: int, channels: int, hidden_width: int | None) -> None:
        super().__init__()
        self.affine0 = Affine(condition_width, channels, hidden_width)
        self.affine1 = Affine(condition_width, channels, hidden_width)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Maps `features` (B, C, H, W) by `condition` (B, Z + S) to the same shape."""
        features = F.leaky_relu(self.affine0(features, condition), 0.2)
        return F.leaky_relu(self.affine1(features, condition), 0.2)


class UpBlock(nn.Module):
    """Doubles the resolution of a feature map under a condition: shortcut + (DFBlock → conv → DFBlock → conv).

    With `folded`, everything up to the first 3×3 convolution runs on the small map: pointwise layers commute with
    nearest upsampling, and the convolution is folded with it. Both forms compute the same function. Without `doubles`,
    it is the stem of DF-GAN's first generation, which keeps the resolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, condition_width: int, hidden_width: int | None, doubles: bool = True
    ) -> None:
        super().__init__()
        self.doubles = doubles
        self.fuse1 = DFBlock(condition_width, in_channels, hidden_width)
        self.c1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.fuse2 = DFBlock(condition_width, out_channels, hidden_width)
        self.c2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.c_sc = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, features: Tensor, condition: Tensor, folded: bool) -> Tensor:
        """Maps `features` (B, in, H, W) by `condition` (B, Z + S) to (B, out, 2H, 2W)."""
        if folded and self.doubles:
            shortcut = _upsample(self.c_sc(features))
            fused, kernel = self.fuse1(features, condition), folded_kernel(self.c1.weight)
            residual = F.conv_transpose2d(fused, kernel, self.c1.bias, stride=2, padding=1)
        else:
            features = _upsample(features) if self.doubles else features
            shortcut = self.c_sc(features)
            residual = self.c1(self.fuse1(features, condition))
        refined: Tensor = self.c2(self.fuse2(residual, condition))
        return shortcut + refined


class GeneratedImage(NamedTuple):
    """A batch of images and, with conditioning augmentation, the Gaussians that their conditions were sampled from."""

    image: Tensor
    """Float (B, 3, R, R) in [−1, 1]."""
    mean: Tensor | None
    log_variance: Tensor | None


class Generator(nn.Module):
    """Noise and a sentence vector to an image (docs/method.md, "Generator").

    Tensors are named as in DF-GAN's public checkpoints; without the two contributions, this is DF-GAN's generator,
    tensor for tensor. With `first_generation`, it is that of DF-GAN's first code, which has a stem at 4×4 and S units
    in the affines' hidden layers. `folded` computes the same function faster.
    """

    def __init__(self, sizes: ModelSizes, folded: bool = False) -> None:
        super().__init__()
        self.folded = folded
        widths = channel_widths(sizes.resolution, sizes.base_channels, sizes.max_channel_multiple)
        condition_width = sizes.noise_width + sizes.sentence_width
        self.augmentation = ConditioningAugmentation(sizes.sentence_width) if sizes.conditioning_augmentation else None
        self.fc = nn.Linear(sizes.noise_width, widths[0] * SMALLEST_SIDE**2)
        hidden_width = sizes.sentence_width if sizes.first_generation else None
        self.stem = None
        if sizes.first_generation:
            self.stem = UpBlock(widths[0], widths[0], condition_width, hidden_width, doubles=False)
        self.GBlocks = nn.ModuleList(
            UpBlock(wide, narrow, condition_width, hidden_width) for wide, narrow in pairwise(widths)
        )
        self.adaptive_blocks = (
            nn.ModuleList(
                AdaptiveBlock(channels, SMALLEST_SIDE * 2**i, sizes.sentence_width)
                for i, channels in enumerate(widths[:-1])
            )
            if sizes.adaptive_block
            else None
        )
        self.to_rgb = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(widths[-1], 3, 3, padding=1), nn.Tanh())

    def forward(self, noise: Tensor, sentence: Tensor, condition_noise: Tensor | None = None) -> GeneratedImage:
        """Draws one image per row of `noise` (B, Z) and `sentence` (B, S).

        `condition_noise` (B, S) is the ε of conditioning augmentation; None means ε = 0, the mean.
        """
        mean = log_variance = None
        if self.augmentation is not None:
            epsilon = torch.zeros_like(sentence) if condition_noise is None else condition_noise
            sentence, mean, log_variance = self.augmentation(sentence, epsilon)
        features = self.fc(noise).unflatten(1, (-1, SMALLEST_SIDE, SMALLEST_SIDE))
        if self.stem is not None:
            features = self.stem(features, torch.cat([noise, sentence], dim=1), self.folded)
        for i, block in enumerate(self.GBlocks):
            attended = sentence if self.adaptive_blocks is None else self.adaptive_blocks[i](features, sentence)
            features = block(features, torch.cat([noise, attended], dim=1), self.folded)
        return GeneratedImage(self.to_rgb(features), mean, log_variance)


def _upsample(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode="nearest")
