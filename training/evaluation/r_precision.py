"""R-precision (AttnGAN, Xu et al., 2018): how often a picture's own caption fits it best among 100."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from t2i_engine.errors import CaptionError, UserError
from t2i_engine.pictures import Pixels
from t2i_engine.tokenizer import Tokenizer, pad
from training.checkpoint import load_model
from training.distributed import device
from training.evaluation.report import percent, table
from training.evaluation.samples import Sample
from training.judges import backbone_of
from training.models.image_encoder import ImageEncoder, open_backbone
from training.models.text_encoder import TextEncoder

CANDIDATES = 100


class EncoderError(UserError):
    """A model that holds no DAMSM image encoder."""


@dataclass(frozen=True)
class MatchingEncoders:
    """The two DAMSM encoders, which say how well a caption fits a picture; both on one device."""

    tokenizer: Tokenizer
    text_encoder: TextEncoder
    image_encoder: ImageEncoder
    device: torch.device

    @torch.inference_mode()
    def sentences(self, ids: list[tuple[int, ...]]) -> Tensor:
        """Sentence vectors of unit length, float32 (B, S), on the CPU."""
        tokens, lengths = (torch.from_numpy(part) for part in pad(ids))
        return F.normalize(self.text_encoder(tokens.to(self.device), lengths).sentence).cpu()

    @torch.inference_mode()
    def pictures(self, pixels: Pixels) -> Tensor:
        """Picture vectors of unit length, float32 (B, S), on the CPU, of `pixels` uint8 (B, R, R, 3)."""
        image = torch.from_numpy(pixels.copy()).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return F.normalize(self.image_encoder(image).picture).cpu()


def load_encoders(model: str) -> MatchingEncoders:
    """The encoders of a checkpoint. Raises `CheckpointError` or `EncoderError`."""
    trained = load_model(Path(model)) if model.endswith(".pt") else None
    if trained is None or trained.judges.image_encoder is None:
        raise EncoderError(
            f"r-precision needs an image encoder, and '{model}' holds none; "
            "give the checkpoint of a training run: --encoders runs/NAME/checkpoint.pt"
        )
    text_encoder = trained.model.text_encoder
    name = backbone_of(trained.provenance)
    # Frozen backbones are in the checkpoint too: nothing is fetched.
    backbone = open_backbone(name, pretrained=False)
    image_encoder = ImageEncoder(backbone, text_encoder.rnn.hidden_size * 2).eval()
    image_encoder.load_state_dict(trained.judges.image_encoder)
    return MatchingEncoders(Tokenizer(trained.words), text_encoder.to(device()), image_encoder.to(device()), device())


class RPrecision:
    """Takes in samples and compares them in blocks of 100: the candidates of a picture are the captions of its block.

    Captions that are the same, of the same picture or of its group, are right as well and not counted against it. Real
    pictures are put to the same test. The last pictures, fewer than 100, are left out.
    """

    def __init__(self, encoders: MatchingEncoders) -> None:
        self.encoders = encoders
        self.pictures = 0
        self.hits = {"generated": 0, "real": 0}
        self._block: list[_Candidate] = []

    def update(self, sample: Sample) -> None:
        """Takes in a batch; captions without a word that the encoders know are left out."""
        encoded = [self._encode(caption) for caption in sample.captions]
        kept = [number for number, ids in enumerate(encoded) if ids]
        if not kept:
            return
        sentences = self.encoders.sentences([encoded[number] for number in kept])
        generated, real = (self.encoders.pictures(pixels[kept]) for pixels in (sample.pixels, sample.real))
        for row, number in enumerate(kept):
            candidate = _Candidate(encoded[number], sample.groups[number], sentences[row], generated[row], real[row])
            self._block.append(candidate)
            if len(self._block) == CANDIDATES:
                self._compare()

    def result(self) -> "Matched":
        """How often generated and real pictures found their own caption."""
        if not self.pictures:
            raise EncoderError(
                f"the image encoder's vocabulary knows a word of fewer than {CANDIDATES} captions; "
                "give --encoders of a run on the same data"
            )
        shares = {side: percent(hits, self.pictures) for side, hits in self.hits.items()}
        return Matched(shares["generated"], shares["real"], self.pictures)

    def _encode(self, caption: str) -> tuple[int, ...]:
        try:
            return self.encoders.tokenizer.encode(caption).ids
        except CaptionError:
            return ()

    def _compare(self) -> None:
        block, self._block = self._block, []
        sentences = torch.stack([candidate.sentence for candidate in block])
        right = torch.tensor([[a.group == b.group or a.ids == b.ids for b in block] for a in block])
        right.fill_diagonal_(False)
        for side in self.hits:
            similarities = torch.stack([getattr(candidate, side) for candidate in block]) @ sentences.T
            best = similarities.masked_fill(right, float("-inf")).argmax(1)
            self.hits[side] += int((best == torch.arange(len(block))).sum())
        self.pictures += len(block)


@dataclass(frozen=True)
class _Candidate:
    """A caption and the two pictures that belong to it; vectors are float32 (S)."""

    ids: tuple[int, ...]
    group: int
    sentence: Tensor
    generated: Tensor
    real: Tensor


@dataclass(frozen=True)
class Matched:
    """R-precision in percent, of generated pictures and of the real ones."""

    generated: float
    real: float
    pictures: int

    def as_json(self) -> dict[str, Any]:
        """The two shares and their conditions."""
        return {"r_precision": {**asdict(self), "candidates": CANDIDATES}}

    def as_markdown(self) -> str:
        """A table of one row."""
        row = (f"{self.generated:.1f} %", f"{self.real:.1f} %", f"{self.pictures:,}")
        return table((f"R-precision, {CANDIDATES} candidates", "real pictures", "pictures"), [row])
