"""The interface of all data sets: a source has splits; a split lists items, which load as examples."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from t2i_engine.errors import UserError

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

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
    note: str = ""
    """A caveat to be shown with every result obtained from this data."""


class Source(Protocol):
    """A data set that exists; its contents are read when a split is listed."""

    @property
    def name(self) -> str:
        """As written in configs and on the command line: `cub:PATH`."""

    def listing(self, split: Split) -> Listing:
        """The items of a split, possibly none. Raises `DataError` if the data set is malformed."""


def summary(problems: Sequence[Problem]) -> str:
    """Counts problems by kind: "absent picture: 3, no caption: 5"; empty if there are none."""
    return ", ".join(f"{kind}: {count:,}" for kind, count in Counter(problem.kind for problem in problems).items())


def require_usable(source: str, split: Split, pictures: int, problems: Sequence[Problem]) -> None:
    """Raises `DataError` for a split without pictures, or with captions in an unknown encoding."""
    foreign = [problem.name for problem in problems if problem.kind == "caption not in UTF-8"]
    if foreign:
        raise DataError(
            f"{source}: {len(foreign):,} caption files are not UTF-8, first '{foreign[0]}'; "
            "convert them, for example with iconv -f latin1 -t utf-8"
        )
    if not pictures:
        raise DataError(
            f"{source}: split {split} has no captioned pictures ({summary(problems) or 'it is empty'}); "
            f"run t2i-engine data check {source}"
        )
