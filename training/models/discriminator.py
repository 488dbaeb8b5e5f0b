"""DF-GAN's one-way discriminator of picture and sentence vector together (Tao et al., 2022)."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.convolution import Conv2d
from training.models.generator import SMALLEST_SIDE, channel_widths


class DownBlock(nn.Module):
    """Halves the resolution of a feature map: shortcut + γ · residual, γ learned from 0 (DF-GAN)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_r = nn.Sequential(
            Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
            nn.LeakyReLU(0.2),
            Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.LeakyReLU(0.2),
        )
        self.conv_s = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, in, H, W) to (B, out, H/2, W/2)."""
        # A 1×1 convolution commutes with average pooling, and costs a quarter on the pooled map.
        shortcut: Tensor = self.conv_s(F.avg_pool2d(features, 2))
        residual: Tensor = self.conv_r(features)
        return torch.addcmul(shortcut, self.gamma.to(residual.dtype), residual)


class Discriminator(nn.Module):
    """Maps an image and a sentence vector to one logit: real and matching, or not (docs/method.md, "Discriminator")."""

    def __init__(self, resolution: int, base_channels: int, sentence_width: int, max_channel_multiple: int = 8) -> None:
        super().__init__()
        widths = channel_widths(resolution, base_channels, max_channel_multiple)[::-1]
        joint_width = widths[-1] // 4  # 2·nf at DF-GAN's limit
        self.conv_img = Conv2d(3, widths[0], 3, padding=1)
        self.DBlocks = nn.ModuleList(DownBlock(n, m) for n, m in pairwise(widths))
        self.joint_conv = nn.Sequential(
            Conv2d(widths[-1] + sentence_width, joint_width, 3, padding=1, bias=False),
            nn.LeakyReLU(0.2),
            Conv2d(joint_width, 1, SMALLEST_SIDE, bias=False),
        )

    @torch.no_grad()
    def initialise_he(self) -> None:
        """Reinitialises with residual branches active from step 1: γ = 1, and He et al.'s (2015) convolutions.

        DF-GAN starts from γ = 0 and PyTorch's default convolutions, each of which shrinks its input. Its shortcuts are
        averages, so for thousands of steps it is blind to detail finer than R/4. The last convolution is scaled down to
        a tenth, or the gradient penalty, a sixth power, would explode in the first steps.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
            if isinstance(module, DownBlock):
                nn.init.ones_(module.gamma)
        last = self.joint_conv[-1]
        assert isinstance(last, nn.Conv2d)
        last.weight.mul_(0.1)

    def features(self, image: Tensor) -> Tensor:
        """Features of an image (B, 3, R, R), before any text: (B, 8·nf, 4, 4)."""
        features: Tensor = self.conv_img(image)
        for block in self.DBlocks:
            features = block(features)
        return features

    def logits(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Scores `features` (B, C, 4, 4) against `sentence` (B, S): one logit each (B).

        `sentence` may hold several for each picture, (M, B, S); the logits are then (M, B).
        """
        if sentence.ndim == 3:
            each = self.logits(features.repeat(len(sentence), 1, 1, 1), sentence.flatten(0, 1))
            return each.view(sentence.shape[:2])
        tiled = sentence[:, :, None, None].expand(-1, -1, SMALLEST_SIDE, SMALLEST_SIDE)
        logits: Tensor = self.joint_conv(torch.cat([features, tiled], dim=1))
        return logits.flatten()

    def forward(self, image: Tensor, sentence: Tensor) -> Tensor:
        """Scores `image` (B, 3, R, R) against `sentence` (B, S): one logit each (B)."""
        return self.logits(self.features(image), sentence)
