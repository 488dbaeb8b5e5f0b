"""Training of generator and discriminator: method.md's objectives, one update of each a step (DF-GAN's schedule)."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.config import RunConfig
from training.data.corpus import Batches
from training.losses.adversarial import fake_hinge, generator_loss, matching_aware_gradient_penalty, real_hinge
from training.losses.contrastive import nt_xent
from training.losses.kl import kl_to_standard_normal
from training.losses.pairs import mismatched_partners, related_pairs
from training.models.discriminator import Discriminator
from training.models.generator import GeneratedImage, Generator
from training.models.image_encoder import ImageEncoder
from training.models.text_encoder import TextEncoder
from training.stepping import Losses, autocast, channels_last, seed_step

MISMATCH_SHARE = 0.5
"""Weight of the hinge on generated and on mismatched pairs (DF-GAN)."""


class GanTrainer:
    """Generator, discriminator, their optimisers and the running average of the generator that is exported."""

    def __init__(
        self,
        config: RunConfig,
        corpus: Batches,
        text_encoder: TextEncoder,
        image_encoder: ImageEncoder,
        generator: Generator,
        device: torch.device,
    ) -> None:
        """Takes the DAMSM encoders, which are to be frozen (`freeze_encoders`) before the first step."""
        model, settings = config.model, config.gan
        self.config = config
        self.corpus = corpus
        self.device = device
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder
        self.generator = channels_last(generator, device)
        self.generator.folded = config.folded
        self.discriminator = channels_last(
            Discriminator(config.data.side, model.base_width, model.sentence_width), device
        )
        self.average = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=settings.generator_learning_rate, betas=settings.adam_betas
        )
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=settings.discriminator_learning_rate, betas=settings.adam_betas
        )

    def freeze_encoders(self) -> None:
        """Stops the DAMSM encoders from learning, and their dropout and batch statistics."""
        for encoder in (self.text_encoder, self.image_encoder):
            encoder.eval().requires_grad_(False)

    @property
    def averaged_generator(self) -> Generator:
        """The running average of the generator."""
        return cast("Generator", self.average.module)

    def exported(self) -> dict[str, Tensor]:
        """The weights that leave training: TextToImage's state dict, the generator's averaged."""
        networks = {"text_encoder": self.text_encoder, "generator": self.averaged_generator}
        return {f"{name}.{key}": tensor for name, net in networks.items() for key, tensor in net.state_dict().items()}

    def step(self, number: int) -> Losses:
        """Makes one update of the discriminator and one of the generator; returns the parts of both losses."""
        seed_step(self.config.seed, "gan", number)
        batch = self.corpus.batch(self.config.seed, number, self.config.gan.batch_size).to(self.device)
        real = batch.image
        related = related_pairs(batch.tokens, batch.groups)
        with torch.no_grad():
            sentence = self.text_encoder(batch.tokens, batch.lengths).sentence
        noise = torch.randn(len(real), self.config.model.noise_width, device=self.device)
        with autocast(self.device, self.config.precision):
            generated = self.generator(noise, sentence, torch.randn_like(sentence))
        losses = self._update_discriminator(real, generated.image.detach(), sentence, related, number)
        if number < self.config.gan.discriminator_head_start:
            return losses
        return losses | self._update_generator(real, generated, sentence, related)

    def _update_discriminator(
        self, real: Tensor, fake: Tensor, sentence: Tensor, related: Tensor, number: int
    ) -> Losses:
        settings = self.config.gan
        partners, has_partner = mismatched_partners(related)
        with autocast(self.device, self.config.precision):
            features = self.discriminator.features(real)
            matching = self.discriminator.logits(features, sentence)
            mismatching = self.discriminator.logits(features, sentence[partners])
            generated = self.discriminator(fake, sentence)
        losses = {
            "D real": real_hinge(matching),
            "D fake": MISMATCH_SHARE * fake_hinge(generated),
            "D mismatch": MISMATCH_SHARE * fake_hinge(mismatching, has_partner),
        }
        if settings.penalty_weight and number % settings.penalty_interval == 0:
            weight = settings.penalty_weight * settings.penalty_interval
            with autocast(self.device, self.config.precision):
                losses["D penalty"] = matching_aware_gradient_penalty(
                    self.discriminator, real, sentence, weight, settings.penalty_power
                )
        _update(self.discriminator_optimizer, losses)
        return _values(losses)

    def _update_generator(self, real: Tensor, generated: GeneratedImage, sentence: Tensor, related: Tensor) -> Losses:
        settings = self.config.gan
        self.discriminator.requires_grad_(False)
        with autocast(self.device, self.config.precision):
            logits = self.discriminator(generated.image, sentence)
        losses = {"G adversarial": generator_loss(logits)}
        if generated.mean is not None and generated.log_variance is not None:
            kl = kl_to_standard_normal(generated.mean.float(), generated.log_variance.float())
            losses["G kl"] = settings.kl_weight * kl
        contrast = settings.contrastive
        if contrast.enabled:
            with autocast(self.device, self.config.precision):
                drawn = self.image_encoder(generated.image).picture
                with torch.no_grad():
                    photographed = self.image_encoder(real).picture
            by_text = nt_xent(drawn, sentence, related, contrast.temperature)
            by_image = nt_xent(drawn, photographed, related, contrast.temperature)
            losses["G text"] = contrast.text_weight * by_text
            losses["G image"] = contrast.image_weight * by_image
        _update(self.generator_optimizer, losses)
        self.discriminator.requires_grad_(True)
        self.average.update_parameters(self.generator)
        return _values(losses)

    def state(self) -> dict[str, Any]:
        """What resuming needs."""
        return {name: getattr(self, name).state_dict() for name in self._STATEFUL}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what `state` left; learning rates are the config's, which may have changed."""
        for name in self._STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        _set_rate(self.generator_optimizer, self.config.gan.generator_learning_rate)
        _set_rate(self.discriminator_optimizer, self.config.gan.discriminator_learning_rate)

    _STATEFUL = ("generator", "discriminator", "average", "generator_optimizer", "discriminator_optimizer")


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _update(optimizer: torch.optim.Optimizer, losses: dict[str, Tensor]) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()


def _values(losses: dict[str, Tensor]) -> Losses:
    return {name: loss.item() for name, loss in losses.items()}
