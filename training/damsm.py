"""DAMSM: pre-trains the text encoder by matching captions to their pictures (AttnGAN)."""

import math

import torch
from torch import Tensor, nn

from training.augmentation import RECTANGLE_UNIFORMS, RECTANGLES, random_erasing
from training.config import RunConfig
from training.distributed import gathered, replicated, share, world
from training.losses import HardNegatives, Related, fitting_pairs, own_columns, related_pairs, sentence_loss, word_loss
from training.models.image_encoder import EncodedImage, ImageEncoder, open_backbone
from training.models.text_encoder import EncodedText, TextEncoder
from training.phase import BatchSource, Phase, StepLosses, adam, channels_last, seed_step
from training.precision import autocast, backward, loss_scaler, update


class Encoders(nn.Module):
    """Both encoders in one forward pass, as `DistributedDataParallel` needs it."""

    def __init__(self, text_encoder: TextEncoder, image_encoder: ImageEncoder, precision: str) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder
        self.precision = precision

    def forward(
        self, tokens: Tensor, lengths: Tensor, image: Tensor, hard_negatives: Tensor, hard_negative_lengths: Tensor
    ) -> tuple[EncodedText, EncodedImage, Tensor | None]:
        """Encodes `tokens` int64 (B, T) of `lengths` (B) on the CPU, and `image` float (B, 3, R, R).

        Returns both, and the sentence vectors (B, A, S) of `hard_negatives` (B, A, U); None if A = 0.
        """
        text = self.text_encoder(tokens, lengths)
        hard = self.text_encoder.sentences(hard_negatives, hard_negative_lengths) if hard_negatives.shape[1] else None
        with autocast(image.device, self.precision):
            return text, self.image_encoder(image), hard


class DamsmPhase(Phase):
    """Trains text and image encoder together, or the image encoder alone against a frozen text encoder."""

    stateful = ("networks", "optimizer", "schedule", "scaler")

    def __init__(
        self,
        config: RunConfig,
        text_encoder: TextEncoder,
        device: torch.device,
        train_text: bool = True,
        pretrained: bool = True,
    ) -> None:
        """Without `pretrained`, no ImageNet weights are loaded: others are loaded later, or none are needed."""
        self.config, self.device = config, device
        self.text_encoder = text_encoder.to(device).train(train_text).requires_grad_(train_text)
        backbone = open_backbone(config.damsm.image_encoder, pretrained)
        self.image_encoder = channels_last(ImageEncoder(backbone, config.model.sentence_width), device)
        self.image_encoder.region_head.requires_grad_(config.damsm.word_weight > 0)
        self.networks = Encoders(self.text_encoder, self.image_encoder, config.precision)
        self._encode = replicated(self.networks)
        trained = [parameter for parameter in self.networks.parameters() if parameter.requires_grad]
        self.optimizer = adam(trained, config.damsm.learning_rate, (0.5, 0.999))
        # AttnGAN multiplies its rate by 0.98 per epoch, for hundreds of epochs; a cosine fits any number of steps.
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config.damsm.steps)
        self.scaler = loss_scaler(device, config.precision)

    def skip(self, steps: int) -> None:
        """Advances the schedule by `steps`, for a run that continues from a state."""
        for group, rate in zip(self.optimizer.param_groups, self.schedule.base_lrs, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * steps / self.config.damsm.steps)) / 2
        self.schedule.last_epoch = steps

    def begin(self, batches: BatchSource) -> None:
        """Takes the batches to train on."""
        self.batches = batches

    def step(self, number: int) -> StepLosses:
        """Runs one update; the losses include how often a sentence finds its own picture in the batch."""
        settings = self.config.damsm
        seed_step(self.config.seed, "damsm", number)
        batch = self.batches.batch(number)
        tokens, negatives, lengths = (
            tensor.to(self.device, non_blocking=True) for tensor in (batch.tokens, batch.hard_negatives, batch.lengths)
        )
        equal = related_pairs(batch.captions, batch.groups)
        related = Related(
            equal | fitting_pairs(batch.known, batch.asked), equal | fitting_pairs(batch.asked, batch.known)
        )
        text, image, vectors = self._encode(
            tokens, batch.lengths, self._seen(batch.image), negatives, batch.hard_negative_lengths
        )
        hard = None if vectors is None else HardNegatives(vectors, batch.hard_negatives_valid)
        losses = {}
        if settings.word_weight:
            gammas = (settings.gamma1, settings.gamma2, settings.gamma3)
            losses["words"] = settings.word_weight * word_loss(image, text, lengths, related, gammas)
        losses["sentence"] = sentence_loss(image, text, related, settings.gamma3, hard)
        backward(losses, self.scaler)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.text_encoder.parameters(), settings.gradient_clip)
        update(self.optimizer, self.scaler)
        self.schedule.step()
        with torch.no_grad():
            pictures = gathered(nn.functional.normalize(image.picture.float()))
            similarities = nn.functional.normalize(text.sentence) @ pictures.T
            losses["found"] = (similarities.argmax(1) == own_columns(equal)).float().mean()
        return StepLosses.mean([losses])

    def _seen(self, image: Tensor) -> Tensor:
        if not self.config.damsm.random_erasing:
            return image
        count = world() * len(image)
        uniforms = share(torch.rand(count, RECTANGLES, RECTANGLE_UNIFORMS, device=image.device))
        erased = share(torch.rand(count, device=image.device)) < 0.5
        return torch.where(erased[:, None, None, None], random_erasing(image, uniforms), image)

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The only optimizer."""
        return {"encoders": self.optimizer}
