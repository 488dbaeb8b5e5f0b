"""Measures how good a model's pictures are.

Batches of generated pictures (draws.py) go through one measure per metric; an `Evaluation` holds the results, as JSON
for programs and Markdown for documents, together with the conditions they were obtained under.
"""

import io
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from t2i_engine.errors import OutputError
from t2i_engine.files import write_atomically
from t2i_engine.pictures import Pixels

_log = logging.getLogger("t2i_engine.evaluate")


class GeneratedBatch(NamedTuple):
    """B generated pictures, each with its caption and the real picture that the caption was written for."""

    pixels: Pixels
    """Uint8 (B, R, R, 3)."""
    real: Pixels
    """Uint8 (B, R, R, 3)."""
    captions: list[str]
    groups: list[int]
    """Captions of the same group fit each other's pictures (see `Example`)."""
    described: list[tuple[str, ...]]
    """All captions of each real picture."""


@dataclass(frozen=True)
class Result:
    """The result of a measure, for programs and for documents."""

    values: dict[str, Any]
    """Plain values by name."""
    markdown: str
    """A table, and what is needed to read it."""


class Measure(Protocol):
    """Computes a metric from pictures batch by batch; its memory does not grow with their number."""

    def update(self, batch: GeneratedBatch) -> None:
        """Takes in a batch."""

    def result(self) -> Result:
        """The result for all batches so far."""


@dataclass(frozen=True)
class Conditions:
    """Which model was evaluated, how it ran, and on which data."""

    model: str
    runs_as: str
    resolution: int
    real_resolution: int
    """The resolution of the real pictures that distances compare with."""
    data: str
    split: str
    note: str
    """Caveats about the data, to be shown with the figures."""
    captions: int
    """Captions drawn, one picture each, with the seeds 0, 1, …; 0 if no metric draws them."""
    truncation: float
    skipped: int
    """Captions without a word that the model knows."""
    crops: int = 0
    """Random crops of each real picture that distances compare with, as the model was trained on crops; 0 if not."""

    def as_markdown(self) -> str:
        """The lines above the tables."""
        skipped = f"; {self.skipped:,} captions without a known word skipped" if self.skipped else ""
        how = f"one picture each, seeds from 0, truncation {self.truncation:g}{skipped}"
        drawn = f": {self.captions:,} captions, {how}" if self.captions else ""
        other = self.real_resolution != self.resolution
        real = f"; real pictures at {self.real_resolution} × {self.real_resolution}" if other else ""
        if self.crops:
            crops = "a random crop" if self.crops == 1 else f"{self.crops} random crops"
            real += f"{',' if real else '; real pictures:'} {crops} of each"
        lines = [
            f"**{self.model}**, {self.runs_as}, {self.resolution} × {self.resolution}{real}",
            f"{self.data}, split {self.split}{drawn}",
        ]
        return "  \n".join([*lines, self.note] if self.note else lines)


@dataclass(frozen=True)
class Evaluation:
    """The conditions, and the result of every metric."""

    conditions: Conditions
    results: Sequence[Result]

    def as_json(self) -> dict[str, Any]:
        """The conditions and the values of all results, in one object."""
        values = asdict(self.conditions)
        for result in self.results:
            values |= result.values
        return values

    def as_markdown(self) -> str:
        """The conditions, then the table of each result."""
        return "\n\n".join([self.conditions.as_markdown(), *(result.markdown for result in self.results)])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def percent(part: int, whole: int) -> float:
    """A share in percent, rounded to two decimals."""
    return round(100 * part / whole, 2)


def cached(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The content of a cache file, which is computed and written if the file is missing or damaged.

    If it cannot be written, a warning is logged.
    """
    if (content := read_cached(path)) is not None:
        return content
    content = compute()
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        write_atomically(path, buffer.getvalue(), "it will be computed again")
    except OutputError as error:
        _log.warning("%s", error)
    return content


def read_cached(path: Path) -> dict[str, Any] | None:
    """The content of a cache file; None if it is missing or damaged."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch.load has no error of its own: OSError, EOFError, IndexError, RuntimeError, …
        return None
    return content if isinstance(content, dict) else None
