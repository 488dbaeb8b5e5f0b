"""Hard negatives: captions that almost fit a picture, made of its own caption's words in a wrong arrangement.

After Yuksekgonul et al., "When and Why Vision-Language Models Behave like Bags-of-Words", 2023. Captions of other
pictures mostly describe an altogether different bird, and seldom hinge on whether belly or wings are yellow.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np

from t2i_engine.tokenizer import Tokenizer

COLOURS: tuple[tuple[str, ...], ...] = (
    ("black",), ("white",), ("red",), ("green",), ("yellow",), ("blue",), ("brown",), ("purple",), ("pink",),
    ("orange",), ("grey", "gray"),
)  # fmt: skip
"""The basic colour terms of English (Berlin & Kay, 1969), each with its spellings."""

REGIONS: tuple[tuple[str, ...], ...] = (
    ("crown", "cap", "forehead", "throat", "cheeks", "breast", "chest", "belly", "abdomen", "stomach"),
    ("wings", "tail"),
    ("bill", "beak"),
)
"""Parts of a bird, by their names in CUB's captions. Parts of one region often share a colour, so that swapping them
may leave a caption true."""

PLURAL = frozenset({"cheeks", "wings"})
QUALIFIERS = frozenset({"bright", "dark", "light", "pale", "pure", "jet", "spotted", "speckled", "streaked", "striped"})

Words = list[str]


class HardNegativeCaptions:
    """Makes hard negatives in three ways, from the colours and parts that a vocabulary has words for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._words = tokenizer.words
        self._ids = {word: index for index, word in enumerate(tokenizer.words)}
        self._colours = self._known(COLOURS)
        self._regions = self._known(REGIONS)
        self._colour_of = _index(self._colours)
        self._region_of = _index(self._regions)

    def versions(self, ids: Sequence[int], rng: np.random.Generator) -> Iterator[Sequence[int]]:
        """Endless versions of one caption, each made in a randomly chosen way that the caption allows.

        One colour is replaced; two colours are swapped; or a colour moves to a part of another region. A caption that
        allows none of these has no versions.
        """
        words = [self._words[i] for i in ids]
        coloured = [place for place, word in enumerate(words) if word in self._colour_of]
        ways: list[tuple[Callable[[Words, Sequence[int], np.random.Generator], Words], Sequence[int]]] = []
        if coloured and len(self._colours) > 1:
            ways.append((self._recoloured, coloured))
        if len({self._colour_of[words[place]] for place in coloured}) > 1:
            ways.append((self._swapped, coloured))
        if movable := self._movable(words, coloured):
            ways.append((self._moved, movable))
        while ways:
            change, places = ways[rng.integers(len(ways))]
            yield [self._ids[word] for word in change(words, places, rng)]

    def _known(self, groups: tuple[tuple[str, ...], ...]) -> list[tuple[str, ...]]:
        known = (tuple(word for word in group if word in self._ids) for group in groups)
        return [group for group in known if group]

    def _movable(self, words: Words, coloured: Sequence[int]) -> list[int]:
        """Parts right after their colour, if nothing else has that colour and some region is unmentioned."""
        if not self._unmentioned(words):
            return []
        colours = [self._colour_of[words[place]] for place in coloured]
        own = {place + 1 for place, colour in zip(coloured, colours, strict=True) if colours.count(colour) == 1}
        parts = [place for place, word in enumerate(words) if place in own and word in self._region_of]
        return [place for place in parts if words[place + 1 : place + 2] != ["feathers"]]  # "tail feathers" is one word

    def _unmentioned(self, words: Words) -> list[tuple[str, ...]]:
        """The regions that a caption does not mention."""
        mentioned = {self._region_of[word] for word in words if word in self._region_of}
        return [region for number, region in enumerate(self._regions) if number not in mentioned]

    def _recoloured(self, words: Words, places: Sequence[int], rng: np.random.Generator) -> Words:
        place = int(rng.choice(places))
        other = self._colour_of[words[place]] + int(rng.integers(1, len(self._colours)))
        return self._with(words, {place: self._colours[other % len(self._colours)][0]})

    def _swapped(self, words: Words, places: Sequence[int], rng: np.random.Generator) -> Words:
        first = int(rng.choice(places))
        others = [place for place in places if self._colour_of[words[place]] != self._colour_of[words[first]]]
        second = int(rng.choice(others))
        return self._with(words, {first: words[second], second: words[first]})

    def _moved(self, words: Words, places: Sequence[int], rng: np.random.Generator) -> Words:
        place = int(rng.choice(places))
        name = str(rng.choice(list(chain.from_iterable(self._unmentioned(words)))))
        moved = self._with(words, {place: name})
        start = place - 1
        while start > 0 and words[start - 1] in QUALIFIERS:
            start -= 1
        if words[place] not in PLURAL and name in PLURAL and start > 0 and words[start - 1] in ("a", "an"):
            del moved[start - 1]
        if words[place] in PLURAL and name not in PLURAL and words[start - 1 : start] not in (["its"], ["the"]):
            moved[start:start] = self._article(moved[start])
        return moved

    def _with(self, words: Words, changes: dict[int, str]) -> Words:
        """Replaces words by position, and adapts the articles before them."""
        changed = list(words)
        for place, word in changes.items():
            changed[place] = word
            if place > 0 and words[place - 1] in ("a", "an"):
                changed[place - 1 : place] = self._article(word) or [words[place - 1]]
        return changed

    def _article(self, word: str) -> Words:
        """The article before a word; none if the vocabulary lacks it."""
        article = "an" if word[0] in "aeiou" else "a"
        return [article] if article in self._ids else []


def _index(groups: Sequence[tuple[str, ...]]) -> dict[str, int]:
    return {word: number for number, group in enumerate(groups) for word in group}
