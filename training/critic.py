"""The discriminator in training: its augmentation and its losses (docs/method.md, eq. 8)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.augmentation import DIFFAUGMENT_UNIFORMS, diffaugment
from training.config import GanConfig
from training.distributed import share, world
from training.losses import fake_hinge, matching_aware_gradient_penalty, real_hinge
from training.models.discriminator import Discriminator

MISMATCH_SHARE = 0.5
"""Weight of the hinge losses of generated and of mismatched pairs (DF-GAN)."""


class Critic(nn.Module):
    """All losses of the discriminator in one forward pass, as `DistributedDataParallel` needs it."""

    def __init__(self, discriminator: Discriminator, settings: GanConfig, compiled: bool) -> None:
        """`compiled` covers all but the gradient penalty: torch.compile does not support second derivatives."""
        super().__init__()
        self.discriminator = discriminator
        self.settings = settings
        self._features: Callable[[Tensor], Tensor] = discriminator.features
        self._logits: Callable[[Tensor, Tensor], Tensor] = discriminator.logits
        if compiled:
            self._features, self._logits = torch.compile(self._features), torch.compile(self._logits)

    def judge(self, image: Tensor, sentence: Tensor) -> Tensor:
        """Scores `image` (B, 3, R, R), augmented if configured, against `sentence` (B, S): one logit each (B)."""
        return self._logits(self._features(self._seen(image)), sentence)

    def forward(
        self, real: Tensor, fake: Tensor, sentence: Tensor, mismatched: Tensor, mismatches: Tensor, penalised: bool
    ) -> dict[str, Tensor]:
        """The losses by name, each a scalar.

        `real` and `fake` are float (B, 3, R, R); `sentence` (B, S) matches both. `mismatched` (B, M, S) do not match
        `real` where `mismatches`, bool (B, M), is true; their losses are averaged per picture. The gradient penalty is
        computed only if `penalised`.
        """
        settings = self.settings
        features = self._features(self._seen(real))
        count = mismatches.shape[1]
        unfit = self._logits(features.repeat_interleave(count, 0), mismatched.flatten(0, 1))
        weights = mismatches * (count / mismatches.sum(1, keepdim=True).clamp_min(1))
        losses = {
            "D real": real_hinge(self._logits(features, sentence)),
            "D fake": MISMATCH_SHARE * fake_hinge(self.judge(fake, sentence)),
            "D mismatch": MISMATCH_SHARE * fake_hinge(unfit, weights.flatten()),
        }
        if penalised:
            weight = settings.gradient_penalty_weight * settings.gradient_penalty_interval
            losses["D penalty"] = matching_aware_gradient_penalty(
                lambda image, text: self.discriminator(self._seen(image), text),
                real,
                sentence,
                weight,
                settings.gradient_penalty_power,
            )
        return losses

    def _seen(self, image: Tensor) -> Tensor:
        if not self.settings.diffaugment:
            return image
        return diffaugment(image, share(torch.rand(world() * len(image), DIFFAUGMENT_UNIFORMS, device=image.device)))
