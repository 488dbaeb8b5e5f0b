"""Figures that show what models draw next to real pictures, for test captions.

    python -m training.figures comparison --data cub:data/birds --model DF-GAN=runs/df-gan.pt --model cub --out all.png
    python -m training.figures nearest --data cub:data/birds --model cub --out nearest.png

`comparison` shows the real picture of each caption and those of several models; `nearest` the training pictures that
drawn ones resemble most, to check that none is memorised. Captions, their order and seeds are those of `t2i-engine
evaluate`, and the first are shown: none is selected.
"""

import argparse
import hashlib
import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from t2i_engine.errors import OptionError, UserError
from t2i_engine.files import cache_folder, write_atomically
from t2i_engine.pictures import Pixels
from t2i_engine.sampler import Sampler
from training.data.rendered import Rendered
from training.data.source import Source, Split, open_source
from training.distributed import device
from training.evaluation import cached
from training.evaluation.draws import CaptionDraws, in_batches, load_split
from training.evaluation.evaluate import open_model
from training.evaluation.features import FeatureNetwork
from training.evaluation.inception import Inception
from training.progress import Progress

COLUMNS = 8
NEAREST = 3
LARGEST = 128
"""The largest side at which pictures are shown: the real ones belong to their photographers."""
ROWS_AT_ONCE = 256
DPI = 120


class Model(NamedTuple):
    """A model, and what a figure calls it."""

    label: str
    sampler: Sampler


class Row(NamedTuple):
    """A row of a figure: a label, pictures uint8 (N, R, R, 3), and what is written below each, if anything."""

    label: str
    pictures: Pixels
    notes: Sequence[str] = ()


class Neighbours(NamedTuple):
    """The nearest pictures of each of N others: distances float64 (N, K), ascending, and indices int64 (N, K)."""

    distances: Tensor
    indices: Tensor

    def __str__(self) -> str:
        first = self.distances[:, 0]
        return f"{first.median():.1f} (median of {len(first):,}; smallest {first.min():.1f})"


def comparison(models: Sequence[Model], source: Source, cache: Path, progress: Progress) -> Figure:
    """Shows the real picture of each of the first captions, then each model's, all with the same seed.

    Raises `UserError` if the data cannot be read, or a model does not know the captions.
    """
    largest = max(model.sampler.sizes.resolution for model in models)
    _, real = load_split(source, "test", largest, cache, progress)
    drawn = [next(CaptionDraws(model.sampler, real, COLUMNS).batches(), None) for model in models]
    for model, batch in zip(models, drawn, strict=True):
        if batch is None or len(batch.captions) < COLUMNS:
            raise OptionError(
                f"'{model.label}' knows no word of one of the first {COLUMNS} captions of {source.name}; "
                "show models trained on similar data"
            )
    batches = [batch for batch in drawn if batch]
    rows = [Row(model.label, batch.pixels) for model, batch in zip(models, batches, strict=True)]
    return picture_table(batches[0].captions, [Row("real", batches[0].real), *rows])


def nearest(
    model: Model, source: Source, count: int, network: FeatureNetwork, cache: Path, progress: Progress
) -> tuple[Figure, str]:
    """Shows the training pictures nearest to each of the first drawn ones; also tells how near `count` of them come.

    Distances are Euclidean, in a network's features, of pictures at the model's resolution. Those of real pictures are
    given for comparison: of the test split, and of the training split from each other. Raises `UserError` if the data
    cannot be read, or the model knows none of their captions.
    """
    resolution = model.sampler.sizes.resolution
    training, known = _with_features(source, "train", resolution, network, cache, progress)
    test, unseen = _with_features(source, "test", resolution, network, cache, progress)
    progress.start("drawing", count)
    captions: list[str] = []
    pictures: list[Pixels] = []
    features: list[Tensor] = []
    for batch in CaptionDraws(model.sampler, test, count).batches():
        captions += batch.captions
        pictures.append(batch.pixels)
        features.append(network(batch.pixels))
        progress.report(len(captions))
    if not captions:
        raise OptionError(f"'{model.label}' knows no caption of {source.name}; give a model trained on similar data")
    drawn = find_nearest(torch.cat(features), known)
    others = Neighbours(*(found[:, 1:] for found in find_nearest(known, known)))  # without itself
    rows = [Row(model.label, np.concatenate(pictures)[:COLUMNS])]
    for place, label in enumerate(("nearest training picture", "second", "third")[: len(known)]):
        indices, distances = (found[:COLUMNS, place].tolist() for found in (drawn.indices, drawn.distances))
        rows.append(Row(label, training.pictures[indices], [f"{distance:.1f}" for distance in distances]))
    summary = (
        f"Distance to the nearest of {len(known):,} training pictures: {model.label} {drawn}, "
        f"test pictures {find_nearest(unseen, known)}, training pictures from each other {others}"
    )
    figure = picture_table(captions[:COLUMNS], rows)
    figure.suptitle(textwrap.fill(summary, 160), fontsize=7)
    return figure, summary


def _with_features(
    source: Source, split: Split, resolution: int, network: FeatureNetwork, cache: Path, progress: Progress
) -> tuple[Rendered, Tensor]:
    listing, real = load_split(source, split, resolution, cache, progress)
    progress.start(f"features of {split} pictures", len(real.pictures))
    return real, picture_features(network, real.pictures, listing.fingerprint, cache, progress.report)


def picture_features(
    network: FeatureNetwork, pictures: Pixels, fingerprint: str, cache: Path, on_progress: Callable[[int], None]
) -> Tensor:
    """Features float32 (N, width) of real pictures, uint8 (N, R, R, 3), whose content `fingerprint` identifies; cached.

    The cache key is the fingerprint, number and resolution of the pictures, and the network with its runtime.
    """
    key = [fingerprint, pictures.shape, network.name]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]

    def compute() -> dict[str, Tensor]:
        found: list[Tensor] = []
        for batch in in_batches(pictures):
            found.append(network(batch))
            on_progress(sum(map(len, found)))
        return {"features": torch.cat(found)}

    features: Tensor = cached(cache / f"features-{digest}.pt", compute)["features"]
    return features


def find_nearest(features: Tensor, others: Tensor) -> Neighbours:
    """The `NEAREST` of `others` (M, width), or all if they are fewer, for each row of `features` (N, width)."""
    candidates = others.double()  # in float32, equal pictures would be a little apart
    found = [
        torch.cdist(part.double(), candidates).topk(min(NEAREST, len(others)), largest=False)
        for part in features.split(ROWS_AT_ONCE)
    ]
    return Neighbours(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def picture_table(captions: Sequence[str], rows: Sequence[Row]) -> Figure:
    """Lays out pictures as in papers: one column per caption, which stands above it, and labels left of the rows."""
    figure = Figure(figsize=(1.3 * len(captions), 1.35 * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots(len(rows), len(captions), squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for line, row in zip(axes, rows, strict=True):
        line[0].set_ylabel(textwrap.fill(row.label, 14), fontsize=8)
        for axis, picture in zip(line, row.pictures, strict=True):
            axis.imshow(_shown(picture))
        for axis, note in zip(line, row.notes, strict=False):
            axis.set_xlabel(note, fontsize=7)
    for axis, caption in zip(axes[0], captions, strict=True):
        axis.set_title(textwrap.fill(textwrap.shorten(caption, 90, placeholder=" …"), 20), fontsize=6)
    return figure


def _shown(picture: Pixels) -> Pixels:
    if len(picture) <= LARGEST:
        return picture
    return np.asarray(Image.fromarray(picture).resize((LARGEST, LARGEST), Image.Resampling.BOX))


def _model(text: str) -> Model:
    """Opens `MODEL` or `LABEL=MODEL`. Raises `UserError`."""
    label, separator, path = text.partition("=")
    opened = open_model(path if separator else text)
    return Model(label if separator else opened.name, opened.sampler)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes a figure, and prints its path; for `nearest`, prints the distances first."""
    parser = argparse.ArgumentParser(prog="python -m training.figures", description="Show what models draw.")
    commands = parser.add_subparsers(dest="command", required=True)
    compare = commands.add_parser("comparison", help="real pictures, and those of several models")
    compare.add_argument("--model", action="append", required=True, metavar="[LABEL=]MODEL", help="given once per row")
    near = commands.add_parser("nearest", help="the training pictures nearest to those of a model")
    near.add_argument("--model", required=True, metavar="[LABEL=]MODEL", help="a checkpoint or a bundle")
    near.add_argument("--count", type=int, default=500, metavar="N", help="pictures to measure (default: 500)")
    for command in (compare, near):
        command.add_argument("--data", required=True, metavar="SOURCE", help="cub:PATH, coco:PATH, …")
        command.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .png, .jpg, .svg or .pdf")
    options = parser.parse_args(arguments)
    try:
        source, cache = open_source(options.data), cache_folder()
        with Progress() as progress:
            if options.command == "comparison":
                figure = comparison([_model(text) for text in options.model], source, cache, progress)
            else:
                model, network = _model(options.model), Inception(device())
                figure, summary = nearest(model, source, options.count, network, cache, progress)
                print(summary)
        print(write_atomically(options.out, lambda file: figure.savefig(file, dpi=DPI), "choose another --out"))
    except UserError as error:
        parser.exit(2, f"error: {error.message}\n")


if __name__ == "__main__":
    main()
