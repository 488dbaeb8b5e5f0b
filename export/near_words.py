"""Near words: the known words that a bundle reads in place of frequent English words its model never learnt.

Two files decide. thesaurus.txt, written by hand, says which words may stand for each other, and near_words.npz holds
vectors (word_vectors.py) for finding the nearest known one. Vectors alone would not do: they find "stomach" for
"tummy", but also "wide" for "narrow" and "black" for "silver".
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.artifact import Artifact
from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.errors import UserError
from t2i_engine.manifest import NEAR_WORDS
from t2i_engine.tokenizer import Tokenizer

TABLE = Path(__file__).with_name("near_words.npz")
THESAURUS = Path(__file__).with_name("thesaurus.txt")

NEAR = 0.9
"""The cosine from which a word that the thesaurus does not list is read as another."""
COMMONEST = 100
"""The most frequent words of English, mostly function words; they are never read as another."""

IRREGULAR = {"goose": "geese", "titmouse": "titmice"}
"""Irregular plurals."""
BATCH = 1024

Vectors = npt.NDArray[np.float32]


class WordVectors:
    """The table that ships with this package."""

    def __init__(self) -> None:
        with np.load(TABLE, allow_pickle=False) as table:
            vectors = table["vectors"].T.astype(np.float32)
            self.words: tuple[str, ...] = tuple(str(table["words"]).split())
            """The most frequent one first."""
        self.vectors: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        """Of length 1, float32 (N, D)."""
        self._rows = {word: row for row, word in enumerate(self.words)}

    def __contains__(self, word: str) -> bool:
        return word in self._rows

    def of(self, words: Sequence[str]) -> Vectors:
        """Their vectors, float32 (len(words), D); 0 for words that are not in the table."""
        rows = np.array([self._rows.get(word, -1) for word in words], dtype=np.int64)
        return np.where(rows[:, None] < 0, np.float32(0), self.vectors[rows])


@cache
def word_vectors() -> WordVectors:
    """The table, read once because that takes some time."""
    return WordVectors()


@cache
def thesaurus() -> dict[str, tuple[str, ...]]:
    """Groups of words by name, in the file's order; plurals of birds are in groups of their own, below "birds"."""
    groups: dict[str, tuple[str, ...]] = {}
    for line in THESAURUS.read_text(encoding="utf-8").splitlines():
        name, colon, words = line.partition(":")
        if colon and not line.startswith("#"):
            groups[name] = tuple(words.split())
    several = {"birds" + name.removeprefix("bird"): words for name, words in groups.items() if _is_of(name, "bird")}
    return groups | {name: (*map(_plural, words), *groups.get(name, ())) for name, words in several.items()}


def _is_of(group: str, top: str) -> bool:
    return group.partition("/")[0] == top


def _plural(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith(("s", "ch", "x")):
        return f"{word}es"
    return f"{word[:-1]}ies" if word.endswith("y") and word[-2:-1] not in "aeiou" else f"{word}s"


def near_words(known: Sequence[str]) -> dict[str, str | None]:
    """Frequent English words that are not `known`, and the known word that each is read as.

    None for words that would be taken for a misspelling of any of these words, because they differ by one letter.
    """
    table = word_vectors()
    found: dict[str, str | None] = {**_unlisted(known, table), **_listed(known, table)}
    misspelt = Tokenizer(known, near=found)
    shapes = {shape for word in (*known, *found) for shape in _without_a_letter(word)}
    possible = [word for word in table.words if not shapes.isdisjoint(_without_a_letter(word))]
    own = [word for word in possible if word not in found and misspelt.read_as(word)]
    return dict(sorted((found | dict.fromkeys(own)).items()))


def _without_a_letter(word: str) -> set[str]:
    return {word, *(word[:place] + word[place + 1 :] for place in range(len(word)))}


def _listed(known: Sequence[str], table: WordVectors) -> dict[str, str]:
    """Words of the thesaurus: the nearest of their group, else the most common one of the group above."""
    found: dict[str, str] = {}
    for name, words in thesaurus().items():
        own = [word for word in words if word in known]
        above = [word for word in thesaurus().get(name.partition("/")[0], ()) if word in known]
        unknown = [word for word in words if word not in known]
        if own and not _is_of(name, "colour"):  # vectors come from texts, and cannot tell colours apart
            nearest = (table.of(unknown) @ table.of(own).T).argmax(axis=1)
            found |= {word: own[place] for word, place in zip(unknown, nearest, strict=True)}
        elif own or above:
            found |= dict.fromkeys(unknown, (own or above)[0])
        elif _is_of(name, "birds"):  # if no plural is known: the plural of what the singular is read as
            singular = "bird" + name.removeprefix("birds")
            one = {_plural(word): found.get(word, word) for word in thesaurus()[singular]}
            found |= {word: bird for word, bird in one.items() if bird in known}
    return found


def _unlisted(known: Sequence[str], table: WordVectors) -> dict[str, str]:
    """Other words that are nearly the same: the nearest known one, if both are singular or both plural."""
    listed = {word for words in thesaurus().values() for word in words}
    tops = ("bird", "birds", "colour")
    complete = {word for name, words in thesaurus().items() if name.partition("/")[0] in tops for word in words}
    barred = complete | set(table.words[:COMMONEST])
    decided = barred | listed | set(known)
    targets = [word for word in known if word in table and word not in barred]
    unknown = [word for word in table.words if word not in decided]
    found = {}
    for start in range(0, len(unknown) if targets else 0, BATCH):
        words = unknown[start : start + BATCH]
        cosines = table.of(words) @ table.of(targets).T
        for word, place, cosine in zip(words, cosines.argmax(axis=1), cosines.max(axis=1), strict=True):
            nearest = targets[place]
            if cosine >= NEAR and _is_plural(word, table) == _is_plural(nearest, table):
                found[word] = nearest
    return found


def _is_plural(word: str, table: WordVectors) -> bool:
    """Whether it is another word with a plural ending, as far as the table knows."""
    singulars = (word[:-1], word[:-2], f"{word[:-3]}y")
    return any(word == _plural(singular) and singular in table for singular in singulars if singular)


def near_words_file(tokenizer: Tokenizer) -> Artifact:
    """The bundle's file: a JSON object, from each word to the known one that it is read as, or to null."""
    return Artifact(NEAR_WORDS, json.dumps(near_words(tokenizer.words), indent=0).encode() + b"\n")


def add_near_words(bundle: Bundle) -> None:
    """Adds the file to an exported bundle, or replaces it there; nothing else in the bundle changes."""
    manifest, file = bundle.manifest, near_words_file(bundle.tokenizer(exact_words=True))
    manifest = replace(
        manifest,
        files={**manifest.files, file.name: file.entry},
        tokenizer=replace(manifest.tokenizer, near_words=file.name),
    )
    others: Mapping[str, bytes | Path] = {name: bundle.path(name) for name in manifest.files if name != file.name}
    write_bundle(bundle.folder, manifest, {**others, file.name: file.content})


def main(arguments: Sequence[str] | None = None) -> None:
    """Adds the file to bundles."""
    parser = argparse.ArgumentParser(prog="python -m export.near_words", description="Add near words to bundles.")
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="name or folder")
    options = parser.parse_args(arguments)
    try:
        for name in options.bundles:
            add_near_words(Bundle.open(name))
    except UserError as error:
        parser.exit(2, f"error: {error.message}\n")


if __name__ == "__main__":
    main()
