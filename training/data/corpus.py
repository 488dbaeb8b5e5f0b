"""Which pictures and captions make up a batch. Only seed and step determine it, so that runs resume exactly."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import count
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2i_engine.errors import CaptionError
from t2i_engine.tokenizer import PADDING, Tokenizer, split
from training.data.source import DataError, Grammar


class Draft(NamedTuple):
    """B pictures, each with one of its captions, and how to crop and flip each; everything on the host (feed.py)."""

    ids: Sequence[Sequence[int]]
    """The captions' token ids."""
    pictures: Tensor
    """Uint8 (B, H, H, 3); or int64 (B), the rows of these pictures among all (`Batches.pictures_on`)."""
    corners: Tensor
    """Int64 (B, 2): y and x of the crop."""
    flips: Tensor
    """Bool (B): whether it is mirrored."""
    captions: Tensor
    """Int64 (B): equal numbers mean equal captions."""
    groups: Tensor
    """Int64 (B): captions of one group are never each other's negatives (losses.py)."""
    asked: Tensor
    """Int64 (B, K): what the captions ask for, as bit masks (`Grammar`); K = 0 if that is not known."""
    known: Tensor
    """Int64 (B, K): what all captions of each picture together say of it."""


class Batches(Protocol):
    """A data set as training reads it."""

    @property
    def resolution(self) -> int:
        """R: larger pictures are cropped to it."""

    @property
    def grammar(self) -> Grammar | None:
        """The grammar of its captions; None if it has none."""

    @property
    def unique_captions(self) -> Sequence[tuple[int, ...]] | None:
        """The token ids of every caption, once, by the number in `Draft`; None if they are streamed."""

    def drafts(self, seed: int, first: int, size: int, rank: int = 0, world: int = 1) -> Iterator[Draft]:
        """The batches from step `first` on: the `size` pictures of each that belong to process `rank` of `world`."""

    def pictures_on(self, device: torch.device) -> Tensor | None:
        """All pictures, uint8 (N, H, H, 3), on `device` or, if they do not fit, on the host; None if they are streamed.

        Raises `DataError` if the config requires them on `device`, but they do not fit.
        """

    def require(self, size: int) -> None:
        """Raises `DataError` if there are too few pictures for a batch of `size`, over all processes."""


def build_vocabulary(captions: Iterable[str]) -> tuple[str, ...]:
    """The padding word, then every word of the captions in alphabetical order."""
    return (PADDING, *sorted({word for caption in captions for word in split(caption)}))


class Corpus:
    """A data set whose pictures are all in memory, or mapped into it."""

    def __init__(
        self,
        pictures: NDArray[np.uint8],
        captions: Sequence[Sequence[str]],
        tokenizer: Tokenizer,
        *,
        resolution: int | None = None,
        horizontal_flip: bool = False,
        groups: NDArray[np.int64] | None = None,
        on_device: bool | Literal["auto"] = "auto",
        grammar: Grammar | None = None,
    ) -> None:
        """Takes `pictures` uint8 (N, H, H, 3) and several captions for each; captions without a known word are dropped.

        `resolution` is R if pictures are to be cropped. `groups`, int64 (N), is as in `Draft`; by default every picture
        is a group of its own.
        """
        self.resolution = resolution or pictures.shape[1]
        self.horizontal_flip = horizontal_flip
        self.grammar = grammar
        self.on_device = on_device
        encoded = [encode_known(texts, tokenizer) for texts in captions]
        numbers: dict[tuple[int, ...], int] = {}
        self._captions = np.array(
            [numbers.setdefault(ids, len(numbers)) for texts in encoded for ids in texts], np.int64
        )
        """The captions' numbers, picture by picture."""
        self.unique_captions = list(numbers)
        self._counts = np.array([len(texts) for texts in encoded], np.int64)
        self._starts = self._counts.cumsum() - self._counts
        self._captioned = np.flatnonzero(self._counts)
        asked = [grammar.asks(ids) if grammar else () for ids in self.unique_captions]
        self._asked = np.array(asked, np.int64).reshape(len(asked), -1 if asked else 0)
        self._known = np.zeros((len(pictures), self._asked.shape[1]), np.int64)
        self._known[self._captioned] = np.bitwise_and.reduceat(
            self._asked[self._captions], self._starts[self._captioned], axis=0
        )
        self._groups = np.arange(len(pictures)) if groups is None else groups
        with warnings.catch_warnings(action="ignore"):  # pictures mapped from disk are read-only, and never written to
            self._pictures = torch.from_numpy(pictures)
        self._placed: dict[torch.device, Tensor] = {}

    def drafts(self, seed: int, first: int, size: int, rank: int = 0, world: int = 1) -> Iterator[Draft]:
        """Draws pictures without replacement within an epoch, and one caption of each at random.

        Processes share the batch that a single one would draw with `world` times the size.
        """
        share, whole = slice(rank * size, (rank + 1) * size), size * world
        steps = len(self._captioned) // whole
        first_epoch, position = divmod(first, steps)
        for epoch in count(first_epoch):
            order = np.random.default_rng([seed, 0, epoch]).permutation(self._captioned)
            for step in range(position, steps):
                rng = np.random.default_rng([seed, 1, epoch * steps + step])
                yield self._draft(order[step * whole : (step + 1) * whole], rng, share)
            position = 0

    def _draft(self, rows: NDArray[np.int64], rng: np.random.Generator, share: slice) -> Draft:
        captions = self._captions[self._starts[rows] + rng.integers(self._counts[rows])]
        corners, flips = draw_views(rng, len(rows), self._pictures.shape[1] - self.resolution, self.horizontal_flip)
        numbers = (rows, corners, flips, captions, self._groups[rows], self._asked[captions], self._known[rows])
        own = (array[share] for array in numbers)
        return Draft([self.unique_captions[number] for number in captions[share]], *map(torch.from_numpy, own))

    def pictures_on(self, device: torch.device) -> Tensor:
        """All pictures, uint8 (N, H, H, 3): copied to a GPU's memory once, if they are to be there; else as they are.

        Raises `DataError`.
        """
        if device.type == "cpu" or self.on_device is False:
            return self._pictures
        if device not in self._placed:
            self._placed[device] = self._pictures.to(device) if self._fit(device) else self._pictures
        return self._placed[device]

    def _fit(self, device: torch.device) -> bool:
        needed, free = self._pictures.nbytes, torch.cuda.mem_get_info(device)[0]
        if self.on_device == "auto":
            return needed <= free / 2
        if needed > free:
            raise DataError(
                f"the pictures take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of the GPU's memory are free; "
                "keep them on the host: --set data.on_device=false"
            )
        return True

    def require(self, size: int) -> None:
        """Raises `DataError` if there are fewer pictures than a batch of `size` needs."""
        if len(self._captioned) < size:
            raise DataError(
                f"there are {len(self._captioned):,} pictures with a known caption, fewer than a batch of {size}; "
                "lower batch_size, or add pictures"
            )


def draw_views(
    rng: np.random.Generator, count: int, margin: int, mirrored: bool
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Random `corners` and `flips` (see `Draft`) of pictures that are larger than R by `margin` (AttnGAN, DF-GAN)."""
    corners = rng.integers(margin + 1, size=(count, 2))
    return corners, rng.random(count) < (0.5 if mirrored else 0)


def caption_hash(ids: Sequence[int]) -> int:
    """A number from 0 to 2⁶³ − 1 that in practice no other token ids have, on any machine."""
    return int.from_bytes(blake2b(np.array(ids, "<i8").tobytes(), digest_size=8).digest(), "little") >> 1


def encode_known(texts: Sequence[str], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Token ids of the captions that contain at least one known word."""
    encoded = []
    for text in texts:
        try:
            encoded.append(tokenizer.encode(text).ids)
        except CaptionError:
            continue
    return encoded
