"""Which formats to make: `--formats`, and what this machine can make of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from t2i_engine.backend_selection import backend_status, row_lacks
from t2i_engine.errors import BackendError
from t2i_engine.formats import Format, all_formats, find
from t2i_engine.parity import verification_device

ALL = "all"
DEFAULT = "onnx"
ALWAYS = "pytorch"  # the weights: what the others are proved against, and made from when they are added later


@dataclass(frozen=True)
class Selection:
    """The formats to make, in the table's order."""

    rows: tuple[Format, ...]
    unverified: Mapping[str, str]
    """Those of `rows` that are built here without being run, and what is lacking."""
    impossible: Mapping[str, str]
    """Those that `all` leaves out, and what is lacking."""


def select(formats: str) -> Selection:
    """Understands names with commas between them, or `all`; the weights are always among them.

    Raises `OptionError`, with a suggestion, for an unknown name, and `BackendError` where a format that is named cannot
    be made here.
    """
    names = [name.strip() for name in formats.split(",")]
    named = {find(name).name for name in names if name != ALL} | {ALWAYS}
    rows, unverified, impossible = [], {}, {}
    for row in all_formats():
        if row.name not in named and ALL not in names:
            continue
        lacks = row_lacks(row, verification_device(row))
        if lacks is None:
            rows.append(row)
        elif row.built_ahead and (row.name in named or backend_status(row.backend).lacks is None):
            rows.append(row)
            unverified[row.name] = lacks
        elif row.name in named:
            raise BackendError(f"format {row.name!r} cannot be made and proved here: {lacks}")
        else:
            impossible[row.name] = lacks
    return Selection(tuple(rows), unverified, impossible)
