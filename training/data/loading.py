"""From the data section of a config to batches: what a run trains on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from t2i_engine.files import cache_folder
from t2i_engine.tokenizer import Tokenizer
from training.config import DataConfig
from training.data.corpus import Batches, Collator, Corpus, build_vocabulary
from training.data.rendered import Rendered, render
from training.data.source import Problem, open_source, public_name, require_usable, summary
from training.data.synthbirds.hard_negatives import HardNegativeCaptions
from training.data.webdataset import Shard, Stream, WebDataset, read_index

CROP_MARGIN = 76 / 64
"""How much larger than R pictures are loaded if they are cropped at random (AttnGAN, DF-GAN).

Those crop anywhere in a picture; here it is first centre-cropped to a square, so that all are of one size.
"""


@dataclass(frozen=True)
class TrainingData:
    """The training split of a config's data set."""

    config: DataConfig
    content: Rendered | tuple[Shard, ...]
    """Pictures in the cache, or shards to stream."""
    words: tuple[str, ...]
    """The vocabulary of its captions."""
    provenance: dict[str, Any]
    """Its entry in a model's provenance, as plain JSON values."""
    problems: tuple[Problem, ...]
    """What training skips."""

    def batches(self, tokenizer: Tokenizer) -> Batches:
        """Its batches, in a vocabulary."""
        config, content = self.config, self.content
        words, flip, resolution = config.max_words, config.horizontal_flip, config.resolution
        if isinstance(content, Rendered):
            return Corpus(content.pictures, content.captions, tokenizer, words, flip, resolution, content.groups)
        collator = Collator(resolution, words, flip, HardNegativeCaptions(tokenizer))
        return Stream(content, tokenizer, collator, _loaded_resolution(config), config.num_workers)


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
        return _index_shards(config, source)
    listing = source.listing("train")
    require_usable(config.source, "train", len(listing.items), listing.problems)
    on_start(len(listing.items))
    rendered = render(listing, _loaded_resolution(config), cache_folder(), on_progress)
    require_usable(config.source, "train", len(rendered.keys), rendered.broken)
    captions = [caption for texts in rendered.captions for caption in texts]
    problems = (*listing.problems, *rendered.broken)
    counts = {"pictures": len(rendered.keys), "captions": len(captions)}
    provenance = _provenance(config, listing.version, counts, problems)
    return TrainingData(config, rendered, build_vocabulary(captions), provenance, problems)


def read_vocabulary(config: DataConfig) -> tuple[str, ...]:
    """The words of a config's data set, without loading pictures or writing anything.

    For synthbirds, those of the first 2,000 pictures. Raises `DataError`.
    """
    source = open_source(config.source, min(config.synthbirds_count, 2_000))
    listing = source.listing("train")
    require_usable(config.source, "train", len(listing.items), listing.problems)
    return build_vocabulary(caption for item in listing.items for caption in item.captions)


def _index_shards(config: DataConfig, source: WebDataset) -> TrainingData:
    """Reads the shards' headers and captions once, and keeps no picture's position: there may be millions."""
    shards: list[Shard] = []
    problems: list[Problem] = []
    words: set[str] = set()
    captions = 0
    for file in source.shards("train"):
        items, broken = read_index(file)
        problems += broken
        if items:
            texts = [caption for item in items for caption in item.captions]
            shards.append(Shard(file, len(items)))
            captions += len(texts)
            words.update(build_vocabulary(texts)[1:])
    require_usable(config.source, "train", len(shards), problems)
    counts = {"pictures": sum(shard.pictures for shard in shards), "captions": captions}
    provenance = _provenance(config, source.version("train"), counts, problems)
    return TrainingData(config, tuple(shards), build_vocabulary(words), provenance, tuple(problems))


def _provenance(
    config: DataConfig, version: str, counts: dict[str, int], problems: Sequence[Problem]
) -> dict[str, Any]:
    found: dict[str, Any] = {"source": public_name(config.source), "version": version, "split": "train", **counts}
    return found | ({"left out": summary(problems)} if problems else {})


def _loaded_resolution(config: DataConfig) -> int:
    return round(config.resolution * CROP_MARGIN) if config.random_crop else config.resolution
