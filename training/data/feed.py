"""Batches of tensors on the trainer's device, the next one being made while a step runs.

Nothing here waits for the device: pictures stay uint8 until they are on it, and are cropped, mirrored and normalised
there.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from t2i_engine.tokenizer import pad
from training.data.corpus import Batches, Draft
from training.data.source import SYNTHBIRDS, DataError
from training.distributed import rank, world
from training.models.pixels import to_image


class Batch(NamedTuple):
    """B pictures, each with one of its captions, on the device; but token ids and lengths are on the host."""

    image: Tensor
    """Float (B, 3, R, R) in [−1, 1], channels last in memory."""
    tokens: Tensor
    """Int64 (B, T), padded with 0."""
    lengths: Tensor
    """Int64 (B)."""
    captions: Tensor
    """Int64 (B): equal numbers mean equal captions; in a `Corpus`, positions among its `unique_captions`."""
    groups: Tensor
    """Int64 (B): captions of one group are never each other's negatives (losses.py)."""
    asked: Tensor
    """Int64 (B, K), as in `Draft`."""
    known: Tensor
    """Int64 (B, K), as in `Draft`."""
    hard_negatives: Tensor
    """Int64 (B, A, U): hard negatives of each caption; the caption itself if it allows none."""
    hard_negative_lengths: Tensor
    """Int64 (B, A)."""
    hard_negatives_valid: Tensor
    """Bool (B, A), on the device: which of them differ from the caption."""


class _Prepared(NamedTuple):
    """A batch on the host, pinned if it goes to a GPU."""

    pictures: Tensor
    """As in `Draft`: rows only if all pictures are on the device."""
    numbers: Tensor
    """Int64 (5 + 2K, B): y, x, whether mirrored, caption, group, what is asked, what is known."""
    tokens: Tensor
    lengths: Tensor
    hard_negatives: Tensor
    hard_negative_lengths: Tensor
    hard_negatives_valid: Tensor


class Feed:
    """The batches of one phase of training, by number: those rows that belong to this process.

    A thread prepares the batch after the last one asked for.
    """

    def __init__(
        self, data: Batches, seed: int, size: int, device: torch.device, *, max_words: int | None, hard_negatives: int
    ) -> None:
        """`size` is B. Captions longer than `max_words` keep that many of their words, in order (AttnGAN), and T is
        `max_words`; with None they stay whole, and T is the longest's. `hard_negatives` is A.

        Raises `DataError` for too few pictures, for hard negatives of a data set that cannot make them, and for
        pictures that do not fit the GPU.
        """
        self._rank, self._world = rank(), world()
        data.require(size * self._world)
        if hard_negatives and data.grammar is None:
            raise DataError(
                f"only {SYNTHBIRDS} can make hard negatives of its captions; set hard_negatives to 0 in damsm and gan"
            )
        self._data, self._seed, self._size, self._device = data, seed, size, device
        self._max_words, self._grammar, self._hard_negatives = max_words, data.grammar, hard_negatives
        self._pictures = data.pictures_on(device)
        self._drafts: Iterator[Draft] = iter(())
        self._position: int | None = None
        """The number of the next of `_drafts`."""
        self._thread = ThreadPoolExecutor(1, "feed")
        self._next: tuple[int, Future[_Prepared]] | None = None

    def batch(self, number: int) -> Batch:
        """Batch `number`, from 0: at once if it follows the previous one. Raises `DataError`."""
        ahead, self._next = self._next, None
        if ahead and ahead[0] == number:
            prepared = ahead[1].result()
        else:
            if ahead:
                wait([ahead[1]])
            # Here rather than in the thread: this may start worker processes, which copy the thread that starts them.
            prepared = self._prepare(number)
        self._next = number + 1, self._thread.submit(self._prepare, number + 1)
        return self._placed(prepared)

    def close(self) -> None:
        """Ends the thread, and processes that read for it."""
        self._thread.shutdown(cancel_futures=True)
        self._next, self._drafts, self._position = None, iter(()), None

    def _prepare(self, number: int) -> _Prepared:
        if self._position != number:
            self._drafts = iter(())  # the former readers stop before others start
            self._drafts = self._data.drafts(self._seed, number, self._size, self._rank, self._world)
        self._position = None  # in case of an error
        draft = next(self._drafts)
        self._position = number + 1
        pictures = draft.pictures
        if self._pictures is not None and self._pictures.is_cpu:
            # By NumPy: threads that PyTorch would start here get in the way of the step's.
            pictures = torch.from_numpy(self._pictures.numpy()[pictures.numpy()])
        numbers = torch.stack(
            [*draft.corners.T, draft.flips.long(), draft.captions, draft.groups, *draft.asked.T, *draft.known.T]
        )
        prepared = _Prepared(pictures, numbers, *self._texts(number, draft))
        if self._device.type == "cpu":
            return prepared
        return _Prepared(*(tensor.pin_memory() for tensor in prepared))

    def _texts(self, number: int, draft: Draft) -> Iterator[Tensor]:
        """The batch's `tokens`, `lengths`, `hard_negatives`, their lengths, and which are valid.

        Every row has random numbers of its own, so that several processes draw what a single one would.
        """
        kept, versions = [], []
        for row, (ids, known) in enumerate(zip(draft.ids, draft.known.tolist(), strict=True), self._rank * self._size):
            rng = np.random.default_rng([self._seed, 2, number, row])
            kept.append(_shortened(ids, self._max_words, rng))
            if self._grammar and self._hard_negatives:
                versions += self._grammar.hard_negatives(kept[-1], known, self._hard_negatives, rng)
        tokens, lengths = pad(kept)
        width = self._max_words or tokens.shape[1]
        tokens = np.pad(tokens, ((0, 0), (0, width - tokens.shape[1])))
        shape = len(kept), self._hard_negatives
        negatives, counts = (array.reshape(*shape, *array.shape[1:]) for array in pad(versions))
        own = iter(versions)
        valid = np.array([[list(next(own)) != list(ids) for _ in range(shape[1])] for ids in kept], bool).reshape(shape)
        return map(torch.from_numpy, (tokens, lengths, negatives, counts, valid))

    def _placed(self, prepared: _Prepared) -> Batch:
        pictures, numbers = (tensor.to(self._device, non_blocking=True) for tensor in prepared[:2])
        if self._pictures is not None and pictures.ndim == 1:
            pictures = self._pictures.index_select(0, pictures)
        y, x, flips, captions, groups = numbers[:5]
        asked, known = numbers[5:].reshape(2, -1, numbers.shape[1]).transpose(1, 2)
        image = seen(pictures, torch.stack([y, x], 1), flips, self._data.resolution)
        valid = prepared.hard_negatives_valid.to(self._device, non_blocking=True)
        return Batch(image, prepared.tokens, prepared.lengths, captions, groups, asked, known, *prepared[4:6], valid)


def seen(pictures: Tensor, corners: Tensor, flips: Tensor, resolution: int) -> Tensor:
    """Cuts a square out of each picture, and mirrors some: float (B, 3, R, R) in [−1, 1], channels last in memory.

    `pictures` are uint8 (B, H, H, 3), `corners` int64 (B, 2) the squares' upper and left edges, `flips` (B) says which
    are mirrored, and `resolution` is R.
    """
    forward = torch.arange(resolution, device=pictures.device)
    rows = corners[:, :1] + forward
    columns = corners[:, 1:] + torch.where(flips.bool()[:, None], forward.flip(0), forward)
    count, side = pictures.shape[:2]
    rows += side * torch.arange(count, device=pictures.device)[:, None]
    pixels = (rows[:, :, None] * side + columns[:, None]).flatten()
    # By number, all pictures being one long row of pixels: on a CPU, a quarter of the time of three indices.
    return to_image(pictures.flatten(0, 2).index_select(0, pixels).view(count, resolution, resolution, 3))


def _shortened(ids: Sequence[int], max_words: int | None, rng: np.random.Generator) -> Sequence[int]:
    if max_words is None or len(ids) <= max_words:
        return ids
    kept = np.sort(rng.choice(len(ids), max_words, replace=False))
    return [ids[i] for i in kept]
