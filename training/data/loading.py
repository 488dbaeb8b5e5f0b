"""From the data section of a config to batches: what a run trains on."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from t2i_engine.files import cache_folder
from t2i_engine.tokenizer import Tokenizer
from training.config import DataConfig
from training.data.corpus import Batches, Collator, Corpus, build_vocabulary
from training.data.hard_negatives import HardNegativeCaptions
from training.data.rendered import Rendered, render
from training.data.source import Listing, Problem, require_usable, summary
from training.data.sources import open_source, public_name
from training.data.webdataset import Shard, Stream, WebDataset, read_index

CROP_MARGIN = 76 / 64
"""How much larger than R pictures are loaded if they are cropped at random (AttnGAN, DF-GAN).

Those crop anywhere in a picture; here it is first centre-cropped to a square, so that all are of one size.
"""


class TrainingData(Protocol):
    """The training split."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What training skips."""

    def words(self) -> tuple[str, ...]:
        """The vocabulary of its captions."""

    def batches(self, tokenizer: Tokenizer) -> Batches:
        """Its batches, in a vocabulary."""

    def describe(self) -> dict[str, Any]:
        """Its entry in a model's provenance, as plain JSON values."""


def load_training_data(
    config: DataConfig,
    on_start: Callable[[int], None] = lambda count: None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> TrainingData:
    """Opens a config's data set, and renders its pictures into the cache if they are neither there nor streamed.

    `on_start` receives the number of pictures, `on_progress` the number rendered so far. Raises `DataError`.
    """
    source = open_source(config.source, config.synthbirds_count)
    if isinstance(source, WebDataset):
        return _Streamed(config, source)
    listing = source.listing("train")
    require_usable(config.source, "train", len(listing.items), listing.problems)
    on_start(len(listing.items))
    rendered = render(listing, _loaded_resolution(config), cache_folder(), on_progress)
    require_usable(config.source, "train", len(rendered.keys), rendered.broken)
    return _Cached(config, listing, rendered)


def read_vocabulary(config: DataConfig) -> tuple[str, ...]:
    """The words of a config's data set, without loading pictures or writing anything.

    For synthbirds, those of the first 2,000 pictures. Raises `DataError`.
    """
    source = open_source(config.source, min(config.synthbirds_count, 2_000))
    listing = source.listing("train")
    require_usable(config.source, "train", len(listing.items), listing.problems)
    return build_vocabulary(caption for item in listing.items for caption in item.captions)


class _Cached:
    """Pictures that are rendered once and cached."""

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
            found.pictures, found.captions, tokenizer, config.max_words, config.horizontal_flip, config.resolution,
            found.groups,
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        captions = sum(map(len, self.rendered.captions))
        counts = {"pictures": len(self.rendered.keys), "captions": captions}
        return _described(self.config, self.listing.version, counts, self.problems, self.listing.note)


class _Streamed:
    """Pictures that are read from shards again and again, after one pass over the shards' headers and captions."""

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
        config, negatives = self.config, HardNegativeCaptions(tokenizer)
        collator = Collator(config.resolution, config.max_words, config.horizontal_flip, negatives)
        return Stream(self.shards, tokenizer, collator, _loaded_resolution(config), config.num_workers)

    def describe(self) -> dict[str, Any]:
        counts = {"pictures": sum(shard.pictures for shard in self.shards), "captions": self._captions}
        return _described(self.config, self._version, counts, self.problems)


def _described(
    config: DataConfig, version: str, counts: dict[str, int], problems: Sequence[Problem], note: str = ""
) -> dict[str, Any]:
    described: dict[str, Any] = {"source": public_name(config.source), "version": version, "split": "train", **counts}
    if problems:
        described["left out"] = summary(problems)
    return described | ({"note": note} if note else {})


def _loaded_resolution(config: DataConfig) -> int:
    return round(config.resolution * CROP_MARGIN) if config.random_crop else config.resolution
