"""`webdataset:PATTERN`: tar shards of pictures and captions side by side, KEY.jpg and KEY.txt, and batches from them.

Captions are KEY.txt, one per line, or `captions`, `caption` or `text` of KEY.json. A pattern may contain braces, `*` in
the file name, and `{split}`, which stands for train or test: `data/{split}-{0000..0127}.tar`; without it, everything
is training data. A shard is a file, never a command or a URL.

Training streams the shards, for data that fit neither memory nor one disk. Every epoch, the shards are shuffled and
dealt out to readers, the worker processes of all ranks, each of which shuffles what it reads in a buffer. For a given
number of readers, seed and step still determine a batch: to resume within an epoch, a reader skips through its shards
to its position without decoding.
"""

import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from t2i_engine.errors import needs_extra
from t2i_engine.tokenizer import Tokenizer
from training.data.corpus import Draft, caption_hash, draw_views, encode_known
from training.data.files import PICTURE_SUFFIXES, READING, read_picture, stripped
from training.data.source import BrokenPictureError, DataError, Example, Listing, Problem, Split

LARGEST_CAPTIONS = 1 << 20
BUFFER = 1000
"""Encoded pictures that a reader shuffles at a time."""
Content = TypeVar("Content")
_HIDDEN = re.compile(r"__[^/]*__($|/)")  # webdataset's own members


@dataclass(frozen=True)
class PackedPicture:
    """An item inside a shard."""

    shard: Path
    offset: int
    size: int
    captions: tuple[str, ...]
    key: str

    @property
    def unit(self) -> str:
        """Its shard: a stream leaves out whole ones."""
        return self.shard.name

    def load(self, resolution: int) -> Example:
        """Reads the picture with `read_picture`, without the rest of the shard."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return Example(read_picture(BytesIO(file.read(self.size)), resolution), self.captions, self.key)


@dataclass(frozen=True)
class WebDataset:
    """The shards that a pattern names."""

    pattern: str

    def __post_init__(self) -> None:
        """Raises `DataError` if the pattern names no file, or none that exists."""
        if "://" in self.pattern or self.pattern.startswith("pipe:"):
            raise DataError(f"'{self.pattern}' is not a file; expected tar files on this machine, or mounted")
        self.shards("train")

    @property
    def name(self) -> str:
        """As written in a config."""
        return f"webdataset:{self.pattern}"

    def shards(self, split: Split) -> list[Path]:
        """The files of a split, in the pattern's order. Raises `DataError` if one is missing."""
        with needs_extra("a webdataset", "train"):
            from braceexpand import braceexpand
        if split == "test" and "{split}" not in self.pattern:
            return []
        try:
            patterns = list(braceexpand(self.pattern.replace("{split}", split)))
        except ValueError:
            raise DataError(f"unbalanced braces in '{self.pattern}'; write for example {{0000..0127}}") from None
        files: list[Path] = []
        for pattern in map(Path, patterns):
            files += sorted(pattern.parent.glob(pattern.name)) if "*" in pattern.name else [pattern]
        missing = [file for file in files if not file.is_file()] if files else patterns
        if missing:
            raise DataError(
                f"{len(missing):,} shards of '{self.pattern}' not found, first '{missing[0]}'; "
                "expected tar files such as data/{split}-{0000..0127}.tar"
            )
        return [file.absolute() for file in files]

    def listing(self, split: Split) -> Listing:
        """The captioned pictures of all shards, with their positions."""
        items: list[PackedPicture] = []
        problems: list[Problem] = []
        version = self.version(split)
        digest = sha256(f"{READING} {version}".encode())
        for shard in self.shards(split):
            shown, hidden = read_index(shard)
            items += shown
            problems += hidden
            digest.update(f"{shard.stat().st_mtime_ns}\n".encode())
        return Listing(items, f"webdataset-{split}-{digest.hexdigest()[:24]}", version, tuple(problems), "shards")

    def version(self, split: Split) -> str:
        """As in `Listing`, from the names and sizes of the shards."""
        described = "".join(f"{shard.name} {shard.stat().st_size}\n" for shard in self.shards(split))
        return sha256(described.encode()).hexdigest()[:24]


def read_index(shard: Path) -> tuple[list[PackedPicture], list[Problem]]:
    """The pictures of a shard, read from its headers and captions, and its problems; no pictures of a broken shard."""
    with needs_extra("a webdataset", "train"):
        from webdataset.tariterators import group_by_keys
    items: list[PackedPicture] = []
    problems: list[Problem] = []
    try:
        for sample in group_by_keys(_members(shard)):
            key = f"webdataset/{shard.name}/{sample['__key__']}"
            picture, captions = picture_of(sample), captions_of(sample, key)
            if picture is None:
                problems.append(Problem("absent picture", key))
            elif isinstance(captions, Problem):
                problems.append(captions)
            else:
                items.append(PackedPicture(shard, picture.offset_data, picture.size, captions, key))
    except (OSError, ValueError, tarfile.TarError) as error:
        return [], [Problem("broken shard", f"{shard} ({error})")]
    return items, problems


def picture_of(sample: Mapping[str, Content]) -> Content | None:
    """The picture of a sample, under any known suffix; None if there is none."""
    return next((sample[suffix[1:]] for suffix in PICTURE_SUFFIXES if suffix[1:] in sample), None)


def captions_of(sample: Mapping[str, Any], key: str) -> tuple[str, ...] | Problem:
    """The captions of a sample, or what is wrong with them."""
    try:
        if "txt" in sample:
            return stripped(sample["txt"].decode("utf-8-sig").splitlines()) or Problem("empty caption file", key)
        content = json.loads(sample.get("json", b"{}"))
        texts = next((content[name] for name in ("captions", "caption", "text") if content.get(name)), ())
        if isinstance(texts, dict):  # its keys are no captions
            return Problem("no caption", key)
        return stripped([texts] if isinstance(texts, str) else texts) or Problem("no caption", key)
    except UnicodeDecodeError:
        return Problem("caption not in UTF-8", key)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Problem("no caption", key)


def _members(shard: Path) -> Iterator[dict[str, Any]]:
    """The files of a shard as webdataset's reader yields them, but with only the headers of pictures."""
    with tarfile.open(shard, "r:") as archive:
        for member in archive:
            if member.isreg() and not _HIDDEN.match(member.name):
                content: Any = member
                if member.name.lower().endswith((".txt", ".json")):
                    reader = archive.extractfile(member) if member.size <= LARGEST_CAPTIONS else None
                    content = reader.read() if reader else b""
                yield {"fname": member.name, "data": content, "__url__": str(shard)}


class Shard(NamedTuple):
    """A tar file and its number of captioned pictures."""

    file: Path
    pictures: int


@dataclass(frozen=True)
class Stream:
    """Shards that worker processes read and decode ahead of training."""

    shards: Sequence[Shard]
    tokenizer: Tokenizer
    resolution: int
    """R: pictures are cropped to it."""
    horizontal_flip: bool
    loaded_resolution: int
    """Of the decoded pictures (H): R, or more if they are cropped."""
    num_workers: int
    """Readers per rank, unless there are fewer shards."""
    grammar: ClassVar[None] = None
    unique_captions: ClassVar[None] = None

    def drafts(self, seed: int, first: int, size: int, rank: int = 0, world: int = 1) -> Iterator[Draft]:
        """The batches of one rank from step `first` on.

        Raises `DataError` if shards cannot be read, or are too few to be dealt out.
        """
        if len(self.shards) < world:
            raise DataError(
                f"{len(self.shards)} shards cannot be dealt out to {world} processes; pack the data into more"
            )
        readers = min(self.num_workers, len(self.shards) // world)
        dataset = _Reading(self, seed, first, size, rank, world, readers)
        # A generator of its own: opening the loader must not draw from the one that the step's noise comes from.
        own = torch.Generator()
        for draft in DataLoader(dataset, batch_size=None, num_workers=readers, generator=own):
            if isinstance(draft, DataError):
                raise draft
            yield draft

    def pictures_on(self, device: torch.device) -> None:
        """None: they are never in memory together."""

    def require(self, size: int) -> None:
        """Does nothing: a stream starts over, within a batch if need be."""


class _Encoded(NamedTuple):
    """A picture in a shard, undecoded."""

    picture: bytes
    captions: tuple[str, ...]
    name: str


@dataclass(eq=False)
class _Reading(IterableDataset["Draft | DataError"]):
    """The batches from `first` on, or the error instead of one. PyTorch asks `readers` worker processes in turn."""

    stream: Stream
    seed: int
    first: int
    size: int
    rank: int
    world: int
    readers: int

    def __iter__(self) -> Iterator[Draft | DataError]:
        worker = get_worker_info()
        first = self.first + (worker.id if worker else 0)
        # Whichever worker PyTorch asks first, step s is always made by reader s mod readers.
        samples = self._samples(first % self.readers, first // self.readers * self.size)
        for step in count(first, self.readers):
            try:
                yield self._draft(step, list(islice(samples, self.size)))
            except DataError as error:
                yield error  # as a value: PyTorch would put the worker's traceback into its message
            except (OSError, ValueError, tarfile.TarError) as error:
                yield DataError(f"a shard can no longer be read ({error}); check its disk")

    def _samples(self, reader: int, skipped: int) -> Iterator[_Encoded]:
        """The encoded samples of one reader, epoch after epoch, without the first `skipped`."""
        import webdataset

        for epoch in count():
            shards = list(self.stream.shards)
            Random(f"{self.seed}/{epoch}").shuffle(shards)
            lane = self.rank * self.readers + reader
            dealt = shards[lane :: self.world * self.readers]
            held = sum(shard.pictures for shard in dealt)
            if skipped < held:
                yield from islice(
                    webdataset.DataPipeline(
                        webdataset.SimpleShardList([str(shard.file) for shard in dealt]),
                        webdataset.tarfile_to_samples(),
                        webdataset.map(_encoded),
                        webdataset.shuffle(BUFFER, rng=Random(f"{self.seed}/{epoch}/{lane}")),
                    ),
                    skipped,
                    None,
                )
            skipped = max(0, skipped - held)

    def _draft(self, step: int, samples: Sequence[_Encoded]) -> Draft:
        """Decodes a batch; unusable pictures are replaced by others of the batch."""
        decoded = [self._decode(sample) for sample in samples]
        good = [found for found in decoded if found]
        if not good:
            raise DataError(f"no picture of step {step} is usable, first {samples[0].name}; run t2i-engine data check")
        chosen = [found or good[number % len(good)] for number, found in enumerate(decoded)]
        pictures, captions, groups = zip(*chosen, strict=True)
        rng = np.random.default_rng([self.seed, 1, step, self.rank])
        ids = [texts[int(rng.integers(len(texts)))] for texts in captions]
        stream = self.stream
        margin = stream.loaded_resolution - stream.resolution
        corners, flips = draw_views(rng, len(ids), margin, stream.horizontal_flip)
        hashes = np.array([caption_hash(tokens) for tokens in ids])
        unknown = np.empty((len(ids), 0), np.int64)
        arrays = (np.stack(pictures), corners, flips, hashes, np.array(groups), unknown, unknown)
        return Draft(ids, *map(torch.from_numpy, arrays))

    def _decode(self, sample: _Encoded) -> tuple[NDArray[np.uint8], list[tuple[int, ...]], int] | None:
        """The picture, its captions' ids, and a number for its group; None if it is broken or has no known word."""
        captions = encode_known(sample.captions, self.stream.tokenizer)
        try:
            picture = read_picture(BytesIO(sample.picture), self.stream.loaded_resolution)
        except BrokenPictureError:
            return None
        return (picture, captions, zlib.crc32(sample.name.encode())) if captions else None


def _encoded(sample: dict[str, Any]) -> _Encoded | None:
    """Converts a sample of webdataset's reader; None, which the reader drops, for one that the index does not count."""
    picture, captions = picture_of(sample), captions_of(sample, "")
    if picture is None or isinstance(captions, Problem):
        return None
    return _Encoded(picture, captions, f"{sample['__url__']}/{sample['__key__']}")
