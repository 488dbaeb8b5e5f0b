"""Reference: a few captions with PyTorch's outputs, so that a machine without PyTorch can check its own."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from t2i_engine.backends.base import Array, Runner, ShapeError, check_feeds
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BundleError
from t2i_engine.formats import GENERATOR, TEXT_ENCODER
from t2i_engine.manifest import Graph, ModelSizes, TensorSpec
from t2i_engine.parity import Case, picture_case, sentence_case
from t2i_engine.tokenizer import Tokenizer, pad, split

REFERENCE = "reference.npz"
LENGTHS = (1, 3, 8, 18)  # words per caption, mixed so that three of four are padded

_LARGEST = 512 << 20

Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """B captions with their inputs and outputs; shapes and dtypes are those of the graphs."""

    captions: npt.NDArray[np.str_]
    seeds: npt.NDArray[np.int64]
    tokens: Array
    lengths: Array
    noise: Array
    condition_noise: Array | None = None  # None for a model without conditioning augmentation
    sentence: Array
    image: Array
    pixels: Array

    def cases(self) -> Iterator[Case]:
        """One case per graph."""
        feeds = {"noise": self.noise, "sentence": self.sentence}
        if self.condition_noise is not None:
            feeds["condition_noise"] = self.condition_noise
        tokens = {"tokens": self.tokens, "lengths": self.lengths}
        yield Case(TEXT_ENCODER, "reference", tokens, {"sentence": self.sentence})
        yield Case(GENERATOR, "reference", feeds, {"image": self.image, "pixels": self.pixels})

    def to_npz(self) -> bytes:
        """The file's content: the same bytes for the same arrays."""
        buffer = io.BytesIO()
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})
        return buffer.getvalue()


def make_reference(pytorch: Mapping[str, Runner], sizes: ModelSizes, tokenizer: Tokenizer) -> Reference:
    """Draws one picture for each of `LENGTHS`, with seeds from 0; words come from the whole vocabulary, at random."""
    known = [word for word in tokenizer.words if split(word) == [word]]
    words = np.random.default_rng(0).choice(known, sum(LENGTHS))
    captions = [" ".join(part) for part in np.split(words, np.cumsum(LENGTHS)[:-1])]
    tokens, lengths = pad([tokenizer.encode(caption).ids for caption in captions])
    seeds = range(len(captions))
    text = sentence_case(pytorch, tokens, lengths)
    drawn = picture_case(pytorch, sizes, text.expected["sentence"], seeds)
    return Reference(
        captions=np.array(captions),
        seeds=np.array(seeds, dtype=np.int64),
        tokens=tokens,
        lengths=lengths,
        noise=drawn.feeds["noise"],
        condition_noise=drawn.feeds.get("condition_noise"),
        sentence=text.expected["sentence"],
        image=drawn.expected["image"],
        pixels=drawn.expected["pixels"],
    )


def read_reference(bundle: Bundle) -> Reference:
    """Reads a bundle's reference. Raises `BundleError` if it is missing, altered, or another model's."""
    file = bundle.manifest.reference
    if file is None:
        raise BundleError(f"bundle {bundle.name!r} has no reference to compare with; export it again")
    path = bundle.path(file)
    reference = read_npz(path, Reference, "a reference")
    try:
        _check(bundle, reference)
    except ShapeError as error:
        raise BundleError(f"{path} belongs to another model: {error}; export the bundle again") from None
    return reference


def read_npz(path: Path, kind: type[Kind], what: str) -> Kind:
    """Reads a dataclass of arrays from a file. Raises `BundleError` if the file is not `what` it is supposed to be."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise ValueError("it is too large")
        with np.load(path, allow_pickle=False) as arrays:
            return kind(**dict(arrays.items()))
    except Exception as error:  # zipfile, what it decompresses with, and NumPy raise a dozen kinds
        raise BundleError(f"{path} is not {what} ({error}); export the bundle again") from None


def _check(bundle: Bundle, reference: Reference) -> None:
    """Raises `ShapeError` unless everything has the shape that the bundle's graphs declare, with a row per caption."""
    seeds = TensorSpec("seeds", "int64", ("B",))
    declared = {tensor.name: tensor for graph in bundle.graphs.values() for tensor in (*graph.inputs, *graph.outputs)}
    arrays = {field.name: getattr(reference, field.name) for field in fields(reference)}
    captions = arrays.pop("captions")
    found = {name: array for name, array in arrays.items() if array is not None}
    rows = check_feeds(Graph((seeds, *declared.values()), (seeds,)), found, [seeds.name])["B"]
    if captions.dtype.kind != "U" or captions.shape != (rows,):
        raise ShapeError(f"captions is {captions.dtype.name} {captions.shape}; text ({rows},) expected")
