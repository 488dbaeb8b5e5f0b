"""Manifest: what bundle.json says about a model, its graphs and its files, checked when it is read."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from t2i_engine.errors import quoted
from t2i_engine.files import sha256
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Differences, Format
from t2i_engine.schema import SchemaError, read_dataclass, read_json
from t2i_engine.tokenizer import RULE

SCHEMA = 2
MANIFEST = "bundle.json"
VOCABULARY = "vocabulary.json"
NEAR_WORDS = "near_words.json"

_LONGEST_LICENSE = 500
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LARGEST_SIZES = {
    "resolution": 4096,
    "base_channels": 1024,
    "noise_width": 4096,
    "sentence_width": 4096,
    "embedding_width": 4096,
    "vocabulary_size": 1_000_000,
    "max_channel_multiple": 64,
}


class OldSchemaError(SchemaError):
    """A manifest of an earlier schema, which `t2i-engine migrate` rewrites."""


@dataclass(frozen=True)
class ModelSizes:
    """Every size and switch that defines a model's networks; shared by training, export and runtime."""

    resolution: int  # R, a power of two, 32 or more
    base_channels: int  # nf
    noise_width: int  # Z
    sentence_width: int  # S, even: half of it per direction of the LSTM
    embedding_width: int
    vocabulary_size: int  # words including the padding word at index 0
    conditioning_augmentation: bool  # False: the generator has no input condition_noise (DF-GAN)
    adaptive_block: bool
    first_generation: bool = False  # the generator of DF-GAN's first release (training/models/generator.py)
    max_channel_multiple: int = 8  # feature maps have at most this many times nf channels

    def __post_init__(self) -> None:
        for name, largest in _LARGEST_SIZES.items():
            size = getattr(self, name)
            if not 1 <= size <= largest:
                raise ValueError(f"{name} is {size}; 1 to {largest} expected")
        if self.resolution < 32 or self.resolution.bit_count() != 1:
            raise ValueError(f"resolution is {self.resolution}; a power of two, 32 or more, expected")
        if self.sentence_width % 2:
            raise ValueError(f"sentence_width is {self.sentence_width}; an even number expected")


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of an input or output; letters (B, T) are dynamic sizes."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with a size for each letter."""
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)


@dataclass(frozen=True)
class Graph:
    """Inputs and outputs of one graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def graphs_of(sizes: ModelSizes) -> dict[str, Graph]:
    """The public contract: the graphs of a model of these sizes, the same in every format."""
    resolution, width = sizes.resolution, sizes.sentence_width
    sentence = TensorSpec("sentence", "float32", ("B", width))
    noise = [TensorSpec("noise", "float32", ("B", sizes.noise_width)), sentence]
    if sizes.conditioning_augmentation:
        noise.append(TensorSpec("condition_noise", "float32", ("B", width)))
    image = TensorSpec("image", "float32", ("B", 3, resolution, resolution))
    pixels = TensorSpec("pixels", "uint8", ("B", resolution, resolution, 3))
    tokens = (TensorSpec("tokens", "int64", ("B", "T")), TensorSpec("lengths", "int64", ("B",)))
    return {TEXT_ENCODER: Graph(tokens, (sentence,)), GENERATOR: Graph(tuple(noise), (image, pixels))}


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says about one file; `graph` is None if the file holds no graph, or holds all of them."""

    sha256: str
    size: int  # in bytes
    graph: str | None = None
    format: str | None = None
    precision: str | None = None
    opset: int | None = None

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 is {quoted(self.sha256)}; 64 hexadecimal digits expected")
        if self.size < 0:
            raise ValueError(f"size is {self.size}; a number of bytes expected")

    @classmethod
    def of(
        cls, content: bytes | Path, graph: str | None = None, row: Format | None = None, opset: int | None = None
    ) -> "FileEntry":
        """The entry for a file, given as its bytes or its path."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        name, precision = (row.name, row.precision) if row else (None, None)
        return cls(sha256(content), size, graph, name, precision, opset)


@dataclass(frozen=True)
class TokenizerSpec:
    """The vocabulary file, the rule that splits captions into words, and the file of near words, if there is one."""

    vocabulary: str = VOCABULARY
    rule: str = RULE
    near_words: str | None = None


@dataclass(frozen=True)
class Parity:
    """The gate's result for one format: its worst differences from PyTorch over all cases, and its tolerance."""

    worst: Differences
    tolerance: Differences
    cases: int


@dataclass(frozen=True)
class Manifest:
    """The content of bundle.json."""

    name: str
    model: ModelSizes
    files: Mapping[str, FileEntry]
    parity: Mapping[str, Parity] = field(default_factory=dict)  # by format
    unverified: Mapping[str, str] = field(default_factory=dict)  # format that was built but not run -> what was missing
    rejected: Mapping[str, str] = field(default_factory=dict)  # format that missed its tolerance -> by how much
    tokenizer: TokenizerSpec = TokenizerSpec()
    reference: str | None = None  # the file with captions, noise and PyTorch's outputs
    license: str | None = None  # terms under which the model may be used, in one line; None: not stated
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.name, *self.files):
            if not is_name(name):
                raise ValueError(f"the name {quoted(name)} is not allowed; letters, digits and '._-' expected")
        if self.tokenizer.rule != RULE:
            raise ValueError(f"the tokenizer's rule is {quoted(self.tokenizer.rule)}; {RULE!r} expected")
        for name in filter(None, (self.tokenizer.vocabulary, self.tokenizer.near_words, self.reference)):
            if name not in self.files:
                raise ValueError(f"the file {quoted(name)} is used but not listed in files")
        if self.license is not None and not (self.license.isprintable() and 0 < len(self.license) <= _LONGEST_LICENSE):
            raise ValueError(f"license is {quoted(self.license)}; one line of {_LONGEST_LICENSE} characters expected")

    def to_json(self) -> bytes:
        """The manifest as indented JSON, the same bytes for the same content."""
        content = {"schema": SCHEMA, **asdict(self, dict_factory=_without_none)}
        content["files"] = dict(sorted(content["files"].items()))
        for name in ("unverified", "rejected"):
            if not content[name]:
                del content[name]
        content["graphs"] = {name: asdict(graph) for name, graph in graphs_of(self.model).items()}
        return json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> "Manifest":
        """Reads and checks a manifest. Raises `SchemaError` for the first mistake found."""
        found = read_json(content)
        if not isinstance(found, dict):
            raise SchemaError("a JSON object was expected")
        schema = found.pop("schema", None)
        if type(schema) is not int or schema < 1:
            raise SchemaError(f"its schema is {quoted(str(schema))}, {SCHEMA} expected")
        if schema > SCHEMA:
            raise SchemaError(f"its schema is {schema}, this t2i-engine reads {SCHEMA}: update t2i-engine")
        if schema < SCHEMA:
            raise OldSchemaError(f"its schema is {schema}, this t2i-engine reads {SCHEMA}")
        declared = found.pop("graphs", None)
        manifest = read_dataclass(cls, found)
        contract = json.loads(json.dumps({name: asdict(graph) for name, graph in graphs_of(manifest.model).items()}))
        if declared != contract:
            raise SchemaError("its graphs do not match its model")
        return manifest


def is_name(text: str) -> bool:
    """Whether a bundle, or a file in it, may have this name."""
    return _FILE_NAME.fullmatch(text) is not None


def _without_none(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if value is not None}
