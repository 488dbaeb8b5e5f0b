"""From the data section of a config to batches: what a run trains on."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from t2i_engine.files import cache_folder
from t2i_engine.tokenizer import Tokenizer
from training.config import DataConfig
from training.data.altered import Alterations
from training.data.corpus import Batches, Corpus, Views, build_vocabulary
from training.data.rendered import Rendered, render
from training.data.source import Listing, Problem, require_usable, summary
from training.data.sources import open_source, public_name
from training.data.streaming import Shard, Stream
from training.data.webdataset import WebDataset, read_index

CROP_MARGIN = 76 / 64
"""How much larger pictures are kept that are cut at random (AttnGAN, DF-GAN).

Those cut from anywhere in a picture; here its longer side is first cut to the shorter, so that all are of one size.
"""


class TrainingData(Protocol):
    """The split to train with."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What it holds and training leaves out."""

    def words(self) -> tuple[str, ...]:
        """The vocabulary of its captions."""

    def batches(self, tokenizer: Tokenizer) -> Batches:
        """Its batches, in a vocabulary."""

    def describe(self) -> dict[str, Any]:
        """What a model that was trained with it says of it, as plain JSON values."""


def load_training_data(
    config: DataConfig,
    on_start: Callable[[int], None] = lambda count: None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> TrainingData:
    """Opens a config's data set; pictures that are not kept yet are made first, except those that are streamed.

    `on_start` hears how many pictures there are, `on_progress` how many are made. Raises `DataError`.
    """
    source = open_source(config.source, config.pictures)
    if isinstance(source, WebDataset):
        return _Streamed(config, source)
    listing = source.listing("train")
    require_usable(config.source, "train", len(listing.items), listing.problems)
    on_start(len(listing.items))
    rendered = render(listing, _kept_side(config), cache_folder(), on_progress)
    require_usable(config.source, "train", len(rendered.keys), rendered.broken)
    return _Kept(config, listing, rendered)


def read_vocabulary(config: DataConfig) -> tuple[str, ...]:
    """The words of a config's data set, for which no picture is read or drawn and nothing is written.

    Those of synthbirds are of the first 2,000 pictures. Raises `DataError`.
    """
    source = open_source(config.source, min(config.pictures, 2_000))
    listing = source.listing("train")
    require_usable(config.source, "train", len(listing.items), listing.problems)
    return build_vocabulary(caption for item in listing.items for caption in item.captions)


class _Kept:
    """Pictures that are made once and kept."""

    def __init__(self, config: DataConfig, listing: Listing, rendered: Rendered) -> None:
        self.config = config
        self.listing = listing
        self.rendered = rendered
        self.problems = (*listing.problems, *rendered.broken)

    def words(self) -> tuple[str, ...]:
        return build_vocabulary(caption for captions in self.rendered.captions for caption in captions)

    def batches(self, tokenizer: Tokenizer) -> Batches:
        found, config = self.rendered, self.config
        return Corpus(
            found.pictures,
            found.captions,
            tokenizer,
            config.max_words,
            config.horizontal_flip,
            config.resolution,
            found.groups,
        )

    def describe(self) -> dict[str, Any]:
        captions = sum(map(len, self.rendered.captions))
        counts = {"pictures": len(self.rendered.keys), "captions": captions}
        return _described(self.config, self.listing.version, counts, self.problems, self.listing.note)


class _Streamed:
    """Pictures that are read from shards again and again; this goes through the shards' headers and captions once."""

    def __init__(self, config: DataConfig, source: WebDataset) -> None:
        self.config = config
        self.shards: list[Shard] = []
        self.problems: tuple[Problem, ...] = ()
        self._captions = 0
        self._words: set[str] = set()
        self._version = source.version("train")
        for file in source.shards("train"):
            items, problems = read_index(file)
            self.problems += tuple(problems)
            captions = [caption for item in items for caption in item.captions]
            self._captions += len(captions)
            self._words.update(build_vocabulary(captions)[1:])
            if items:
                self.shards.append(Shard(file, len(items)))
        require_usable(config.source, "train", len(self.shards), self.problems)

    def words(self) -> tuple[str, ...]:
        return build_vocabulary(self._words)

    def batches(self, tokenizer: Tokenizer) -> Batches:
        views = Views(
            self.config.resolution, self.config.max_words, self.config.horizontal_flip, Alterations(tokenizer)
        )
        return Stream(self.shards, tokenizer, views, _kept_side(self.config), self.config.workers)

    def describe(self) -> dict[str, Any]:
        counts = {"pictures": sum(shard.pictures for shard in self.shards), "captions": self._captions}
        return _described(self.config, self._version, counts, self.problems)


def _described(
    config: DataConfig, version: str, counts: dict[str, int], problems: Sequence[Problem], note: str = ""
) -> dict[str, Any]:
    told: dict[str, Any] = {"source": public_name(config.source), "version": version, "split": "train", **counts}
    if problems:
        told["left out"] = summary(problems)
    return told | ({"note": note} if note else {})


def _kept_side(config: DataConfig) -> int:
    return round(config.resolution * CROP_MARGIN) if config.crop else config.resolution
