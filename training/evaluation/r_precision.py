"""R-precision (AttnGAN, Xu et al., 2018): how often a picture's own caption is the best match among 100."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from t2i_engine.errors import CaptionError, UserError
from t2i_engine.pictures import Pixels
from t2i_engine.tokenizer import Tokenizer, pad
from training.checkpoint import backbone_of, load_model
from training.data.source import Source, Understood
from training.distributed import device
from training.evaluation import GeneratedBatch, Result, percent, table
from training.models.image_encoder import ImageEncoder, open_backbone
from training.models.pixels import to_image
from training.models.text_encoder import TextEncoder

CANDIDATES = 100


class EncoderError(UserError):
    """DAMSM encoders that are missing, or that do not know the captions."""


@dataclass(frozen=True)
class MatchingEncoders:
    """The two DAMSM encoders, which measure how well a caption fits a picture; both on one device."""

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
        image = to_image(torch.from_numpy(pixels.copy()).to(self.device))
        return F.normalize(self.image_encoder(image).picture).cpu()


def load_encoders(model: str) -> MatchingEncoders:
    """The encoders of a checkpoint. Raises `CheckpointError` or `EncoderError`."""
    trained = load_model(Path(model)) if model.endswith(".pt") else None
    if trained is None or trained.image_encoder is None:
        raise EncoderError(
            f"r-precision needs an image encoder, which '{model}' lacks; "
            "give the checkpoint of a training run: --encoders runs/NAME/checkpoint.pt"
        )
    text_encoder = trained.model.text_encoder
    name = backbone_of(trained.provenance)
    backbone = open_backbone(name, pretrained=False)  # the checkpoint has the weights, also of a frozen one
    image_encoder = ImageEncoder(backbone, text_encoder.rnn.hidden_size * 2).eval()
    image_encoder.load_state_dict(trained.image_encoder)
    return MatchingEncoders(Tokenizer(trained.words), text_encoder.to(device()), image_encoder.to(device()), device())


class RPrecision:
    """Compares pictures in blocks of 100: the candidates for a picture are the captions of its block.

    Captions that are equal to a picture's own, or of its group, are left out of its candidates. If the data set knows
    its captions' grammar, so are captions that may be true of the picture: judged for a generated picture by its own
    caption, for a real one by all of its captions. The last pictures, fewer than 100, are ignored.
    """

    def __init__(self, encoders: MatchingEncoders, source: Source | None = None) -> None:
        self.encoders = encoders
        self._grammar = source.grammar(encoders.tokenizer) if isinstance(source, Understood) else None
        self.pictures = 0
        self.hits = {"generated": 0, "real": 0}
        self._block: list[_Candidate] = []

    def update(self, batch: GeneratedBatch) -> None:
        """Takes in a batch; captions without a word that the encoders know are skipped."""
        encoded = [self._encode(caption) for caption in batch.captions]
        known = [number for number, ids in enumerate(encoded) if ids]
        if not known:
            return
        sentences = self.encoders.sentences([encoded[number] for number in known])
        generated, real = (self.encoders.pictures(pixels[known]) for pixels in (batch.pixels, batch.real))
        for row, number in enumerate(known):
            asked = self._asks(encoded[number])
            described = [self._asks(self._encode(caption)) for caption in batch.described[number]]
            candidate = _Candidate(
                encoded[number],
                batch.groups[number],
                asked,
                np.bitwise_and.reduce([asked, *described]),
                sentences[row],
                generated[row],
                real[row],
            )
            self._block.append(candidate)
            if len(self._block) == CANDIDATES:
                self._compare()

    def result(self) -> Result:
        """The percentages of generated and of real pictures whose own caption fits best."""
        if not self.pictures:
            raise EncoderError(
                f"fewer than {CANDIDATES} captions contain a word that the encoders know; "
                "give --encoders from a run on the same data"
            )
        shares = {side: percent(hits, self.pictures) for side, hits in self.hits.items()}
        row = (f"{shares['generated']:.1f} %", f"{shares['real']:.1f} %", f"{self.pictures:,}")
        return Result(
            {"r_precision": {**shares, "pictures": self.pictures, "candidates": CANDIDATES}},
            table((f"R-precision, {CANDIDATES} candidates", "real pictures", "pictures"), [row]),
        )

    def _encode(self, caption: str) -> tuple[int, ...]:
        try:
            return self.encoders.tokenizer.encode(caption).ids
        except CaptionError:
            return ()

    def _asks(self, ids: tuple[int, ...]) -> NDArray[np.int64]:
        """What a caption asks for, int64 (K), as `Grammar` says; K is 0 without a grammar."""
        return np.array(self._grammar.asks(ids) if self._grammar else (), np.int64)

    def _compare(self) -> None:
        block, self._block = self._block, []
        sentences = torch.stack([candidate.sentence for candidate in block])
        equal = np.array([[a.group == b.group or a.ids == b.ids for b in block] for a in block])
        asked, known = (np.stack([getattr(candidate, name) for candidate in block]) for name in ("asked", "known"))
        for side, shown in (("generated", asked), ("real", known)):
            common = shown[:, None] & asked[None]
            excluded = torch.from_numpy(equal | (common.all(2) & common.any(2)))
            excluded.fill_diagonal_(False)
            similarities = torch.stack([getattr(candidate, side) for candidate in block]) @ sentences.T
            best = similarities.masked_fill(excluded, float("-inf")).argmax(1)
            self.hits[side] += int((best == torch.arange(len(block))).sum())
        self.pictures += len(block)


class _Candidate(NamedTuple):
    """A caption with its two pictures; vectors are float32 (S)."""

    ids: tuple[int, ...]
    group: int
    asked: NDArray[np.int64]
    """What the caption asks for."""
    known: NDArray[np.int64]
    """What all captions of the real picture say of it."""
    sentence: Tensor
    generated: Tensor
    real: Tensor
