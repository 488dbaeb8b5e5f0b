"""What was measured, for a program (JSON) and for a document (Markdown): every figure stands beside its conditions."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from training.evaluation.samples import Sample


class Section(Protocol):
    """The findings of one measure."""

    def as_json(self) -> dict[str, Any]:
        """Plain values by name."""

    def as_markdown(self) -> str:
        """A table and what has to be known to read it."""


class Measure(Protocol):
    """Looks at pictures batch by batch; what it keeps does not grow with their number."""

    def update(self, sample: Sample) -> None:
        """Takes in a batch."""

    def result(self) -> Section:
        """What has been found so far."""


@dataclass(frozen=True)
class Conditions:
    """Which model was measured on which data, and how."""

    model: str
    runs_as: str
    resolution: int
    data: str
    split: str
    note: str
    """What has to be said of figures made with this data."""
    captions: int
    """How many captions were drawn, one picture each, with the seeds 0, 1, …; 0 where no measure asks for them."""
    rejected: int
    """Captions without a word that the model knows."""

    def as_markdown(self) -> str:
        """Lines to stand above the tables."""
        rejected = f"; {self.rejected:,} captions without a known word left out" if self.rejected else ""
        drawn = f": {self.captions:,} captions, one picture each, seeds from 0{rejected}" if self.captions else ""
        lines = [
            f"**{self.model}**, {self.runs_as}, {self.resolution} × {self.resolution}",
            f"{self.data}, split {self.split}{drawn}",
        ]
        return "  \n".join([*lines, self.note] if self.note else lines)


@dataclass(frozen=True)
class Report:
    """The conditions and everything that was found."""

    conditions: Conditions
    sections: Sequence[Section]

    def as_json(self) -> dict[str, Any]:
        """The conditions, and the values of each section."""
        found = asdict(self.conditions)
        for section in self.sections:
            found |= section.as_json()
        return found

    def as_markdown(self) -> str:
        """The conditions, and each section below them."""
        return "\n\n".join([self.conditions.as_markdown(), *(section.as_markdown() for section in self.sections)])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def percent(right: int, of: int) -> float:
    """A share in percent, to a hundredth."""
    return round(100 * right / of, 2)
