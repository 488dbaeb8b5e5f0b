"""Pre-training of the text encoder: captions and the pictures they belong to are brought together (AttnGAN's DAMSM)."""

from typing import Any

import torch
from torch import nn

from training.config import RunConfig
from training.data.corpus import Batches
from training.losses.damsm import sentence_loss, word_loss
from training.losses.pairs import related_pairs
from training.models.image_encoder import BACKBONES, ImageEncoder
from training.models.text_encoder import TextEncoder
from training.stepping import Losses, autocast, channels_last, seed_step


class DamsmTrainer:
    """Trains text encoder and image encoder together, or the image encoder alone against a finished text encoder."""

    def __init__(
        self,
        config: RunConfig,
        corpus: Batches,
        text_encoder: TextEncoder,
        device: torch.device,
        train_text: bool = True,
    ) -> None:
        self.config = config
        self.corpus = corpus
        self.device = device
        self.text_encoder = text_encoder.to(device).train(train_text).requires_grad_(train_text)
        backbone = BACKBONES[config.damsm.image_encoder]()
        self.image_encoder = channels_last(ImageEncoder(backbone, config.model.sentence_width), device)
        self.networks = nn.ModuleDict({"text_encoder": self.text_encoder, "image_encoder": self.image_encoder})
        trained = [parameter for parameter in self.networks.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=config.damsm.learning_rate, betas=(0.5, 0.999))
        # AttnGAN multiplies its rate by 0.98 an epoch, for hundreds of them; a cosine fits any number of steps.
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config.damsm.steps)

    def step(self, number: int) -> Losses:
        """Makes one update; returns losses and how often the sentence picks its own picture from the batch."""
        settings = self.config.damsm
        seed_step(self.config.seed, "damsm", number)
        batch = self.corpus.batch(self.config.seed, number, settings.batch_size).to(self.device)
        related = related_pairs(batch.tokens, batch.groups)
        text = self.text_encoder(batch.tokens, batch.lengths)
        with autocast(self.device, self.config.precision):
            image = self.image_encoder(batch.image)
        words = word_loss(image, text, batch.lengths, related, settings.smoothing)
        sentence = sentence_loss(image, text, related, settings.smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        (words + sentence).backward()
        nn.utils.clip_grad_norm_(self.text_encoder.parameters(), settings.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            similarities = nn.functional.normalize(text.sentence) @ nn.functional.normalize(image.picture.float()).T
            hits = (similarities.argmax(1) == torch.arange(len(similarities), device=self.device)).float().mean()
        return {"words": words.item(), "sentence": sentence.item(), "found": hits.item()}

    def state(self) -> dict[str, Any]:
        """What resuming needs."""
        return {name: getattr(self, name).state_dict() for name in ("networks", "optimizer", "schedule")}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what `state` left."""
        for name in ("networks", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
