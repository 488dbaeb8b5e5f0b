"""The evaluated pictures: drawn for captions of a split, each with the real picture that its caption describes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from t2i_engine.errors import CaptionError
from t2i_engine.pictures import Pixels
from t2i_engine.sampler import Sampler
from training.data.corpus import draw_views
from training.data.rendered import Rendered, render
from training.data.source import Listing, Source, Split, require_usable
from training.evaluation import GeneratedBatch
from training.progress import Progress

BATCH = 32
MOST_VIEWS = 10

Batchable = TypeVar("Batchable", NDArray[np.uint8], NDArray[np.int64], range)


@dataclass(frozen=True)
class CaptionDraws:
    """Draws `count` captions of a split: caption k, in a fixed order, with seed k.

    The order visits all pictures, shuffled, before it takes the next caption of each, so that any number of captions
    is a fair selection. Captions without a word that the model knows are skipped.
    """

    sampler: Sampler
    data: Rendered
    count: int
    rank: int = 0
    """Of `world` processes that share the captions out, this one draws every `world`-th."""
    world: int = 1
    truncation: float = 1.0

    def batches(self) -> Iterator[GeneratedBatch]:
        """Draws this process's share in batches, lazily."""
        waiting = islice(self._draws(), self.rank, None, self.world)
        while draws := list(islice(waiting, BATCH)):
            sentences = self.sampler.encode_tokens([draw.ids for draw in draws])
            yield GeneratedBatch(
                self.sampler.draw(sentences, [draw.seed for draw in draws], self.truncation),
                np.stack([self.data.pictures[draw.picture] for draw in draws]),
                [draw.caption for draw in draws],
                [int(self.data.groups[draw.picture]) for draw in draws],
                [self.data.captions[draw.picture] for draw in draws],
            )

    def drawable(self) -> int:
        """How many of the captions contain a word that the model knows, and are drawn, over all processes."""
        return sum(1 for _ in self._draws())

    def _draws(self) -> Iterator["_Draw"]:
        pictures = len(self.data.pictures)
        order = np.random.default_rng(0).permutation(pictures)
        for number in range(self.count):
            turn, place = divmod(number, pictures)
            picture = int(order[place])
            captions = self.data.captions[picture]
            caption = captions[(place + turn) % len(captions)]
            try:
                yield _Draw(caption, self.sampler.tokenizer.encode(caption).ids, picture, number)
            except CaptionError:
                continue


@dataclass(frozen=True)
class RealPictures:
    """Real pictures as distances compare with them: as they are or, if a model was trained on random crops, cropped.

    A generator trained on crops draws birds as large as crops show them. As with DF-GAN, there are about as many crops
    as generated pictures.
    """

    pictures: Pixels
    """(N, H, H, 3)."""
    resolution: int
    """R, H if they are not cropped."""
    views: int = 1
    """Random crops of each picture."""
    mirrored: bool = False
    """Mirror each crop with probability 1/2."""

    @classmethod
    def as_compared(cls, pictures: Pixels, resolution: int, count: int, mirrored: bool) -> "RealPictures":
        """For `count` generated pictures; `mirrored` if they are cropped."""
        if pictures.shape[1] == resolution:
            return cls(pictures, resolution)
        return cls(pictures, resolution, max(1, min(MOST_VIEWS, round(count / len(pictures)))), mirrored)

    @property
    def description(self) -> list[int]:
        """What batches depend on, apart from the pictures."""
        cropped = self.pictures.shape[1] > self.resolution
        return [self.resolution, self.views, self.mirrored] if cropped else []

    def batches(self, count: int | None = None) -> Iterator[Pixels]:
        """Batches of `count` different pictures, or of all, once for each view: random, but always the same."""
        rng, side = np.random.default_rng(0), self.resolution
        for _ in range(self.views):
            for batch in shuffled(self.pictures, count):
                if batch.shape[1] == side:
                    yield batch
                    continue
                corners, flips = draw_views(rng, len(batch), batch.shape[1] - side, self.mirrored)
                crops = (one[y : y + side, x : x + side] for one, (y, x) in zip(batch, corners, strict=True))
                yield np.stack([crop[:, ::-1] if flip else crop for crop, flip in zip(crops, flips, strict=True)])


class _Draw(NamedTuple):
    caption: str
    ids: tuple[int, ...]
    picture: int
    seed: int


def load_split(
    source: Source, split: Split, resolution: int, cache: Path, progress: Progress
) -> tuple[Listing, Rendered]:
    """A split and its real pictures. Raises `DataError` if none is usable."""
    listing = source.listing(split)
    return listing, load_pictures(listing, source.name, split, resolution, cache, progress)


def load_pictures(
    listing: Listing, source: str, split: str, resolution: int, cache: Path, progress: Progress
) -> Rendered:
    """The pictures of a listing, which messages call `split` of `source`. Raises `DataError` if none is usable."""
    require_usable(source, split, len(listing.items), listing.problems)
    progress.start(f"{split} pictures", len(listing.items))
    rendered = render(listing, resolution, cache, progress.report)
    require_usable(source, split, len(rendered.keys), rendered.broken)
    return rendered


def shuffled(pictures: Pixels, count: int | None = None) -> Iterator[Pixels]:
    """Batches of `count` pictures, or of all, in an order that is random but always the same: a fair selection."""
    order = np.random.default_rng(0).permutation(len(pictures))[:count]
    return (pictures[np.sort(numbers)] for numbers in in_batches(order))


def in_batches(items: Batchable) -> Iterator[Batchable]:
    """Cuts a range or an array, such as pictures uint8 (N, R, R, 3), into batches."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))
