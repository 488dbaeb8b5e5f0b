"""Batches from tar shards that are read from front to back, for data that fits neither memory nor one disk.

Every epoch the shards are put into another order and dealt out to readers, the worker processes of all ranks; a reader
shuffles what it reads through a buffer. Seed and step still say what a batch holds, for a given number of readers: to
resume within an epoch, a reader goes through its shards again up to its place, without decoding.
"""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from t2i_engine.tokenizer import Tokenizer
from training.data.corpus import Batch, Views, known
from training.data.files import read_picture
from training.data.source import BrokenPictureError, DataError, Problem
from training.data.webdataset import captions_of, picture_of

BUFFER = 1000
"""Pictures, still encoded, that a reader holds to draw the next one from."""


class Shard(NamedTuple):
    """A tar file, and how many of its pictures have captions."""

    file: Path
    pictures: int


class Stream:
    """Batches that worker processes read and decode ahead of training."""

    def __init__(
        self, shards: Sequence[Shard], tokenizer: Tokenizer, views: Views, kept_side: int, workers: int
    ) -> None:
        """Takes shards that hold pictures, which are read at `kept_side`, and at most `workers` readers a rank."""
        self.shards = tuple(shards)
        self.tokenizer = tokenizer
        self.views = views
        self.kept_side = kept_side
        self.workers = workers
        self._next: tuple[int, ...] | None = None
        self._batches: Iterator[Batch | DataError] = iter(())

    def batch(self, seed: int, step: int, size: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch of one step and rank; cheap where it follows the one before.

        Raises `DataError` where shards cannot be read, or not be dealt out.
        """
        if self._next != (seed, step, size, rank, world):
            if len(self.shards) < world:
                raise DataError(
                    f"{len(self.shards)} shards cannot be dealt out to {world} processes; pack the data into more"
                )
            readers = min(self.workers, len(self.shards) // world)
            dataset = _Reading(self, seed, step, size, rank, world, readers)
            # A generator of its own: opening must not draw from the one that the step's noise comes from.
            own = torch.Generator()
            self._batches = iter(DataLoader(dataset, batch_size=None, num_workers=readers, generator=own))
        self._next = (seed, step + 1, size, rank, world)
        batch = next(self._batches)
        if isinstance(batch, DataError):
            raise batch
        return batch

    def require(self, size: int) -> None:
        """Does nothing: a stream begins again, within a batch if need be."""


class _Reading(IterableDataset["Batch | DataError"]):
    """The batches from `step` on, or why there is none. PyTorch asks `readers` worker processes in turn."""

    def __init__(self, stream: Stream, seed: int, step: int, size: int, rank: int, world: int, readers: int) -> None:
        self.shards, self.tokenizer = stream.shards, stream.tokenizer
        self.views, self.kept_side = stream.views, stream.kept_side
        self.seed, self.first, self.size = seed, step, size
        self.rank, self.world, self.readers = rank, world, readers

    def __iter__(self) -> Iterator[Batch | DataError]:
        worker = get_worker_info()
        first = self.first + (worker.id if worker else 0)
        # Whichever worker PyTorch asks first: step s is always made by reader s mod readers.
        samples = self._samples(first % self.readers, first // self.readers * self.size)
        for step in count(first, self.readers):
            try:
                yield self._batch(step, list(islice(samples, self.size)))
            except DataError as error:
                yield error  # as a value: PyTorch would put the worker's traceback into its message
            except (OSError, ValueError, tarfile.TarError) as error:
                yield DataError(f"a shard could not be read any more ({error}); is its disk still there?")

    def _samples(self, reader: int, skipped: int) -> Iterator[dict[str, Any]]:
        """The encoded samples of one reader, epoch after epoch, behind the first `skipped`."""
        import webdataset

        for epoch in count():
            shards = list(self.shards)
            Random(f"{self.seed}/{epoch}").shuffle(shards)
            lane = self.rank * self.readers + reader
            dealt = shards[lane :: self.world * self.readers]
            held = sum(shard.pictures for shard in dealt)
            if skipped < held:
                yield from islice(
                    webdataset.DataPipeline(
                        webdataset.SimpleShardList([str(shard.file) for shard in dealt]),
                        webdataset.tarfile_to_samples(),
                        webdataset.select(is_usable),
                        webdataset.shuffle(BUFFER, rng=Random(f"{self.seed}/{epoch}/{lane}")),
                    ),
                    skipped,
                    None,
                )
            skipped = max(0, skipped - held)

    def _batch(self, step: int, samples: Sequence[dict[str, Any]]) -> Batch:
        """Decodes a batch; in the place of what cannot be used, another of the batch's pictures is shown."""
        made = [self._decode(sample) for sample in samples]
        good = [decoded for decoded in made if decoded]
        if not good:
            raise DataError(
                f"none of the pictures of step {step} can be used, the first is {samples[0]['__key__']} of "
                f"{samples[0]['__url__']}; see t2i-engine data check"
            )
        chosen = [decoded or good[number % len(good)] for number, decoded in enumerate(made)]
        pictures, captions, groups = zip(*chosen, strict=True)
        rng = np.random.default_rng([self.seed, 1, step, self.rank])
        return self.views.batch(np.stack(pictures), captions, np.array(groups), rng)

    def _decode(self, sample: dict[str, Any]) -> tuple[NDArray[np.uint8], list[tuple[int, ...]], int] | None:
        """The picture, its captions' ids, and a number for its group; None where it is broken or has no known word."""
        texts, encoded = captions_of(sample, sample["__key__"]), picture_of(sample)
        assert not isinstance(texts, Problem)
        assert encoded is not None
        captions = known(texts, self.tokenizer)
        try:
            picture = read_picture(BytesIO(encoded), self.kept_side)
        except BrokenPictureError:
            return None
        name = f"{sample['__url__']}/{sample['__key__']}"
        return (picture, captions, zlib.crc32(name.encode())) if captions else None


def is_usable(sample: dict[str, Any]) -> bool:
    """Whether a sample of webdataset's reader has what the index counts."""
    return picture_of(sample) is not None and not isinstance(captions_of(sample, ""), Problem)
