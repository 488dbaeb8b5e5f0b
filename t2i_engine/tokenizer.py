r"""Captions to token ids by DF-GAN's rule: lower case, runs of `\w`, ASCII only, unknown words skipped.

Before it skips a word, a tokenizer with near words looks for a known word that means nearly the same, and then for one
that it may be a misspelling of.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from t2i_engine.errors import BundleError, CaptionError, listed, quoted

RULE = "df-gan"
PADDING = "<end>"
LONGEST_CAPTION = 10_000
SHORTEST_MISSPELT = 4
"""Fewest letters of a misspelling, and of the word that was meant: too many shorter words differ by one letter."""
LONGEST_MISSPELT = 40
MOST_REMEMBERED = 1000
"""Most unknown words whose nearest known words are cached: captions share them, and each search takes milliseconds."""

Ids = npt.NDArray[np.int64]


def split(caption: str) -> list[str]:
    """The words of a caption, for building a vocabulary and for looking them up in it."""
    return [word for _, word in _pairs(caption) if word]


def _pairs(caption: str) -> list[tuple[str, str]]:
    """Each run of word characters, and its ASCII characters only, which may be empty."""
    runs = re.findall(r"\w+", caption.replace("\ufffd\ufffd", " ").lower())
    return [(run, run.encode("ascii", "ignore").decode("ascii")) for run in runs]


def pad(sequences: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Ids of several captions as `tokens` int64 (B, T), padded with 0, and `lengths` int64 (B)."""
    lengths = np.array([len(ids) for ids in sequences], dtype=np.int64)
    tokens = np.zeros((len(sequences), int(lengths.max(initial=0))), dtype=np.int64)
    for row, ids in zip(tokens, sequences, strict=True):
        row[: len(ids)] = ids
    return tokens, lengths


class Tokens(NamedTuple):
    """The ids of a caption's words, at least one; its unknown words; and those read as known ones, each once."""

    ids: tuple[int, ...]
    unknown: tuple[str, ...] = ()
    read_as: tuple[tuple[str, str], ...] = ()
    """Words that are not in the vocabulary, with the known word that each was read as."""


class Tokenizer:
    """A vocabulary: the word at index i has the id i, and the padding word has 0.

    `examples` are captions for this model; two of them are suggested for a caption without a known word. `near` maps
    unknown words to the known word that each is read as, or to None if a word has none but is not a misspelling;
    without `near`, every word is read exactly.
    """

    def __init__(
        self, words: Sequence[str], examples: Sequence[str] = (), near: Mapping[str, str | None] | None = None
    ) -> None:
        self.words = tuple(words)
        self.examples = tuple(examples)
        self.near = near
        if not self.words or self.words[0] != PADDING:
            raise ValueError(f"a vocabulary begins with {PADDING!r}, the padding word")
        self._nearest: dict[str, list[str]] = {}
        self._ids = {word: index for index, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise ValueError("a vocabulary holds each word once")
        for word, known in (near or {}).items():
            fits = known is None or (isinstance(known, str) and self._ids.get(known))
            if word in self._ids or not fits:
                raise ValueError(f"{quoted(word)} cannot be read as {quoted(str(known))}")

    def encode(self, caption: str) -> Tokens:
        """Ids of the known words in order. Raises `CaptionError` if the caption is too long or no word is known."""
        if len(caption) > LONGEST_CAPTION:
            raise CaptionError(
                f"the caption {quoted(caption)} has {len(caption):,} characters; "
                f"shorten it to {LONGEST_CAPTION:,} at most"
            )
        if not caption.strip():
            raise CaptionError('the caption is empty; describe a picture, for example "a yellow bird"')
        ids: list[int] = []
        unknown: dict[str, None] = {}
        read_as: dict[str, str] = {}
        for run, word in _pairs(caption):
            if word in self._ids:
                ids.append(self._ids[word])
            elif run not in unknown and (known := read_as.get(run) or self.read_as(run)):
                ids.append(self._ids[known])
                read_as[run] = known
            else:
                unknown[run] = None
        if not ids:
            raise CaptionError(f"no word in the caption {quoted(caption)} is known; {self._advice([*unknown])}")
        return Tokens(tuple(ids), tuple(unknown), tuple(read_as.items()))

    def read_as(self, word: str) -> str | None:
        """The known word that an unknown word, in lower case, is read as; None if it is left out.

        Near words come first, then words that differ by one slip: two letters swapped, one missing, one too many or one
        wrong, in this order. The first letter must be right, unless it was swapped with the second. Among those, known
        words come before near words.
        """
        if self.near is None or word in self._ids:
            return None
        if word in self.near:
            return self.near[word]
        if not (word.isascii() and word.isalpha() and SHORTEST_MISSPELT <= len(word) <= LONGEST_MISSPELT):
            return None
        meant = [other for other in _one_letter_off(word) if len(other) >= SHORTEST_MISSPELT]
        near = (self.near.get(other) for other in meant)
        return next(chain((other for other in meant if other in self._ids), filter(None, near)), None)

    def nearest(self, word: str, count: int = 3) -> list[str]:
        """The known words that `word` may be a misspelling, plural or singular of, best first."""
        word = word[:LONGEST_MISSPELT]
        nearest = self._nearest.get(word)
        if nearest is None:
            found = [(distance, known) for known in self.words[1:] if (distance := misspelling(word, known)) < math.inf]
            nearest = [known for _, known in sorted(found, key=lambda one: one[0])]
            if len(self._nearest) >= MOST_REMEMBERED:
                self._nearest.clear()
            self._nearest[word] = nearest
        return nearest[:count]

    def _advice(self, unknown: Sequence[str]) -> str:
        nearest = dict.fromkeys(known for word in unknown[:5] for known in self.nearest(word))
        if nearest:
            return f"the nearest known words are: {listed(nearest)}"
        known = [example for example in self.examples if all(word in self._ids for word in split(example))]
        if known:
            return f"try {' or '.join(quoted(example) for example in sorted(known, key=len)[:2])}"
        return f"use words such as: {listed(self.words[1:9])}"

    def to_json(self) -> bytes:
        """The vocabulary file: a JSON array of words in the order of their ids."""
        return json.dumps(self.words, ensure_ascii=False, indent=0).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes, file: str = "vocabulary.json", examples: Sequence[str] = ()) -> "Tokenizer":
        """Reads a vocabulary file. Raises `BundleError`, naming `file`, if it is not one."""
        try:
            words = json.loads(content)
            if not isinstance(words, list) or not all(isinstance(word, str) and word.isprintable() for word in words):
                raise ValueError("an array of printable words was expected")
            return cls(words, examples)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{file} is not a vocabulary ({error}); export the bundle again") from None

    def with_near_words(self, content: bytes, file: str = "near_words.json") -> "Tokenizer":
        """A copy with the near words of a file added. Raises `BundleError`, naming `file`, if they do not fit."""
        try:
            near = json.loads(content)
            if not isinstance(near, dict):
                raise ValueError("an object of words was expected")
            return Tokenizer(self.words, self.examples, near)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{file} has no near words ({error}); export the bundle again") from None


def _one_letter_off(word: str) -> Iterator[str]:
    """Words that one slip may have turned into `word`, except for its plural and its singular."""
    for place, (letter, following) in enumerate(pairwise(word)):
        yield f"{word[:place]}{following}{letter}{word[place + 2 :]}"
    for place in range(1, len(word) + 1):
        for letter in ascii_lowercase:
            if place < len(word) or letter != "s":
                yield f"{word[:place]}{letter}{word[place:]}"
    for place in range(1, len(word)):
        if place < len(word) - 1 or word[-1] != "s":
            yield word[:place] + word[place + 1 :]
    for place in range(1, len(word)):
        for letter in ascii_lowercase:
            yield f"{word[:place]}{letter}{word[place + 1 :]}"


def misspelling(word: str, known: str) -> float:
    """The edit distance of two words if one may be a misspelling, plural or singular of the other, else infinity.

    Swapped letters cost 0.75, a missing or extra letter 1, a wrong letter 1.5. A misspelling is within 1.5 for words
    of 4 to 7 letters, within 2.5 for 8 to 11, and so on, and starts with the right letter.
    """
    if word[:1] not in known[:2] or known[:1] not in word[:2]:  # true of most words, and quick to check
        return math.inf
    if _singular(word) == _singular(known):
        return 0.0
    limit = len(word) // 4 + 0.5
    if len(word) < 4 or abs(len(word) - len(known)) > limit:
        return math.inf
    before, row = [math.inf] * (len(known) + 1), [float(index) for index in range(len(known) + 1)]
    for i, letter in enumerate(word):
        before, last, row = row, before, [i + 1.0]
        for j, other in enumerate(known):
            distance = min(row[j] + 1, before[j + 1] + 1, before[j] + 1.5 * (letter != other))
            if i and j and word[i - 1 : i + 1] == other + known[j - 1]:
                distance = min(distance, last[j - 1] + 0.75)
            row.append(distance)
    return row[-1] if row[-1] <= limit else math.inf


def _singular(word: str) -> str:
    for plural, singular in (("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(plural) and len(word) > len(plural) + 2:
            return word.removesuffix(plural) + singular
    return word
