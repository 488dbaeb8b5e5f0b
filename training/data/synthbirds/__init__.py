"""`synthbirds`: procedurally drawn birds with captions, for training without a download and without a licence."""

from random import Random
from typing import Literal

from training.data.source import DataError, Example
from training.data.synthbirds.attributes import Attributes
from training.data.synthbirds.captions import write_captions
from training.data.synthbirds.drawing import design, draw

# Incremented whenever a picture changes: what was learnt from pictures alone is then out of date.
PICTURES = 7
# Incremented whenever a picture or a caption changes: cached renderings are keyed by it.
VERSION = 8
SMALLEST = 32

Split = Literal["train", "test"]

__all__ = ["PICTURES", "VERSION", "Attributes", "SynthBirds"]


class SynthBirds:
    """`count` pictures of `side` x `side` pixels, drawn on request; any side from `SMALLEST`.

    A picture's only seed is its key, "synthbirds/SPLIT/NUMBER". The split is part of the key, so no test picture
    shares a seed with a training picture. Picture number i is the same for every count, and shows the same bird at
    every side.
    """

    def __init__(self, split: Split, count: int, side: int) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split '{split}' not found; available: train, test")
        if count < 0:
            raise ValueError(f"{count} pictures; the count must be at least 0")
        if side < SMALLEST:
            raise DataError(f"synthbirds are drawn at {SMALLEST} × {SMALLEST} pixels or more, not at {side} × {side}")
        self.split = split
        self.count = count
        self.side = side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        key = self.key(index)
        plan = design(key)
        return Example(draw(plan, key, self.side), write_captions(plan.attributes, Random(f"{key}/captions")), key)

    def key(self, index: int) -> str:
        """The name of a picture, and its seed."""
        number = index + self.count if index < 0 else index
        if not 0 <= number < self.count:
            raise IndexError(f"picture {index} of {self.count}")
        return f"synthbirds/{self.split}/{number:06d}"

    def attributes(self, index: int) -> Attributes:
        """What picture number `index` shows."""
        return design(self.key(index)).attributes

    def captions(self, index: int) -> tuple[str, ...]:
        """The ten captions of picture number `index`, without drawing it."""
        key = self.key(index)
        return write_captions(design(key).attributes, Random(f"{key}/captions"))
