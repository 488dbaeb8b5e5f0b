"""`t2i-engine data check`: loads every picture and caption of a data set, and reports what training would skip."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from t2i_engine.table import aligned
from t2i_engine.tokenizer import split as words_of
from training.data.rendered import load_in_order
from training.data.source import SPLITS, DataError, Problem, Source, Split, require_usable
from training.data.sources import open_source

RESOLUTION = 32
"""Pictures are decoded in full, whatever they are resized to."""
SYNTHBIRDS_COUNT = 500
"""Synthbirds to check, per split."""
MOST_NAMED = 3
REPORT_EVERY = 1000


@dataclass(frozen=True)
class SplitCheck:
    """What a split holds."""

    pictures: int
    captions: int
    captions_a_picture: tuple[int, int]
    """Fewest and most."""
    groups: int
    """Classes, where captions describe classes; otherwise pictures."""
    words: frozenset[str]
    problems: tuple[Problem, ...]
    note: str
    version: str
    trouble: str
    """Why it cannot be used; empty if it can."""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, naming every problem."""
        kinds = dict.fromkeys(problem.kind for problem in self.problems)
        return {
            "pictures": self.pictures,
            "captions": self.captions,
            "captions_a_picture": list(self.captions_a_picture),
            "groups": self.groups,
            "words": len(self.words),
            "problems": {kind: [name for of, name in self.problems if of == kind] for kind in kinds},
            "note": self.note,
            "version": self.version,
            "usable": not self.trouble,
        }


@dataclass(frozen=True)
class DataCheck:
    """What a data set holds."""

    source: str
    splits: dict[Split, SplitCheck]

    @property
    def usable(self) -> bool:
        """Whether it can be trained on, once the problems are skipped."""
        return not self.splits["train"].trouble

    @property
    def untaught(self) -> frozenset[str]:
        """Words in test captions that no training caption has."""
        return self.splits["test"].words - self.splits["train"].words

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "source": self.source,
            "usable": self.usable,
            "vocabulary": len(self.splits["train"].words),
            "untaught_words": sorted(self.untaught),
            "splits": {split: found.as_json() for split, found in self.splits.items()},
        }

    def as_text(self) -> str:
        """Readable text: the splits, what is skipped in each, and whether the data set is usable."""
        rows: list[tuple[str, ...]] = [("split", "pictures", "captions", "a picture", "groups", "words")]
        for split, found in self.splits.items():
            fewest, most = found.captions_a_picture
            counts = (found.pictures, found.captions, f"{fewest}-{most}" if fewest < most else most, found.groups)
            rows.append((split, *(f"{n:,}" if isinstance(n, int) else n for n in counts), f"{len(found.words):,}"))
        lines = [self.source, "", *aligned(rows), ""]
        lines.append(
            f"vocabulary: {len(self.splits['train'].words):,} words; {len(self.untaught):,} test words are not in it"
        )
        for split, found in self.splits.items():
            lines += [f"{split}: {found.note}"] if found.note else []
            for kind, names in found.as_json()["problems"].items():
                lines += [f"{split} skips {len(names):,}: {kind}", *(f"  {name}" for name in names[:MOST_NAMED])]
                if len(names) > MOST_NAMED:
                    lines.append(f"  and {len(names) - MOST_NAMED:,} more, listed by --json")
        lines += ["", *(found.trouble for found in self.splits.values() if found.trouble)]
        lines.append("usable for training" if self.usable else "not usable for training")
        return "\n".join(lines)


def check(name: str, on_progress: Callable[[str], None]) -> DataCheck:
    """Loads every picture and caption of a data set. Raises `DataError` if there is none of this name."""
    source = open_source(name, SYNTHBIRDS_COUNT)
    return DataCheck(name, {split: _check_split(name, source, split, on_progress) for split in SPLITS})


def _check_split(name: str, source: Source, split: Split, on_progress: Callable[[str], None]) -> SplitCheck:
    listing = source.listing(split)
    problems = list(listing.problems)
    counts: list[int] = []
    groups: set[str] = set()
    words: set[str] = set()
    done = 0
    for loaded in load_in_order(listing.items, RESOLUTION):
        for example in loaded:
            if isinstance(example, Problem):
                problems.append(example)
                continue
            tokenized = [words_of(caption) for caption in example.captions]
            problems += [Problem("caption without a word", example.key)] * tokenized.count([])
            words.update(*tokenized)
            counts.append(len(tokenized) - tokenized.count([]))
            groups.add(example.group or example.key)
        done += len(loaded)
        if done % REPORT_EVERY == 0 or done == len(listing.items):
            on_progress(f"{split}: {done:,} of {len(listing.items):,} pictures")
    return SplitCheck(
        pictures=sum(map(bool, counts)),
        captions=sum(counts),
        captions_a_picture=(min(counts, default=0), max(counts, default=0)),
        groups=len(groups),
        words=frozenset(words),
        problems=tuple(problems),
        note=listing.note,
        version=listing.version,
        trouble=_trouble(name, split, sum(map(bool, counts)), problems),
    )


def _trouble(name: str, split: Split, pictures: int, problems: Sequence[Problem]) -> str:
    try:
        require_usable(name, split, pictures, problems)
    except DataError as error:
        return error.message
    return ""
