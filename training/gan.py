"""Training of generator and discriminator (docs/method.md), one update of each per step, as in DF-GAN."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.augmentation import DIFFAUGMENT_UNIFORMS, diffaugment
from training.config import GanConfig, RunConfig
from training.data.corpus import Batches
from training.distributed import averaging, gathered, means, replicated, share, world
from training.losses import (
    HardNegatives,
    fake_hinge,
    generator_loss,
    matching_aware_gradient_penalty,
    mismatched_partners,
    nt_xent,
    real_hinge,
    related_pairs,
)
from training.models.conditioning import kl_to_standard_normal
from training.models.discriminator import Discriminator
from training.models.generator import GeneratedImage, Generator
from training.models.image_encoder import ImageEncoder
from training.models.text_encoder import TextEncoder
from training.stepping import (
    Losses,
    Trainer,
    autocast,
    backward,
    channels_last,
    loss_scaler,
    own_batch,
    seed_step,
    update,
)

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

    def score(self, image: Tensor, sentence: Tensor) -> Tensor:
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
            "D fake": MISMATCH_SHARE * fake_hinge(self.score(fake, sentence)),
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


class _Part(NamedTuple):
    """A batch, or one of several that make an update: B pictures, of N in all processes."""

    real: Tensor
    """Float (B, 3, R, R)."""
    sentence: Tensor
    """Float (B, S)."""
    related: Tensor
    """Bool (B, N), as in losses.py."""
    mismatched: Tensor
    """Float (B, M, S): mismatched sentences, hard negatives last."""
    mismatches: Tensor
    """Bool (B, M): which of them are valid."""
    hard: HardNegatives | None
    """The hard negatives among them."""
    noise: Tensor
    """Float (B, Z)."""
    condition_noise: Tensor
    """Float (B, S)."""


class GanTrainer(Trainer):
    """Generator, discriminator, their optimizers, and the generator's moving average, which is exported."""

    stateful = (
        "generator",
        "discriminator",
        "average",
        "generator_optimizer",
        "discriminator_optimizer",
        "generator_scaler",
        "discriminator_scaler",
    )

    def __init__(
        self,
        config: RunConfig,
        corpus: Batches,
        text_encoder: TextEncoder,
        image_encoder: ImageEncoder,
        generator: Generator,
        device: torch.device,
    ) -> None:
        """Takes the DAMSM encoders, to be frozen (`freeze_encoders`) before the first step."""
        model, settings = config.model, config.gan
        self.config = config
        self.corpus = corpus
        self.device = device
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder
        self.generator = channels_last(generator, device)
        self.generator.folded = config.folded
        self.discriminator = channels_last(
            Discriminator(
                config.data.resolution, model.base_channels, model.sentence_width, model.max_channel_multiple
            ),
            device,
        )
        if settings.discriminator_initialization == "he":
            self.discriminator.initialise_he()
        self.critic = Critic(self.discriminator, settings, config.compile)
        self.average = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=settings.generator_learning_rate, betas=settings.adam_betas
        )
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=settings.discriminator_learning_rate, betas=settings.adam_betas
        )
        self.generator_scaler = loss_scaler(device, config.precision)
        self.discriminator_scaler = loss_scaler(device, config.precision)
        if config.compile:  # after the average, which copies the generator
            self.generator.compile()
            self.image_encoder.compile()
        self._generate = replicated(self.generator)
        self._criticise = replicated(self.critic)

    def freeze_encoders(self) -> None:
        """Freezes the DAMSM encoders, including dropout and batch norm."""
        for encoder in (self.text_encoder, self.image_encoder):
            encoder.eval().requires_grad_(False)

    @property
    def averaged_generator(self) -> Generator:
        """The moving average of the generator."""
        return cast("Generator", self.average.module)

    def exported(self) -> dict[str, Tensor]:
        """The weights to export: TextToImage's state dict, with the averaged generator."""
        networks = {"text_encoder": self.text_encoder, "generator": self.averaged_generator}
        return {f"{name}.{key}": tensor for name, net in networks.items() for key, tensor in net.state_dict().items()}

    def step(self, number: int) -> Losses:
        """Updates the discriminator, then the generator; returns the terms of both losses.

        With `gan.gradient_accumulation`, an update sums the gradients of several batches, each with its own negatives
        and mismatches.
        """
        settings = self.config.gan
        seed_step(self.config.seed, "gan", number)
        parts = [self._part(number * settings.gradient_accumulation + i) for i in range(settings.gradient_accumulation)]
        learns = number >= settings.discriminator_warmup
        # The generator learns from the images that the discriminator saw. With several parts they are drawn twice, so
        # that only one part's graph is in memory.
        drawn = self._draw(parts[0]) if learns and len(parts) == 1 else None
        penalised = settings.gradient_penalty_weight > 0 and number % settings.gradient_penalty_interval == 0
        losses = self._update_discriminator(parts, drawn, penalised)
        return losses | self._update_generator(parts, drawn) if learns else losses

    def _part(self, number: int) -> _Part:
        size, model = self.config.gan.batch_size, self.config.model
        batch = own_batch(self.corpus, self.config.seed, number, size, self.device)
        with torch.no_grad():
            sentence = self.text_encoder(batch.tokens, batch.lengths).sentence
            sentences = gathered(sentence)
        related = related_pairs(batch.tokens, batch.groups)
        partners, mismatches = mismatched_partners(related, self.config.gan.mismatches)
        mismatched = sentences[partners]
        hard = None
        if count := self.config.gan.hard_negatives:
            with torch.no_grad():
                found = self.text_encoder.sentences(
                    batch.hard_negatives[:, :count], batch.hard_negative_lengths[:, :count]
                )
            hard = HardNegatives(found, batch.hard_negatives_valid[:, :count])
            mismatched = torch.cat([mismatched, hard.vectors], dim=1)
            mismatches = torch.cat([mismatches, hard.valid], dim=1)
        noise = share(torch.randn(world() * size, model.noise_width, device=self.device))
        condition_noise = share(torch.randn_like(sentences))
        return _Part(batch.image, sentence, related, mismatched, mismatches, hard, noise, condition_noise)

    def _draw(self, part: _Part) -> GeneratedImage:
        with autocast(self.device, self.config.precision):
            drawn: GeneratedImage = self._generate(part.noise, part.sentence, part.condition_noise)
        return drawn

    def _update_discriminator(self, parts: Sequence[_Part], drawn: GeneratedImage | None, penalised: bool) -> Losses:
        losses = []
        for part in parts:
            with torch.no_grad():
                fake = (drawn or self._draw(part)).image.detach()
            with averaging(self._criticise, part is parts[-1]):
                with autocast(self.device, self.config.precision):
                    found = self._criticise(part.real, fake, part.sentence, part.mismatched, part.mismatches, penalised)
                backward(found, self.discriminator_scaler, len(parts))
            losses.append(found)
        update(self.discriminator_optimizer, self.discriminator_scaler)
        return means(losses)

    def _update_generator(self, parts: Sequence[_Part], drawn: GeneratedImage | None) -> Losses:
        losses = []
        self.discriminator.requires_grad_(False)
        for part in parts:
            with averaging(self._generate, part is parts[-1]):
                found = self._generator_losses(part, drawn or self._draw(part))
                backward(found, self.generator_scaler, len(parts))
            losses.append(found)
        update(self.generator_optimizer, self.generator_scaler)
        self.discriminator.requires_grad_(True)
        self.average.update_parameters(self.generator)
        return means(losses)

    def _generator_losses(self, part: _Part, generated: GeneratedImage) -> dict[str, Tensor]:
        settings = self.config.gan
        with autocast(self.device, self.config.precision):
            logits = self.critic.score(generated.image, part.sentence)
        losses = {"G adversarial": generator_loss(logits)}
        if generated.mean is not None and generated.log_variance is not None:
            kl = kl_to_standard_normal(generated.mean.float(), generated.log_variance.float())
            losses["G kl"] = settings.kl_weight * kl
        contrast = settings.contrastive
        if contrast.enabled:
            with autocast(self.device, self.config.precision):
                drawn = self.image_encoder(generated.image).picture
                with torch.no_grad():
                    photographed = self.image_encoder(part.real).picture
            by_text = nt_xent(drawn, part.sentence, part.related, contrast.temperature, part.hard)
            by_image = nt_xent(drawn, photographed, part.related, contrast.temperature)
            losses["G text"] = contrast.text_weight * by_text
            losses["G image"] = contrast.image_weight * by_image
        return losses

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Both optimizers."""
        return {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores `state`, but takes learning rates from the config, which may have changed."""
        super().load_state(state)
        self.generator_optimizer.param_groups[0]["lr"] = self.config.gan.generator_learning_rate
        self.discriminator_optimizer.param_groups[0]["lr"] = self.config.gan.discriminator_learning_rate
