"""Pre-training of the text encoder: captions and the pictures they belong to are brought together (AttnGAN's DAMSM)."""

from typing import Any

import torch
from torch import Tensor, nn

from training.augmentation import SPOT_CHANCES, SPOTS, spotted
from training.config import RunConfig
from training.data.corpus import Batches
from training.distributed import gathered, means, replicated, share, world
from training.losses.contrastive import HardNegatives
from training.losses.damsm import sentence_loss, word_loss
from training.losses.pairs import own_columns, related_pairs
from training.models.image_encoder import EncodedImage, ImageEncoder, open_backbone
from training.models.text_encoder import EncodedText, TextEncoder
from training.stepping import (
    Losses,
    autocast,
    backward,
    channels_last,
    load_states,
    loss_scaler,
    own_batch,
    seed_step,
    states,
    update,
)


class Encoders(nn.Module):
    """Text encoder and image encoder in one forward pass, as `DistributedDataParallel` wants it."""

    def __init__(self, text_encoder: TextEncoder, image_encoder: ImageEncoder, precision: str) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder
        self.precision = precision

    def forward(
        self, tokens: Tensor, lengths: Tensor, image: Tensor, altered: Tensor, altered_lengths: Tensor
    ) -> tuple[EncodedText, EncodedImage, Tensor | None]:
        """Encodes `tokens` int64 (B, T) of `lengths` (B), and `image` float (B, 3, R, R).

        Behind them, the sentence vectors (B, A, S) of `altered` (B, A, U) of `altered_lengths`; None where A = 0.
        """
        text = self.text_encoder(tokens, lengths)
        nearly = self.text_encoder.sentences(altered, altered_lengths) if altered.shape[1] else None
        with autocast(image.device, self.precision):
            return text, self.image_encoder(image), nearly


class DamsmTrainer:
    """Trains text encoder and image encoder together, or the image encoder alone against a finished text encoder."""

    def __init__(
        self,
        config: RunConfig,
        corpus: Batches,
        text_encoder: TextEncoder,
        device: torch.device,
        train_text: bool = True,
        pretrained: bool = True,
    ) -> None:
        """Not `pretrained`, ImageNet's weights are not fetched: where others are loaded, or none are needed."""
        self.config = config
        self.corpus = corpus
        self.device = device
        self.text_encoder = text_encoder.to(device).train(train_text).requires_grad_(train_text)
        backbone = open_backbone(config.damsm.image_encoder, pretrained)
        self.image_encoder = channels_last(ImageEncoder(backbone, config.model.sentence_width), device)
        self.networks = Encoders(self.text_encoder, self.image_encoder, config.precision)
        self._encode = replicated(self.networks)
        trained = [parameter for parameter in self.networks.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=config.damsm.learning_rate, betas=(0.5, 0.999))
        # AttnGAN multiplies its rate by 0.98 an epoch, for hundreds of them; a cosine fits any number of steps.
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config.damsm.steps)
        self.scaler = loss_scaler(device, config.precision)

    def step(self, number: int) -> Losses:
        """Makes one update; returns losses and how often the sentence picks its own picture from the batch."""
        settings = self.config.damsm
        seed_step(self.config.seed, "damsm", number)
        batch = own_batch(self.corpus, self.config.seed, number, settings.batch_size, self.device)
        related = related_pairs(batch.tokens, batch.groups)
        few = slice(settings.hard_negatives)
        text, image, nearly = self._encode(
            batch.tokens, batch.lengths, self._seen(batch.image), batch.altered[:, few], batch.altered_lengths[:, few]
        )
        hard = None if nearly is None else HardNegatives(nearly, batch.differs[:, few])
        losses = {
            "words": word_loss(image, text, batch.lengths, related, settings.smoothing),
            "sentence": sentence_loss(image, text, related, settings.smoothing, hard),
        }
        backward(losses, self.scaler)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.text_encoder.parameters(), settings.gradient_clip)
        if update(self.optimizer, self.scaler):
            self.schedule.step()
        with torch.no_grad():
            pictures = gathered(nn.functional.normalize(image.picture.float()))
            similarities = nn.functional.normalize(text.sentence) @ pictures.T
            losses["found"] = (similarities.argmax(1) == own_columns(related)).float().mean()
        return means([losses])

    def _seen(self, image: Tensor) -> Tensor:
        if not self.config.damsm.random_erasing:
            return image
        count = world() * len(image)
        chances = share(torch.rand(count, SPOTS, SPOT_CHANCES, device=image.device))
        spoilt = share(torch.rand(count, device=image.device)) < 0.5
        return torch.where(spoilt[:, None, None, None], spotted(image, chances), image)

    @property
    def learning_rates(self) -> dict[str, float]:
        """As they are now."""
        return {"encoders": self.optimizer.param_groups[0]["lr"]}

    def state(self) -> dict[str, Any]:
        """What resuming needs."""
        return states(self, self._STATEFUL)

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what `state` left."""
        load_states(self, self._STATEFUL, state)

    _STATEFUL = ("networks", "optimizer", "schedule", "scaler")
