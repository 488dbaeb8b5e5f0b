"""The one interface of all data sets: a source has splits, and a split lists items that become examples at any side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

from t2i_engine.errors import UserError
from training.data.example import Example

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
    """A data set that is missing, that is not what its name says, or that cannot be trained on."""


class BrokenPictureError(Exception):
    """A picture that cannot be decoded; the message says why."""


class Problem(NamedTuple):
    """Something that a data set holds and training leaves out, by the name a user finds it under."""

    kind: Kind
    name: str


class Item(Protocol):
    """A picture before it is read: small, and sent between processes."""

    @property
    def key(self) -> str:
        """The key of its example."""

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions of its example, without its picture."""

    def load(self, side: int) -> Example:
        """Reads or draws it, R = `side`. Raises `BrokenPictureError`."""


@dataclass(frozen=True)
class Listing:
    """A split before its pictures are read."""

    items: Sequence[Item]
    fingerprint: str
    """Fit for a file's name, and another one whenever a picture or a caption may be another, by any sign."""
    version: str
    """Tells the data from others, and is the same for a copy of them elsewhere."""
    problems: tuple[Problem, ...] = ()
    """What was left out."""
    note: str = ""
    """What everybody who shows a figure made with this data has to say about it."""


class Source(Protocol):
    """A data set that was found; what it holds is looked at when a split is asked for."""

    @property
    def name(self) -> str:
        """As written in configs and on the command line: `cub:PATH`."""

    def listing(self, split: Split) -> Listing:
        """The items of a split, perhaps none. Raises `DataError` where the data set is not what it should be."""


def summary(problems: Sequence[Problem]) -> str:
    """Problems counted by kind: "absent picture: 3, no caption: 5"; empty where there are none."""
    return ", ".join(f"{kind}: {count:,}" for kind, count in Counter(problem.kind for problem in problems).items())


def require_usable(source: str, split: Split, pictures: int, problems: Sequence[Problem]) -> None:
    """Raises `DataError` for a split that holds no pictures, or captions whose encoding nobody knows."""
    foreign = [problem.name for problem in problems if problem.kind == "caption not in UTF-8"]
    if foreign:
        raise DataError(
            f"{source}: {len(foreign):,} caption files are not UTF-8, the first is '{foreign[0]}'; "
            "convert them, for example with iconv -f latin1 -t utf-8"
        )
    if not pictures:
        raise DataError(
            f"{source}: the split {split} has no picture with a caption ({summary(problems) or 'it is empty'}); "
            f"see t2i-engine data check {source}"
        )
