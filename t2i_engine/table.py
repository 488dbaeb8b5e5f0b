"""Tables for the terminal, in plain text."""

import textwrap
from collections.abc import Iterable, Sequence

NARROWEST = 20
"""What is left of the last column, even where the others fill the width."""


def aligned(rows: Iterable[Sequence[str]], width: int | None = None, most_lines: int = 3) -> list[str]:
    """Rows of equally many cells as lines, with columns as wide as their longest cell.

    With a `width`, the last column is wrapped to it, over at most `most_lines` lines; what does not fit ends in "…".
    """
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        wrapped = [row[-1]]
        if width is not None:
            left = max(width - sum(widths[:-1]) - 2 * len(widths[:-1]), NARROWEST)
            wrapped = textwrap.wrap(row[-1], left, max_lines=most_lines, placeholder=" …", break_on_hyphens=False)
        for index, last in enumerate(wrapped or [""]):
            line = [*row[:-1], last] if index == 0 else [*[""] * len(row[:-1]), last]
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return lines


def size(count: int) -> str:
    """A number of bytes as readable text: 512 B, 1.5 kB, 23.4 MB, 1.2 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"
