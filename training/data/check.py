"""What a data set holds, looked at picture by picture: what `t2i-engine data check` prints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from t2i_engine.table import aligned
from t2i_engine.tokenizer import split as words_of
from training.data.rendered import load_in_order
from training.data.source import SPLITS, DataError, Problem, Source, Split, require_usable
from training.data.sources import open_source

SIDE = 32
"""Pictures are decoded whole, whatever they are reduced to."""
DRAWN = 500
"""How many synthbirds of each split are looked at."""
NAMED = 3
REPORTED = 1000


@dataclass(frozen=True)
class Found:
    """A split, as it was found."""

    pictures: int
    captions: int
    captions_a_picture: tuple[int, int]
    """The fewest and the most."""
    groups: int
    """Pictures, or classes where captions describe classes."""
    words: frozenset[str]
    problems: tuple[Problem, ...]
    note: str
    version: str
    trouble: str
    """Why it cannot be used; empty where it can."""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, with every problem by name."""
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
class Report:
    """What a data set holds."""

    source: str
    splits: dict[Split, Found]

    @property
    def usable(self) -> bool:
        """Whether it can be trained with, without what is left out."""
        return not self.splits["train"].trouble

    @property
    def untaught(self) -> frozenset[str]:
        """Words of the captions to test with that those to train with do not have."""
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
        """For a person: the splits, then what is left out of each by name, and at last whether it can be used."""
        rows: list[tuple[str, ...]] = [("split", "pictures", "captions", "a picture", "groups", "words")]
        for split, found in self.splits.items():
            fewest, most = found.captions_a_picture
            counts = (found.pictures, found.captions, f"{fewest}-{most}" if fewest < most else most, found.groups)
            rows.append((split, *(f"{n:,}" if isinstance(n, int) else n for n in counts), f"{len(found.words):,}"))
        lines = [self.source, "", *aligned(rows), ""]
        lines.append(
            f"vocabulary: {len(self.splits['train'].words):,} words; {len(self.untaught):,} of test's are not in it"
        )
        for split, found in self.splits.items():
            lines += [f"{split}: {found.note}"] if found.note else []
            for kind, names in found.as_json()["problems"].items():
                lines += [f"{split} leaves out {len(names):,}: {kind}", *(f"  {name}" for name in names[:NAMED])]
                lines += [f"  and {len(names) - NAMED:,} more, which --json names"] if len(names) > NAMED else []
        lines += ["", *(found.trouble for found in self.splits.values() if found.trouble)]
        lines.append("usable to train with" if self.usable else "not usable to train with")
        return "\n".join(lines)


def check(name: str, progress: Callable[[str], None]) -> Report:
    """Looks at every picture and caption of a data set. Raises `DataError` where there is none of this name."""
    source = open_source(name, DRAWN)
    return Report(name, {split: _look(name, source, split, progress) for split in SPLITS})


def _look(name: str, source: Source, split: Split, progress: Callable[[str], None]) -> Found:
    listing = source.listing(split)
    problems = list(listing.problems)
    counts: list[int] = []
    groups: set[str] = set()
    words: set[str] = set()
    done = 0
    for made in load_in_order(listing.items, SIDE):
        for example in made:
            if isinstance(example, Problem):
                problems.append(example)
                continue
            spoken = [words_of(caption) for caption in example.captions]
            problems += [Problem("caption without a word", example.key)] * spoken.count([])
            words.update(*spoken)
            counts.append(len(spoken) - spoken.count([]))
            groups.add(example.group or example.key)
        done += len(made)
        if done % REPORTED == 0 or done == len(listing.items):
            progress(f"{split}: {done:,} of {len(listing.items):,} pictures")
    return Found(
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
