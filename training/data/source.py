"""Data sources: a source has splits; a split lists items, which load as examples. They are opened by name.

Names are `cub:PATH`, `coco:PATH`, `folder:PATH`, `webdataset:PATTERN`, `packed:DIR` and `synthbirds`; a bare path is
recognised by what it holds.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from t2i_engine.errors import UserError, closest, listed, quoted
from t2i_engine.tokenizer import Tokenizer

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

SYNTHBIRDS = "synthbirds"
SYNTHBIRDS_COUNT = 20_000
KINDS = ("cub", "coco", "folder", "webdataset", "packed")
"""What a name can begin with, before a path or pattern."""
MAX_HARD_NEGATIVES = 4
"""Most hard negatives of a caption that a config may ask for."""

Kind = Literal[
    "absent picture",
    "broken picture",
    "broken shard",
    "no bounding box",
    "no caption",
    "empty caption file",
    "caption not in UTF-8",
    "caption without a word",
]


class DataError(UserError):
    """A data set that is missing, malformed, or unusable for training."""


class BrokenPictureError(Exception):
    """A picture that cannot be decoded; the message says why."""


class Problem(NamedTuple):
    """Something in a data set that training skips, named so that its user finds it."""

    kind: Kind
    name: str


class Example(NamedTuple):
    """A picture and its captions."""

    image: NDArray[np.uint8]
    """RGB, uint8 (R, R, 3)."""
    captions: tuple[str, ...]
    """All captions of the picture."""
    key: str
    """Names the picture across all data sets, and never changes: "synthbirds/train/000123"."""
    group: str = ""
    """The class that the captions describe, so that they fit all of its pictures; empty if they describe the picture.
    """


class Item(Protocol):
    """A picture before it is loaded: small, and cheap to send between processes."""

    @property
    def key(self) -> str:
        """The key of its example."""

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions of its example, without loading the picture."""

    @property
    def unit(self) -> str:
        """What is held out for validation as a whole: its class, its group or shard; its key if it stands alone."""

    def load(self, resolution: int) -> Example:
        """Reads or draws the picture, R = `resolution`. Raises `BrokenPictureError`."""


@dataclass(frozen=True)
class Listing:
    """A split before its pictures are loaded."""

    items: Sequence[Item]
    fingerprint: str
    """Usable in a file name; changes with any sign that a picture or caption may have changed."""
    version: str
    """Identifies the data; a copy elsewhere has the same."""
    problems: tuple[Problem, ...] = ()
    """What is skipped."""
    units: str = "pictures"
    """What the items' `unit` names, in the plural: classes, shards, pictures."""


class Source(Protocol):
    """A data set that exists; its contents are read when a split is listed."""

    @property
    def name(self) -> str:
        """As written in configs and on the command line: `cub:PATH`."""

    def listing(self, split: Split) -> Listing:
        """The items of a split, possibly none. Raises `DataError` if the data set is malformed."""


class Grammar(Protocol):
    """Understands captions, in one vocabulary, so that none becomes a negative of a picture that it may be true of."""

    def asks(self, ids: Sequence[int]) -> Sequence[int]:
        """What a caption's token ids ask for: K bit masks of values that fit, one for each attribute.

        A picture may fit two captions if every attribute has a value that both allow.
        """

    def hard_negatives(
        self, ids: Sequence[int], known: Sequence[int], count: int, rng: np.random.Generator
    ) -> list[Sequence[int]]:
        """`count` versions that almost fit the caption's picture, and contradict what is `known` of it, as K masks.

        They are all different; the caption itself takes the place of those that cannot be made.
        """


@runtime_checkable
class Understood(Protocol):
    """A source whose captions may have a known grammar."""

    def grammar(self, tokenizer: Tokenizer) -> Grammar | None:
        """The grammar in a vocabulary; None if it has none."""


def summary(problems: Sequence[Problem]) -> str:
    """Counts problems by kind: "absent picture: 3, no caption: 5"; empty if there are none."""
    return ", ".join(f"{kind}: {count:,}" for kind, count in Counter(problem.kind for problem in problems).items())


def require_usable(
    source: str, split: str, pictures: int, problems: Sequence[Problem], cure: str | None = None
) -> None:
    """Raises `DataError` for a split without pictures, or with captions in an unknown encoding.

    `cure` ends the message of the first; by default, it is the command that names what is missing.
    """
    foreign = [problem.name for problem in problems if problem.kind == "caption not in UTF-8"]
    if foreign:
        raise DataError(
            f"{source}: {len(foreign):,} caption files are not UTF-8, first '{foreign[0]}'; "
            "convert them, for example with iconv -f latin1 -t utf-8"
        )
    if not pictures:
        raise DataError(
            f"{source}: split {split} has no captioned pictures ({summary(problems) or 'it is empty'}); "
            f"{cure or f'run t2i-engine data check {source}'}"
        )


def open_source(name: str, synthbirds_count: int = SYNTHBIRDS_COUNT) -> Source:
    """The data source of this name; `synthbirds_count` is the size of each synthbirds split.

    Raises `DataError` if the name is unknown or the data are not there.
    """
    from training.data import coco, cub, folder, packed, webdataset  # here, because they import this module
    from training.data.synthbirds.source import Drawn

    kind, path = _parse(name)
    match kind:
        case "cub":
            return cub.Cub(Path(path).expanduser())
        case "coco":
            return coco.Coco(Path(path).expanduser())
        case "folder":
            return folder.Folder(Path(path).expanduser())
        case "webdataset":
            return webdataset.WebDataset(path)
        case "packed":
            return packed.Packed(Path(path).expanduser())
    return Drawn(synthbirds_count)


def check_source(name: str) -> str:
    """Returns a name that is well-formed, whether or not its data exist. Raises `ValueError` for others."""
    try:
        _parse(name)
    except DataError as error:
        raise ValueError(error.message) from None
    return name


def public_name(name: str) -> str:
    """A name without this machine's folders: `cub:birds` for `cub:/home/me/birds`."""
    kind, path = _parse(name)
    return f"{kind}:{Path(path).name}" if path else kind


def _parse(name: str) -> tuple[str, str]:
    """The kind of a source and its path or pattern; recognises bare paths."""
    kind, _, path = name.partition(":")
    if kind in KINDS and path:
        return kind, path
    if name == SYNTHBIRDS:
        return name, ""
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return _recognise(folder)
    if name.endswith(".tar"):
        return "webdataset", name
    meant = closest(kind, [SYNTHBIRDS, *KINDS], likeness=0.5)
    suggestion = f" (did you mean {meant[0]!r}?)" if meant else ""
    places = {"webdataset": "PATTERN", "packed": "DIR"}
    forms = listed(f"{kind}:{places.get(kind, 'PATH')}" for kind in KINDS)
    raise DataError(
        f"unknown data source {quoted(name, 200)}{suggestion}; expected {SYNTHBIRDS}, {forms}, or an existing folder"
    )


def _recognise(folder: Path) -> tuple[str, str]:
    from training.data.coco import Coco
    from training.data.cub import Cub
    from training.data.folder import Folder
    from training.data.packed import Packed

    if Packed.recognises(folder):
        return "packed", str(folder)
    if Cub.recognises(folder):
        return "cub", str(folder)
    if Coco.recognises(folder):
        return "coco", str(folder)
    if any(folder.glob("*.tar")):
        return "webdataset", str(folder / "*.tar")
    if Folder.recognises(folder):
        return "folder", str(folder)
    raise DataError(
        f"the folder {quoted(str(folder), 200)} holds no known data set: no CUB-200-2011, COCO captions, tar shards "
        "or pictures; check the path"
    )
