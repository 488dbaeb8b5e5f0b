"""Pictures and captions as batches of tensors; seed and step alone say what a batch holds, so a run resumes exactly."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2i_engine.errors import CaptionError
from t2i_engine.tokenizer import PADDING, Tokenizer, pad, split


class Batch(NamedTuple):
    """B pictures, each with one of its captions."""

    image: Tensor
    """Float (B, 3, R, R) in [−1, 1], channels last in memory."""
    tokens: Tensor
    """Int64 (B, T), 0 behind a caption's end."""
    lengths: Tensor
    """Int64 (B)."""
    groups: Tensor
    """Int64 (B): captions of one group are never each other's negatives (losses/pairs.py)."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


def build_vocabulary(captions: Iterable[str]) -> tuple[str, ...]:
    """Every word of the captions, in alphabetical order, behind the padding word."""
    return (PADDING, *sorted({word for caption in captions for word in split(caption)}))


class Corpus:
    """A data set as training reads it: pictures by number, captions as token ids."""

    def __init__(
        self,
        pictures: NDArray[np.uint8],
        captions: Sequence[Sequence[str]],
        tokenizer: Tokenizer,
        max_words: int,
        mirror: bool,
    ) -> None:
        """Takes `pictures` uint8 (N, R, R, 3), several captions for each; those without a known word are left out."""
        self.mirror = mirror
        self.pictures = pictures
        self.captions = [_known(texts, tokenizer) for texts in captions]
        self.captioned = np.flatnonzero([bool(texts) for texts in self.captions])
        self.max_words = max_words
        self._order: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def batch(self, seed: int, step: int, size: int) -> Batch:
        """Draws the batch of one step: pictures without replacement within an epoch, one caption of each at random."""
        epoch, position = divmod(step, len(self.captioned) // size)
        chosen = self._shuffled(seed, epoch)[position * size : (position + 1) * size]
        rng = np.random.default_rng([seed, 1, step])
        captions = [self.captions[i][rng.integers(len(self.captions[i]))] for i in chosen]
        tokens, lengths = pad([self._shorten(ids, rng) for ids in captions])
        pictures = self.pictures[chosen]
        if self.mirror:
            mirrored = rng.random(size) < 0.5
            pictures[mirrored] = pictures[mirrored, :, ::-1]
        image = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        return Batch(image, torch.from_numpy(tokens), torch.from_numpy(lengths), torch.from_numpy(chosen))

    def _shuffled(self, seed: int, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != (seed, epoch):
            self._order = (seed, epoch), np.random.default_rng([seed, 0, epoch]).permutation(self.captioned)
        return self._order[1]

    def _shorten(self, ids: Sequence[int], rng: np.random.Generator) -> Sequence[int]:
        if len(ids) <= self.max_words:
            return ids
        kept = np.sort(rng.choice(len(ids), self.max_words, replace=False))
        return [ids[i] for i in kept]


def _known(texts: Sequence[str], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    encoded = []
    for text in texts:
        try:
            encoded.append(tokenizer.encode(text).ids)
        except CaptionError:
            continue
    return encoded
