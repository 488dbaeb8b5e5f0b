r"""Caption to token ids, by DF-GAN's rule: lower case, runs of `\w`, ASCII only, unknown words left out."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from t2i_engine.errors import BundleError, CaptionError, closest, listed, quoted

RULE = "df-gan"
PADDING = "<end>"
LONGEST_CAPTION = 10_000

Ids = npt.NDArray[np.int64]


def split(caption: str) -> list[str]:
    """The words of a caption, as vocabularies are built from and as they are looked up."""
    return [word for _, word in _pairs(caption) if word]


def _pairs(caption: str) -> list[tuple[str, str]]:
    """Each run of word characters, with what its ASCII characters leave of it, perhaps nothing."""
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
    """A caption's known words as ids, at least one, and the words that were left out, each once."""

    ids: tuple[int, ...]
    unknown: tuple[str, ...]


class Tokenizer:
    """A vocabulary: the word at index i has the id i, and the padding word has 0."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        if not self.words or self.words[0] != PADDING:
            raise ValueError(f"a vocabulary begins with {PADDING!r}, the padding word")
        self._ids = {word: index for index, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise ValueError("a vocabulary holds each word once")

    def encode(self, caption: str) -> Tokens:
        """Ids of the known words in order. Raises `CaptionError` where the caption is too long or no word is known."""
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
            raise CaptionError(f"no word of the caption {quoted(caption)} is known; {self._advice(unknown)}")
        return Tokens(ids, unknown)

    def nearest(self, word: str, count: int = 3) -> list[str]:
        """The known words most like `word`, best first; none where nothing is alike."""
        return closest(word[:40], self.words[1:], count)

    def _advice(self, unknown: Sequence[str]) -> str:
        nearest = dict.fromkeys(known for word in unknown[:5] for known in self.nearest(word))
        if nearest:
            return f"the nearest known words are: {listed(nearest)}"
        return f"use English words such as: {listed(self.words[1:9])}"

    def to_json(self) -> bytes:
        """The vocabulary file: a JSON array of words in the order of their ids."""
        return json.dumps(self.words, ensure_ascii=False, indent=0).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes, file: str = "vocabulary.json") -> "Tokenizer":
        """Reads a vocabulary file. Raises `BundleError`, naming `file`, where it is none."""
        try:
            words = json.loads(content)
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError("an array of words was expected")
            return cls(words)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{file} is not a vocabulary ({error}); export the bundle again") from None
