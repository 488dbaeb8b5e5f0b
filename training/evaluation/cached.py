"""Results that take long to compute, cached as files of tensors and plain values."""

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from t2i_engine.errors import OutputError
from t2i_engine.files import write_atomically

_log = logging.getLogger("t2i_engine.evaluate")


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
