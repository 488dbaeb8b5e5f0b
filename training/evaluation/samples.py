"""Pictures drawn for the captions of a test split, each beside the real picture that its caption belongs to."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from t2i_engine.errors import CaptionError
from t2i_engine.pictures import Pixels
from t2i_engine.sampler import Sampler
from training.data.rendered import Rendered

BATCH = 32

Number = TypeVar("Number", bound=np.generic)


class Sample(NamedTuple):
    """B generated pictures."""

    pixels: Pixels
    """Uint8 (B, R, R, 3)."""
    real: Pixels
    """Uint8 (B, R, R, 3): the pictures that the captions were written for."""
    captions: list[str]
    groups: list[int]
    """Captions of one group describe the group (see `Example`), and fit each other's pictures."""


@dataclass(frozen=True)
class _Request:
    caption: str
    ids: tuple[int, ...]
    picture: int
    seed: int


@dataclass(frozen=True)
class Requests:
    """What is drawn: caption number k, of all captions of the split in a fixed order, with the seed k.

    The order goes through all pictures, shuffled, before it comes to the next caption of each, so that any number of
    captions is a fair choice. Captions without a word that the model knows are left out.
    """

    sampler: Sampler
    data: Rendered
    count: int

    def draw(self) -> Iterator[Sample]:
        """Draws in batches, lazily."""
        waiting = self._requests()
        while requests := list(islice(waiting, BATCH)):
            sentences = self.sampler.encode_tokens([request.ids for request in requests])
            pixels = self.sampler.draw(sentences, [request.seed for request in requests])
            pictures = [request.picture for request in requests]
            yield Sample(
                pixels,
                np.stack([self.data.pictures[picture] for picture in pictures]),
                [request.caption for request in requests],
                [int(self.data.groups[picture]) for picture in pictures],
            )

    def drawable(self) -> int:
        """How many captions have a word that the model knows, of those that are to be drawn."""
        return sum(1 for _ in self._requests())

    def _requests(self) -> Iterator[_Request]:
        pictures = len(self.data.pictures)
        order = np.random.default_rng(0).permutation(pictures)
        for number in range(self.count):
            turn, place = divmod(number, pictures)
            picture = int(order[place])
            captions = self.data.captions[picture]
            caption = captions[(place + turn) % len(captions)]
            try:
                yield _Request(caption, self.sampler.tokenizer.encode(caption).ids, picture, number)
            except CaptionError:
                continue


def in_batches(items: NDArray[Number]) -> Iterator[NDArray[Number]]:
    """Cuts an array, such as pictures uint8 (N, R, R, 3), into batches."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))
