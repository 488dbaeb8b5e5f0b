"""Captions that nearly fit a picture, one colour changed for another: hard negatives (as Yuksekgonul et al.'s, 2023).

The other captions of a batch mostly tell of another bird altogether; whether a belly is yellow or red seldom matters.
"""

import numpy as np
from numpy.typing import NDArray

from t2i_engine.tokenizer import Tokenizer

COLOURS: tuple[tuple[str, ...], ...] = (
    ("black",),
    ("white",),
    ("red",),
    ("green",),
    ("yellow",),
    ("blue",),
    ("brown",),
    ("purple",),
    ("pink",),
    ("orange",),
    ("grey", "gray"),
)
"""The basic colour terms of English (Berlin & Kay, 1969), each with its spellings."""


ALTERATIONS = 4
"""So many versions of each caption are made."""


class ColourSwaps:
    """Changes one colour word of a caption; knows the ids of those that a vocabulary has."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = {word: index for index, word in enumerate(tokenizer.words)}
        known = [[ids[word] for word in words if word in ids] for words in COLOURS]
        self._spellings = [spellings for spellings in known if spellings]
        self._colour_of = np.full(len(tokenizer.words), -1)
        for colour, spellings in enumerate(self._spellings):
            self._colour_of[spellings] = colour

    def altered(self, tokens: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Versions of captions, int64 (B, T): int64 (B, ALTERATIONS, T).

        In each, one of the caption's colour words, drawn at random, has become another colour. A caption without one
        stays as it is.
        """
        altered = np.repeat(tokens[:, None], ALTERATIONS, axis=1)
        others = len(self._spellings) - 1
        for versions, colours in zip(altered, self._colour_of[tokens], strict=True):
            places = np.flatnonzero(colours >= 0)
            if len(places) and others > 0:
                for version, place in zip(versions, rng.choice(places, ALTERATIONS), strict=True):
                    other = (colours[place] + rng.integers(1, others + 1)) % (others + 1)
                    version[place] = self._spellings[other][0]
        return altered
