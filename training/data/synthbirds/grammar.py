"""What captions of synthbirds ask for, as numbers that training compares.

So no caption becomes a negative of a picture that it may be true of.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from t2i_engine.tokenizer import Tokenizer
from training.data.synthbirds.caption_attributes import ATTRIBUTES, Asked, caption_attributes
from training.data.synthbirds.hard_negatives import HardNegativeCaptions

Masks = tuple[int, ...]
_BITS = {name: {value: 1 << bit for bit, value in enumerate(values)} for name, values in ATTRIBUTES.items()}


class BirdGrammar:
    """The grammar in the words of one vocabulary (source.py's `Grammar`)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._words = tokenizer.words
        self._hard = HardNegativeCaptions(tokenizer)

    def asks(self, ids: Sequence[int]) -> Masks:
        """What a caption asks for: per attribute, the values that fit, as bits; all of them if it leaves it open."""
        return masks(caption_attributes(" ".join(self._words[i] for i in ids)))

    def hard_negatives(
        self, ids: Sequence[int], known: Sequence[int], count: int, rng: np.random.Generator
    ) -> list[Sequence[int]]:
        """`count` versions of a caption that contradict what is `known` of its picture, filled up with the caption.

        All versions are different.
        """
        false: dict[tuple[int, ...], None] = {}
        for version in islice(self._hard.versions(ids, rng), 3 * count):
            if not agree(self.asks(version), known):
                false[tuple(version)] = None
            if len(false) == count:
                break
        return [*false, *[ids] * count][:count]


def masks(asked: Asked) -> Masks:
    """Attributes as bits, in the order of ATTRIBUTES and of their values."""
    return tuple(
        sum(bits[value] for value in asked[name]) if name in asked else sum(bits.values())
        for name, bits in _BITS.items()
    )


def agree(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether some picture may fit both."""
    return all(one & other for one, other in zip(first, second, strict=True))
