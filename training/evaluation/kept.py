"""Results that took long to compute, kept in files that are complete or not there."""

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

import torch

_log = logging.getLogger("t2i_engine.evaluate")


def find(path: Path) -> dict[str, Any] | None:
    """What is kept under this name; None where nothing is, or the file is damaged."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch.load has no error of its own: OSError, EOFError, IndexError, RuntimeError, …
        return None
    return content if isinstance(content, dict) else None


def keep(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors and plain values; where that fails it says so, for they can be computed again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save tells of a full disk by a RuntimeError
        _log.warning("'%s' cannot be kept and will be computed again (%s)", path, " ".join(str(error).split()))
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
