"""From the data section of a config to batches: what a run trains on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from t2i_engine.files import cache_folder
from t2i_engine.tokenizer import Tokenizer
from training.config import DataConfig
from training.data.corpus import Corpus, build_vocabulary
from training.data.packed import Packed
from training.data.rendered import Rendered, render
from training.data.source import (
    DataError,
    Problem,
    Source,
    Understood,
    open_source,
    public_name,
    require_usable,
    summary,
)
from training.data.validation import described, divide, held_out
from training.data.webdataset import Shard, Stream, WebDataset, read_index

CROP_MARGIN = 76 / 64
"""How much larger than R pictures are loaded if they are cropped at random (AttnGAN, DF-GAN).

Those crop anywhere in a picture; here, pictures are first centre-cropped to a square, so that all have the same size.
"""


@dataclass(frozen=True)
class TrainingData:
    """The training split of a config's data set, without what is held out for validation."""

    config: DataConfig
    content: Rendered | tuple[Shard, ...]
    """Pictures in the cache, or shards to stream."""
    words: tuple[str, ...]
    """The vocabulary of its captions."""
    provenance: dict[str, Any]
    """Its entry in a model's provenance, as plain JSON values."""
    problems: tuple[Problem, ...]
    """What training skips."""

    source: Source
    """Where it comes from."""

    def batches(self, tokenizer: Tokenizer) -> Corpus | Stream:
        """Its batches, in a vocabulary."""
        config, content = self.config, self.content
        if not isinstance(content, Rendered):
            loaded = loaded_resolution(config.resolution, config.random_crop)
            return Stream(content, tokenizer, config.resolution, config.horizontal_flip, loaded, config.num_workers)
        return Corpus(
            content.pictures,
            content.captions,
            tokenizer,
            resolution=config.resolution,
            horizontal_flip=config.horizontal_flip,
            groups=content.groups,
            on_device=config.on_device,
            grammar=self.source.grammar(tokenizer) if isinstance(self.source, Understood) else None,
        )


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
    listing, _, validation = divide(listing, config.validation_share, config.source)
    on_start(len(listing.items))
    resolution = loaded_resolution(config.resolution, config.random_crop)
    rendered = render(listing, resolution, cache_folder(), on_progress)
    require_usable(config.source, "train", len(rendered.keys), rendered.broken)
    captions = [caption for texts in rendered.captions for caption in texts]
    problems = (*listing.problems, *rendered.broken)
    counts = {"pictures": len(rendered.keys), "captions": len(captions)}
    provenance = _provenance(source, listing.version, counts, problems, validation)
    return TrainingData(config, rendered, build_vocabulary(captions), provenance, problems, source)


def read_vocabulary(config: DataConfig) -> tuple[str, ...]:
    """The words of a config's data set, without loading pictures or writing anything.

    For synthbirds, those of the first 2,000 pictures. Raises `DataError`.
    """
    source = open_source(config.source, min(config.synthbirds_count, 2_000))
    listing = source.listing("train")
    require_usable(config.source, "train", len(listing.items), listing.problems)
    training = divide(listing, config.validation_share, config.source).training
    return build_vocabulary(caption for item in training.items for caption in item.captions)


def _index_shards(config: DataConfig, source: WebDataset) -> TrainingData:
    """Reads the shards' headers and captions once, and keeps no picture's position: there may be millions."""
    if config.on_device is True:
        raise DataError(f"{config.source} is streamed, and never in memory as a whole: --set data.on_device=auto")
    found: dict[Shard, tuple[int, set[str]]] = {}
    problems: list[Problem] = []
    for file in source.shards("train"):
        items, broken = read_index(file)
        problems += broken
        if items:
            texts = [caption for item in items for caption in item.captions]
            found[Shard(file, len(items))] = len(texts), set(build_vocabulary(texts)[1:])
    require_usable(config.source, "train", len(found), problems)
    chosen = held_out((shard.file.name for shard in found), config.validation_share, config.source, "shards")
    shards = tuple(shard for shard in found if shard.file.name not in chosen)
    held = sum(shard.pictures for shard in found.keys() - set(shards))
    validation = described(len(chosen), len(found), "shards", held) if chosen else ""
    counts = {
        "pictures": sum(shard.pictures for shard in shards),
        "captions": sum(found[shard][0] for shard in shards),
    }
    words = build_vocabulary(word for shard in shards for word in found[shard][1])
    provenance = _provenance(source, source.version("train"), counts, problems, validation)
    return TrainingData(config, shards, words, provenance, tuple(problems), source)


def _provenance(
    source: Source, version: str, counts: dict[str, int], problems: Sequence[Problem], validation: str
) -> dict[str, Any]:
    found: dict[str, Any] = {"source": public_name(source.name), "version": version, "split": "train", **counts}
    origin = source.origin if isinstance(source, Packed) else ""
    noted = {"origin": origin, "left out": summary(problems), "validation": validation}
    return found | {name: text for name, text in noted.items() if text}


def loaded_resolution(resolution: int, random_crop: bool) -> int:
    """The resolution at which pictures are loaded to be shown at `resolution`."""
    return round(resolution * CROP_MARGIN) if random_crop else resolution
