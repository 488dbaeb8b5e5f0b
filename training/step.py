"""A step of GAN training (docs/method.md): batch, discriminator, generator, moving average, as in DF-GAN.

Everything random or looked up is in a step's `Inputs`. The rest is a fixed sequence of kernels, which a GPU replays as
a CUDA graph (cuda_graph.py).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from t2i_engine.tokenizer import pad
from training.augmentation import DIFFAUGMENT_UNIFORMS, diffaugment
from training.config import RunConfig
from training.cuda_graph import CapturedSteps, can_capture
from training.distributed import averaging, gathered, replicated, share
from training.losses import (
    HardNegatives,
    fake_hinge,
    fitting_pairs,
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
from training.models.projected_discriminator import ProjectedDiscriminator
from training.models.text_encoder import TextEncoder
from training.phase import BatchSource, Phase, StepLosses, adam, channels_last, seed_step
from training.precision import autocast, backward, loss_scaler, update

AnyDiscriminator = Discriminator | ProjectedDiscriminator
Features = Any
"""A tensor, or one per scale, as the discriminator's `logits` take them."""
MISMATCH_SHARE = 0.5
"""Weight of the hinge losses of generated and of mismatched pairs (DF-GAN)."""
SENTENCES_AT_ONCE = 512


class Inputs(NamedTuple):
    """What a step reads: a batch, or one of several that make an update. B pictures, of N in all processes."""

    real: Tensor
    """Float (B, 3, R, R)."""
    sentence: Tensor
    """Float (B, S)."""
    fitting: Tensor
    """Bool (B, N): captions that a picture of the row's caption may fit, so that they are not its negatives."""
    fitted: Tensor
    """Bool (B, N): real pictures that the row's caption may be true of."""
    mismatched: Tensor
    """Float (B, M + A, S): sentences of M other pictures, then A hard negatives."""
    mismatches: Tensor
    """Bool (B, M + A): which of them are valid."""
    noise: Tensor
    """Float (B, Z)."""
    condition_noise: Tensor
    """Float (B, S)."""
    uniforms: Tensor
    """Float (3, B, 7): DiffAugment's for real images, and for generated ones in either update."""
    newest: Tensor
    """Float (): the share of the newest weights in the generator's average."""


class StepKind(NamedTuple):
    """What a step computes, apart from its inputs."""

    penalised: bool
    """The gradient penalty."""
    learns: bool
    """Also an update of the generator."""


class Drawn(NamedTuple):
    """Generated images, and what a discriminator on pretrained features sees in them, which serves both updates."""

    generated: GeneratedImage
    features: Features | None


class Critic(nn.Module):
    """All losses of the discriminator in one forward pass, as `DistributedDataParallel` needs it."""

    def __init__(self, discriminator: AnyDiscriminator, config: RunConfig, scaler: torch.amp.GradScaler) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.settings = config.gan
        self.scaler = scaler
        self.pretrained = isinstance(discriminator, ProjectedDiscriminator)
        self._features: Callable[[Tensor], Features] = discriminator.features
        self.logits: Callable[[Features, Tensor], Tensor] = discriminator.logits
        if config.compile:  # except the gradient penalty: torch.compile does not support second derivatives
            self._features = torch.compile(discriminator.features)

    def features(self, image: Tensor, uniforms: Tensor) -> Features:
        """The discriminator's features of `image` (B, 3, R, R), augmented if configured."""
        return self._features(self._seen(image, uniforms))

    def forward(self, inputs: Inputs, fake: Tensor, features: Features | None, penalised: bool) -> dict[str, Tensor]:
        """The losses by name, each a scalar; `fake` is float (B, 3, R, R), and `features` its own, if they are known.

        The losses of a picture's mismatched sentences are averaged. The gradient penalty is computed if `penalised`.
        """
        settings, logits = self.settings, self.logits
        real, sentence, encode = inputs.real, inputs.sentence, self._features
        if penalised:  # hinge loss and penalty share one pass
            real, sentence = (tensor.detach().requires_grad_() for tensor in (real, sentence))
            encode = self.discriminator.features
        if features is None:
            features = self.features(fake, inputs.uniforms[1])
        fake_logits = logits(features, inputs.sentence)
        features = encode(self._seen(real, inputs.uniforms[0]))
        mismatched, count = inputs.mismatched.transpose(0, 1), inputs.mismatches.shape[1]
        if self.pretrained:  # its heads see the picture before the text: once for all sentences
            scored = logits(features, torch.cat([sentence[None], mismatched]))
            matching, mismatching = scored[0], scored[1:].flatten(0, 1)
        else:  # the penalty goes through the matching logits alone
            matching, mismatching = logits(features, sentence), logits(features, mismatched).flatten(0, 1)
        weights = inputs.mismatches * (count / inputs.mismatches.sum(1, keepdim=True).clamp_min(1))
        losses = {
            "D real": real_hinge(matching),
            "D fake": MISMATCH_SHARE * fake_hinge(fake_logits),
            "D mismatch": MISMATCH_SHARE * fake_hinge(mismatching, weights.T.flatten()),
        }
        if penalised:
            with record_function("penalty"):
                weight = settings.gradient_penalty_weight * settings.gradient_penalty_interval
                losses["D penalty"] = matching_aware_gradient_penalty(
                    matching, (real, sentence), weight, settings.gradient_penalty_power, self.scaler
                )
        return losses

    def _seen(self, image: Tensor, uniforms: Tensor) -> Tensor:
        return diffaugment(image, uniforms) if self.settings.diffaugment else image


class GanPhase(Phase):
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
        text_encoder: TextEncoder,
        image_encoder: ImageEncoder,
        generator: Generator,
        device: torch.device,
    ) -> None:
        """Takes the DAMSM encoders, to be frozen by `begin` before the first step."""
        settings = config.gan
        self.config, self.device = config, device
        self.text_encoder, self.image_encoder = text_encoder, image_encoder
        self.generator = channels_last(generator, device)
        self.generator.folded = config.folded
        self.discriminator = channels_last(open_discriminator(config), device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        captured, betas = config.cuda_graph and can_capture(device, config), settings.adam_betas
        self.generator_optimizer = adam(self.generator.parameters(), settings.generator_learning_rate, betas, captured)
        self.discriminator_optimizer = adam(
            self.discriminator.parameters(), settings.discriminator_learning_rate, betas, captured
        )
        self.generator_scaler = loss_scaler(device, config.precision)
        self.discriminator_scaler = loss_scaler(device, config.precision)
        self.critic = Critic(self.discriminator, config, self.discriminator_scaler)
        if config.compile:  # after the average, which copies the generator
            self.generator.compile()
        self._generate = replicated(self.generator)
        self._criticise = replicated(self.critic)
        self._captured = CapturedSteps(self._update) if captured else None

    def begin(self, batches: BatchSource, captions: Sequence[Sequence[int]] | None) -> None:
        """Freezes the DAMSM encoders, including dropout and batch norm, and encodes the captions of all batches.

        Those are numbered as in `Batch`; without them, the captions of each batch are encoded with it.
        """
        for encoder in (self.text_encoder, self.image_encoder):
            encoder.eval().requires_grad_(False)
        self.image_encoder = channels_last(self.image_encoder.for_gradients(), self.device)
        if self.config.compile:
            self.image_encoder.compile()
        self.batches = batches
        self.sentences = encode_captions(self.text_encoder, captions, self.device)

    def step(self, number: int) -> StepLosses:
        """Updates the discriminator, then the generator.

        With `gan.gradient_accumulation`, an update sums the gradients of several batches, each with its own negatives
        and mismatches.
        """
        settings = self.config.gan
        parts = settings.gradient_accumulation
        seed_step(self.config.seed, "gan", number)
        update = number - settings.discriminator_warmup
        newest = torch.full((), 1 - settings.average_decay(max(update, 0)), device=self.device)
        with record_function("batch"):
            inputs = [self._inputs(number * parts + part, newest) for part in range(parts)]
        kind = StepKind(settings.penalised(number), learns=update >= 0)
        return self._captured(inputs, kind) if self._captured else self._update(inputs, kind)

    def _inputs(self, number: int, newest: Tensor) -> Inputs:
        """Batch `number` as a step reads it."""
        settings = self.config.gan
        batch = self.batches.batch(number)
        if self.sentences is None:
            sentence = encoded(self.text_encoder, batch.tokens, batch.lengths, self.device)
        else:
            sentence = self.sentences[batch.captions]
        related = related_pairs(batch.captions, batch.groups)
        true = related | fitting_pairs(batch.known, batch.asked)
        partners, mismatches = mismatched_partners(true, settings.mismatches)
        sentences = gathered(sentence)
        mismatched = sentences[partners]
        if batch.hard_negatives.shape[1]:
            with torch.no_grad():
                negatives = batch.hard_negatives.to(self.device, non_blocking=True)
                hard = self.text_encoder.sentences(negatives, batch.hard_negative_lengths)
            mismatched = torch.cat([mismatched, hard], dim=1)
            mismatches = torch.cat([mismatches, batch.hard_negatives_valid], dim=1)
        whole = len(sentences)
        noise = share(torch.randn(whole, self.config.model.noise_width, device=self.device))
        condition_noise = share(torch.randn(whole, sentence.shape[1], device=self.device))
        uniforms = share(torch.rand(whole, 3, DIFFAUGMENT_UNIFORMS, device=self.device)).transpose(0, 1)
        fitting, fitted = (related | fitting_pairs(batch.asked, other) for other in (batch.asked, batch.known))
        drawn = noise, condition_noise, uniforms
        return Inputs(batch.image, sentence, fitting, fitted, mismatched, mismatches, *drawn, newest)

    def _update(self, parts: Sequence[Inputs], kind: StepKind) -> StepLosses:
        """One update of either network; of the discriminator alone unless the generator learns."""
        # The generator learns from the images that the discriminator saw. With several parts they are drawn twice, so
        # that only one part's graph is in memory.
        drawn = self._draw(parts[0]) if kind.learns and len(parts) == 1 else None
        losses = [self._discriminator_losses(part, drawn, kind.penalised, part is parts[-1]) for part in parts]
        with record_function("optimizer"):
            update(self.discriminator_optimizer, self.discriminator_scaler)
        if kind.learns:
            self.discriminator.requires_grad_(False)
            for found, part in zip(losses, parts, strict=True):
                found |= self._generator_losses(part, drawn, part is parts[-1])
            with record_function("optimizer"):
                update(self.generator_optimizer, self.generator_scaler)
            self.discriminator.requires_grad_(True)
            with record_function("average"):
                update_average(self.average, self.generator, parts[-1].newest)
        return StepLosses.mean(losses)

    def _draw(self, part: Inputs) -> Drawn:
        with record_function("generator"), self._autocast():
            generated: GeneratedImage = self._generate(part.noise, part.sentence, part.condition_noise)
        with record_function("features"), self._autocast():
            seen = self.critic.features(generated.image, part.uniforms[1]) if self.critic.pretrained else None
        return Drawn(generated, seen)

    def _discriminator_losses(
        self, part: Inputs, drawn: Drawn | None, penalised: bool, last: bool
    ) -> dict[str, Tensor]:
        """The discriminator's losses of one part, whose gradients are accumulated."""
        with torch.no_grad():
            generated, seen = drawn or self._draw(part)
        fake, seen = generated.image.detach(), seen and tuple(features.detach() for features in seen)
        with averaging(self._criticise, last):
            with record_function("discriminator"), self._autocast():
                losses: dict[str, Tensor] = self._criticise(part, fake, seen, penalised)
            with record_function("discriminator backward"):
                backward(losses, self.discriminator_scaler, self.config.gan.gradient_accumulation)
        return losses

    def _generator_losses(self, part: Inputs, drawn: Drawn | None, last: bool) -> dict[str, Tensor]:
        """The generator's losses of one part, whose gradients are accumulated."""
        settings, contrast = self.config.gan, self.config.gan.contrastive
        with averaging(self._generate, last):
            generated, seen = drawn or self._draw(part)
            with record_function("generator losses"):
                with self._autocast():
                    if seen is None:
                        seen = self.critic.features(generated.image, part.uniforms[2])
                    logits = self.critic.logits(seen, part.sentence)
                losses = {"G adversarial": generator_loss(logits)}
                if generated.mean is not None and generated.log_variance is not None:
                    kl = kl_to_standard_normal(generated.mean.float(), generated.log_variance.float())
                    losses["G kl"] = settings.kl_weight * kl
                if contrast.enabled:
                    with self._autocast():
                        picture = self.image_encoder(generated.image).picture
                        with torch.no_grad():
                            photographed = self.image_encoder(part.real).picture
                    hard = HardNegatives.last(part.mismatched, part.mismatches, settings.hard_negatives)
                    by_text = nt_xent(picture, part.sentence, part.fitting, contrast.temperature, hard)
                    image_temperature = contrast.image_temperature or contrast.temperature
                    by_image = nt_xent(picture, photographed, part.fitted, image_temperature)
                    losses["G text"] = contrast.text_weight * by_text
                    losses["G image"] = contrast.image_weight * by_image
            with record_function("generator backward"):
                backward(losses, self.generator_scaler, settings.gradient_accumulation)
        return losses

    def _autocast(self) -> AbstractContextManager[None]:
        return autocast(self.device, self.config.precision)

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Both optimizers."""
        return {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}

    def exported(self) -> dict[str, Tensor]:
        """The weights to export: TextToImage's state dict, with the averaged generator."""
        networks = {"text_encoder": self.text_encoder, "generator": self.average}
        return {f"{name}.{key}": tensor for name, net in networks.items() for key, tensor in net.state_dict().items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores `state`, but takes learning rates from the config, which may have changed."""
        super().load_state(state)
        self.generator_optimizer.param_groups[0]["lr"] = self.config.gan.generator_learning_rate
        self.discriminator_optimizer.param_groups[0]["lr"] = self.config.gan.discriminator_learning_rate


def open_discriminator(config: RunConfig) -> AnyDiscriminator:
    """The discriminator that a config names, with initial weights."""
    model, resolution = config.model, config.data.resolution
    if config.gan.discriminator == "projected":
        return ProjectedDiscriminator(resolution, model.sentence_width)
    discriminator = Discriminator(resolution, model.base_channels, model.sentence_width, model.max_channel_multiple)
    if config.gan.discriminator_initialization == "he":
        discriminator.initialise_he()
    return discriminator


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, newest: Tensor) -> None:
    """Moves the parameters of `average` towards those of `network`, by `newest`, a float () from 0 to 1."""
    for averaged, parameter in zip(average.parameters(), network.parameters(), strict=True):
        averaged.lerp_(parameter, newest)


def encode_captions(
    text_encoder: TextEncoder, captions: Sequence[Sequence[int]] | None, device: torch.device
) -> Tensor | None:
    """The sentence vector of every caption, given by its token ids: float (len(captions), S); None without captions."""
    if captions is None:
        return None
    order = sorted(range(len(captions)), key=lambda number: len(captions[number]))  # short padding
    sentences = torch.empty(len(captions), text_encoder.sentence_width, device=device)
    for start in range(0, len(captions), SENTENCES_AT_ONCE):
        numbers = order[start : start + SENTENCES_AT_ONCE]
        tokens, lengths = map(torch.from_numpy, pad([captions[number] for number in numbers]))
        sentences[numbers] = encoded(text_encoder, tokens, lengths, device)
    return sentences


@torch.no_grad()
def encoded(text_encoder: TextEncoder, tokens: Tensor, lengths: Tensor, device: torch.device) -> Tensor:
    """Sentence vectors, float (B, S), of `tokens` int64 (B, T) with `lengths` int64 (B) on the CPU."""
    sentence: Tensor = text_encoder(tokens.to(device, non_blocking=True), lengths).sentence
    return sentence
