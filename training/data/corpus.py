"""Batches of tensors from pictures and captions. Seed and step alone determine a batch, so that runs resume exactly."""

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
from training.data.source import DataError
from training.data.synthbirds.hard_negatives import MAX_HARD_NEGATIVES, HardNegativeCaptions
from training.models.pixels import to_image


class Batch(NamedTuple):
    """B pictures, each with one of its captions."""

    image: Tensor
    """Float (B, 3, R, R) in [−1, 1], channels last in memory."""
    tokens: Tensor
    """Int64 (B, T), padded with 0."""
    lengths: Tensor
    """Int64 (B)."""
    groups: Tensor
    """Int64 (B): captions of one group are never each other's negatives (losses.py)."""
    hard_negatives: Tensor
    """Int64 (B, A, U): hard negatives of each caption; the caption itself if it allows none."""
    hard_negative_lengths: Tensor
    """Int64 (B, A)."""

    @property
    def hard_negatives_valid(self) -> Tensor:
        """Which `hard_negatives` differ from the caption: bool (B, A)."""
        width = max(self.tokens.shape[1], self.hard_negatives.shape[2])
        tokens, negatives = (F.pad(ids, (0, width - ids.shape[-1])) for ids in (self.tokens, self.hard_negatives))
        return (negatives != tokens[:, None]).any(2)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Batches(Protocol):
    """A data set as training reads it."""

    def batch(self, seed: int, step: int, size: int, rank: int = 0, world: int = 1) -> Batch:
        """The `size` pictures of one step that belong to process `rank` of `world`."""

    def require(self, size: int) -> None:
        """Raises `DataError` if there are too few pictures for a batch of `size`, over all processes."""


def build_vocabulary(captions: Iterable[str]) -> tuple[str, ...]:
    """The padding word, then every word of the captions in alphabetical order."""
    return (PADDING, *sorted({word for caption in captions for word in split(caption)}))


@dataclass(frozen=True)
class Collator:
    """Collates pictures and captions into a batch, with random crops, flips and captions."""

    resolution: int
    """R: larger pictures are cropped to it at random (AttnGAN, DF-GAN)."""
    max_words: int
    """Longer captions keep this many of their words, in order (AttnGAN)."""
    horizontal_flip: bool
    """Mirror each picture with probability 1/2 (DF-GAN)."""
    hard_negatives: HardNegativeCaptions

    def batch(
        self,
        pictures: NDArray[np.uint8],
        captions: Sequence[Sequence[tuple[int, ...]]],
        groups: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> Batch:
        """A batch of `pictures` uint8 (B, H, H, 3), H ≥ R, with one of each one's `captions`, and `groups` (B)."""
        chosen = [texts[int(rng.integers(len(texts)))] for texts in captions]
        shortened = [self._shorten(ids, rng) for ids in chosen]
        tokens, lengths = pad(shortened)
        if self.horizontal_flip:
            flipped = rng.random(len(pictures)) < 0.5
            pictures[flipped] = pictures[flipped, :, ::-1]
        if margin := pictures.shape[1] - self.resolution:
            corners = rng.integers(margin + 1, size=(len(pictures), 2))
            pictures = np.stack(
                [
                    picture[y : y + self.resolution, x : x + self.resolution]
                    for picture, (y, x) in zip(pictures, corners, strict=True)
                ]
            )
        image = to_image(torch.from_numpy(pictures))
        negatives, counts = pad([version for ids in shortened for version in self.hard_negatives.make(ids, rng)])
        per_picture = (
            array.reshape(len(tokens), MAX_HARD_NEGATIVES, *array.shape[1:]) for array in (negatives, counts)
        )
        return Batch(image, *map(torch.from_numpy, (tokens, lengths, groups, *per_picture)))

    def _shorten(self, ids: Sequence[int], rng: np.random.Generator) -> Sequence[int]:
        if len(ids) <= self.max_words:
            return ids
        kept = np.sort(rng.choice(len(ids), self.max_words, replace=False))
        return [ids[i] for i in kept]


class Corpus:
    """Batches of pictures that are all in memory, or mapped into it."""

    def __init__(
        self,
        pictures: NDArray[np.uint8],
        captions: Sequence[Sequence[str]],
        tokenizer: Tokenizer,
        max_words: int,
        horizontal_flip: bool,
        resolution: int | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        """Takes `pictures` uint8 (N, H, H, 3) and several captions for each; captions without a known word are dropped.

        `resolution` is R if pictures are to be cropped. `groups`, int64 (N), is as in `Batch`; by default every picture
        is a group of its own.
        """
        negatives = HardNegativeCaptions(tokenizer)
        self.collator = Collator(resolution or pictures.shape[1], max_words, horizontal_flip, negatives)
        self.pictures = pictures
        self.captions = [encode_known(texts, tokenizer) for texts in captions]
        self.captioned = np.flatnonzero([bool(texts) for texts in self.captions])
        self.groups = np.arange(len(pictures)) if groups is None else groups
        self._order: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def batch(self, seed: int, step: int, size: int, rank: int = 0, world: int = 1) -> Batch:
        """Draws the batch of one step: pictures without replacement within an epoch, and one caption of each at random.

        Processes share the batch that a single one would draw with `world` times the size.
        """
        share = slice(rank * size, (rank + 1) * size)
        size *= world
        epoch, position = divmod(step, len(self.captioned) // size)
        chosen = self._shuffled(seed, epoch)[position * size : (position + 1) * size]
        captions = [self.captions[i] for i in chosen]
        rng = np.random.default_rng([seed, 1, step])
        whole = self.collator.batch(self.pictures[chosen], captions, self.groups[chosen], rng)
        return Batch(*(tensor[share] for tensor in whole))

    def require(self, size: int) -> None:
        """Raises `DataError` if there are fewer pictures than a batch of `size` needs."""
        if len(self.captioned) < size:
            raise DataError(
                f"there are {len(self.captioned):,} pictures with a known caption, fewer than a batch of {size}; "
                "lower batch_size, or add pictures"
            )

    def _shuffled(self, seed: int, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != (seed, epoch):
            self._order = (seed, epoch), np.random.default_rng([seed, 0, epoch]).permutation(self.captioned)
        return self._order[1]


def encode_known(texts: Sequence[str], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Token ids of the captions that contain at least one known word."""
    encoded = []
    for text in texts:
        try:
            encoded.append(tokenizer.encode(text).ids)
        except CaptionError:
            continue
    return encoded
