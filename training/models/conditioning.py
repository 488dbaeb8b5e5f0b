"""Contributions 1 and 2: conditioning augmentation and the adaptive block (docs/method.md, eq. 1-2)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Augmented(NamedTuple):
    """A sampled condition and the Gaussian it came from; every field is float (B, S)."""

    condition: Tensor
    mean: Tensor
    log_variance: Tensor


class ConditioningAugmentation(nn.Module):
    """Maps a sentence vector to a diagonal Gaussian and samples it (eq. 1; Zhang et al., StackGAN, 2017).

    The noise is an argument, not drawn inside, so that a seed fixes the picture and the exported graph is pure.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.statistics = nn.Linear(width, 2 * width)

    def forward(self, sentence: Tensor, noise: Tensor) -> Augmented:
        """Samples `mean + exp(log_variance / 2) * noise`; `sentence` and `noise` are float (B, S)."""
        mean, log_variance = self.statistics(sentence).chunk(2, dim=1)
        return Augmented(mean + torch.exp(0.5 * log_variance) * noise, mean, log_variance)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats per dimension, averaged over B and S (eq. 2)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


class AdaptiveBlock(nn.Module):
    """Reweights the sentence vector by what the picture already shows: s' = ŝ + tanh(MLP([h', ŝ])) ⊙ ŝ.

    h' summarises the feature map by a depthwise convolution with a kernel as large as the map.
    """

    def __init__(self, channels: int, side: int, width: int) -> None:
        super().__init__()
        self.summary = nn.Conv2d(channels, channels, kernel_size=side, groups=channels)
        self.attention = nn.Sequential(nn.Linear(channels + width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Maps `features` (B, C, side, side) and `sentence` (B, S) to a sentence vector (B, S)."""
        summary = self.summary(features).flatten(1)
        attention = torch.tanh(self.attention(torch.cat([summary, sentence], dim=1)))
        return sentence + attention * sentence
