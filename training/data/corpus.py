"""Pictures and captions as batches of tensors; seed and step alone say what a batch holds, so a run resumes exactly."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from t2i_engine.errors import CaptionError
from t2i_engine.tokenizer import PADDING, Tokenizer, pad, split
from training.data.altered import ALTERATIONS, Alterations
from training.data.source import DataError


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
    altered: Tensor
    """Int64 (B, A, U): versions of the captions that do not fit (altered.py); of some, the caption itself."""
    altered_lengths: Tensor
    """Int64 (B, A)."""

    @property
    def differs(self) -> Tensor:
        """Which of `altered` are not the caption itself: bool (B, A)."""
        width = max(self.tokens.shape[1], self.altered.shape[2])
        tokens, altered = (F.pad(ids, (0, width - ids.shape[-1])) for ids in (self.tokens, self.altered))
        return (altered != tokens[:, None]).any(2)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Batches(Protocol):
    """A data set as training reads it."""

    def batch(self, seed: int, step: int, size: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch of one step; of `world` processes, each with `size` pictures, the share of process `rank`."""

    def require(self, size: int) -> None:
        """Raises `DataError` where there are too few pictures for a batch of `size`, all processes together."""


def build_vocabulary(captions: Iterable[str]) -> tuple[str, ...]:
    """Every word of the captions, in alphabetical order, behind the padding word."""
    return (PADDING, *sorted({word for caption in captions for word in split(caption)}))


@dataclass(frozen=True)
class Views:
    """How pictures and captions enter a batch: cut, mirrored and shortened at random."""

    side: int
    """R: a larger picture is cut to it somewhere (AttnGAN, DF-GAN)."""
    max_words: int
    """Longer captions keep that many of their words, in order (AttnGAN)."""
    mirror: bool
    """Whether half of the pictures are mirrored (DF-GAN)."""
    alterations: Alterations

    def batch(
        self,
        pictures: NDArray[np.uint8],
        captions: Sequence[Sequence[tuple[int, ...]]],
        groups: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> Batch:
        """A batch of `pictures` uint8 (B, S, S, 3), S ≥ R, each with one of its `captions`, and `groups` (B)."""
        chosen = [texts[int(rng.integers(len(texts)))] for texts in captions]
        shortened = [self._shorten(ids, rng) for ids in chosen]
        tokens, lengths = pad(shortened)
        if self.mirror:
            mirrored = rng.random(len(pictures)) < 0.5
            pictures[mirrored] = pictures[mirrored, :, ::-1]
        if margin := pictures.shape[1] - self.side:
            corners = rng.integers(margin + 1, size=(len(pictures), 2))
            parts = [
                picture[y : y + self.side, x : x + self.side] for picture, (y, x) in zip(pictures, corners, strict=True)
            ]
            pictures = np.stack(parts)
        image = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        altered, altered_lengths = pad([version for ids in shortened for version in self.alterations.altered(ids, rng)])
        versions = (array.reshape(len(tokens), ALTERATIONS, *array.shape[1:]) for array in (altered, altered_lengths))
        return Batch(image, *map(torch.from_numpy, (tokens, lengths, groups, *versions)))

    def _shorten(self, ids: Sequence[int], rng: np.random.Generator) -> Sequence[int]:
        if len(ids) <= self.max_words:
            return ids
        kept = np.sort(rng.choice(len(ids), self.max_words, replace=False))
        return [ids[i] for i in kept]


class Corpus:
    """Batches of pictures that are all at hand, by number."""

    def __init__(
        self,
        pictures: NDArray[np.uint8],
        captions: Sequence[Sequence[str]],
        tokenizer: Tokenizer,
        max_words: int,
        mirror: bool,
        side: int | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        """Takes `pictures` uint8 (N, S, S, 3), several captions for each; those without a known word are left out.

        `side` is R where pictures are larger and to be cut. `groups`, int64 (N), is as in `Batch`; without it, every
        picture is a group of its own.
        """
        self.views = Views(side or pictures.shape[1], max_words, mirror, Alterations(tokenizer))
        self.pictures = pictures
        self.captions = [known(texts, tokenizer) for texts in captions]
        self.captioned = np.flatnonzero([bool(texts) for texts in self.captions])
        self.groups = np.arange(len(pictures)) if groups is None else groups
        self._order: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def batch(self, seed: int, step: int, size: int, rank: int = 0, world: int = 1) -> Batch:
        """Draws the batch of one step: pictures without replacement within an epoch, one caption of each at random.

        Several processes share what one would draw with `world` times the size.
        """
        share = slice(rank * size, (rank + 1) * size)
        size *= world
        epoch, position = divmod(step, len(self.captioned) // size)
        chosen = self._shuffled(seed, epoch)[position * size : (position + 1) * size]
        captions = [self.captions[i] for i in chosen]
        rng = np.random.default_rng([seed, 1, step])
        whole = self.views.batch(self.pictures[chosen], captions, self.groups[chosen], rng)
        return Batch(*(tensor[share] for tensor in whole))

    def require(self, size: int) -> None:
        """Raises `DataError` where there are fewer pictures than a batch of `size` needs."""
        if len(self.captioned) < size:
            raise DataError(
                f"there are {len(self.captioned):,} pictures with a known caption, fewer than a batch of {size}; "
                "lower batch_size, or add pictures"
            )

    def _shuffled(self, seed: int, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != (seed, epoch):
            self._order = (seed, epoch), np.random.default_rng([seed, 0, epoch]).permutation(self.captioned)
        return self._order[1]


def known(texts: Sequence[str], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The captions as token ids, those left out of which no word is known."""
    encoded = []
    for text in texts:
        try:
            encoded.append(tokenizer.encode(text).ids)
        except CaptionError:
            continue
    return encoded
