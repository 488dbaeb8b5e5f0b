"""`t2i-engine data check`: loads every picture and caption of a data set, and reports what training would skip."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from t2i_engine.table import aligned
from t2i_engine.tokenizer import split as words_of
from training.data.rendered import load_in_order
from training.data.source import SPLITS, DataError, Problem, Source, Split, open_source, require_usable

RESOLUTION = 32
"""Pictures are decoded in full, whatever they are resized to."""
SYNTHBIRDS_COUNT = 500
"""Synthbirds to check, per split."""
MOST_NAMED = 3
CURE = "a folder has captions in metadata.jsonl, or in NAME.txt next to each picture; for others, see docs/training.md"
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
    problems: dict[str, list[str]]
    """Names by kind."""
    version: str
    trouble: str
    """Why it cannot be used; empty if it can."""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, naming every problem."""
        values = asdict(self) | {"words": len(self.words), "usable": not self.trouble}
        del values["trouble"]
        return values


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
            each = f"{fewest}-{most}" if fewest < most else f"{most:,}"
            groups, words = f"{found.groups:,}", f"{len(found.words):,}"
            rows.append((split, f"{found.pictures:,}", f"{found.captions:,}", each, groups, words))
        lines = [self.source, "", *aligned(rows), ""]
        lines.append(
            f"vocabulary: {len(self.splits['train'].words):,} words; {len(self.untaught):,} test words are not in it"
        )
        for split, found in self.splits.items():
            for kind, names in found.problems.items():
                lines += [f"{split} skips {len(names):,}: {kind}", *(f"  {name}" for name in names[:MOST_NAMED])]
                if len(names) > MOST_NAMED:
                    lines.append(f"  and {len(names) - MOST_NAMED:,} more, listed by --json")
        lines += ["", *(found.trouble for found in self.splits.values() if found.trouble)]
        lines.append("usable for training" if self.usable else "not usable for training")
        return "\n".join(lines).encode(errors="backslashreplace").decode()  # names of files may not be UTF-8


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
    pictures, trouble = sum(map(bool, counts)), ""
    try:
        require_usable(name, split, pictures, problems, CURE)
    except DataError as error:
        trouble = error.message
    named: dict[str, list[str]] = {}
    for kind, item in problems:
        named.setdefault(kind, []).append(item)
    captions_a_picture = (min(counts, default=0), max(counts, default=0))
    return SplitCheck(
        pictures, sum(counts), captions_a_picture, len(groups), frozenset(words), named, listing.version,
        trouble,
    )  # fmt: skip
