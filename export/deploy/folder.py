"""Folders that `t2i-engine deploy` writes: new or empty before, complete or absent afterwards."""

import contextlib
import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from t2i_engine.errors import OutputError, quoted


def check_folder(folder: Path) -> None:
    """Raises `OutputError` unless `folder` can be written and is new or empty."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{quoted(str(folder), 200)} is not an empty folder; choose a new one, or delete it")
        nearest = next(parent for parent in folder.absolute().parents if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, f"{nearest} cannot be written")
    except OSError as error:
        raise _not_written(folder, error) from None


def write_folder(folder: Path, files: Mapping[str, bytes | Path]) -> Path:
    """Writes `files`, by their paths in it, to a new or empty folder, all of them or nothing, and returns the folder.

    They are written next to `folder` and swapped in. Raises `OutputError` as `check_folder` does, or if writing fails.
    """
    check_folder(folder)
    place = folder.absolute()
    partial = place.with_name(f".{place.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for name, content in files.items():
            file = partial / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                shutil.copyfile(content, file)
        if place.exists():
            place.rmdir()
        partial.rename(place)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _not_written(folder, error) from None
    finally:
        with contextlib.suppress(ValueError):
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _not_written(folder: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"cannot write {quoted(str(folder), 200)} ({reason}); choose another folder")
