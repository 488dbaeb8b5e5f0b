r"""Captions to token ids by DF-GAN's rule: lower case, runs of `\w`, ASCII only, unknown words skipped."""

import json
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from t2i_engine.errors import BundleError, CaptionError, listed, quoted

RULE = "df-gan"
PADDING = "<end>"
LONGEST_CAPTION = 10_000

Ids = npt.NDArray[np.int64]


def split(caption: str) -> list[str]:
    """The words of a caption, for building a vocabulary and for looking them up in it."""
    return [word for _, word in _pairs(caption) if word]


def _pairs(caption: str) -> list[tuple[str, str]]:
    """Each run of word characters, and its ASCII characters alone, which may be none."""
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
    """The ids of a caption's known words, at least one, and its unknown words, each once."""

    ids: tuple[int, ...]
    unknown: tuple[str, ...]


class Tokenizer:
    """A vocabulary: the word at index i has the id i, and the padding word has 0.

    `examples` are captions for this model; two of them are suggested for a caption without a known word.
    """

    def __init__(self, words: Sequence[str], examples: Sequence[str] = ()) -> None:
        self.words = tuple(words)
        self.examples = tuple(examples)
        if not self.words or self.words[0] != PADDING:
            raise ValueError(f"a vocabulary begins with {PADDING!r}, the padding word")
        self._ids = {word: index for index, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise ValueError("a vocabulary holds each word once")

    def encode(self, caption: str) -> Tokens:
        """Ids of the known words in order. Raises `CaptionError` if the caption is too long or no word is known."""
        if len(caption) > LONGEST_CAPTION:
            raise CaptionError(
                f"the caption {quoted(caption)} has {len(caption):,} characters; "
                f"shorten it to {LONGEST_CAPTION:,} at most"
            )
        if not caption.strip():
            raise CaptionError('the caption is empty; describe a picture, for example "a yellow bird"')
        pairs = _pairs(caption)
        ids = tuple(self._ids[word] for _, word in pairs if word in self._ids)
        unknown = tuple(dict.fromkeys(run for run, word in pairs if word not in self._ids))
        if not ids:
            raise CaptionError(f"no word in the caption {quoted(caption)} is known; {self._advice(unknown)}")
        return Tokens(ids, unknown)

    def nearest(self, word: str, count: int = 3) -> list[str]:
        """The known words that `word` may be a misspelling, plural or singular of, best first."""
        found = [
            (distance, known) for known in self.words[1:] if (distance := misspelling(word[:40], known)) < math.inf
        ]
        return [known for _, known in sorted(found, key=lambda one: one[0])[:count]]

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
        """Reads a vocabulary file. Raises `BundleError`, naming `file`, if it is none."""
        try:
            words = json.loads(content)
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError("an array of words was expected")
            return cls(words, examples)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{file} is not a vocabulary ({error}); export the bundle again") from None


def misspelling(word: str, known: str) -> float:
    """The edit distance of two words if one may be a misspelling, plural or singular of the other, else infinity.

    Swapped letters cost 0.75, a missing or extra letter 1, a wrong letter 1.5. A misspelling is within 1.5 for words
    of 4 to 7 letters, within 2.5 for 8 to 11, and so on, and starts with the right letter.
    """
    if _singular(word) == _singular(known):
        return 0.0
    limit = len(word) // 4 + 0.5
    if len(word) < 4 or word[0] not in known[:2] or known[0] not in word[:2] or abs(len(word) - len(known)) > limit:
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
