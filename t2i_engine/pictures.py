"""Pictures: pixels with the caption and seed they came from, saved as PNG, JPEG or WebP, alone or as a grid."""

import contextlib
import hashlib
import io
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from t2i_engine.errors import OptionError, OutputError, listed, quoted

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

_LONGEST_SLUG = 60

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Picture:
    """What the user gets: `pixels` uint8 (R, R, 3) and where they came from."""

    pixels: Pixels
    caption: str
    seed: int
    bundle: str
    unknown: tuple[str, ...] = ()  # words of the caption that the bundle does not know
    milliseconds: float = 0.0  # this picture's share of the time that its batch took
    truncation: float = 1.0

    @property
    def file_name(self) -> str:
        """A PNG name safe on every file system, of bounded length, different for every caption, seed, truncation."""
        return f"{slug(self.caption)}-{self.seed}{_truncated(self.truncation)}.png"

    def save(self, path: str | Path) -> Path:
        """Writes the picture, in the format of the path's suffix, at once or not at all; returns the path.

        A PNG carries caption, software, seed, truncation and bundle as text chunks. Raises `OptionError` for another
        suffix and `OutputError` where the file cannot be written.
        """
        return _save(self.pixels, Path(path), _texts(self.caption, str(self.seed), self))

    def to_png(self) -> bytes:
        """The content of the PNG file that `save` would write."""
        file = io.BytesIO()
        _encode(self.pixels, file, "PNG", _texts(self.caption, str(self.seed), self))
        return file.getvalue()


@dataclass(frozen=True, eq=False)
class Grid:
    """Pictures of one size side by side, row by row."""

    pictures: Sequence[Picture]
    columns: int

    @property
    def pixels(self) -> Pixels:
        """Uint8 (rows * R, columns * R, 3); cells without a picture are white."""
        side = self.pictures[0].pixels.shape[0]
        rows = math.ceil(len(self.pictures) / self.columns)
        cells = np.full((rows * self.columns, side, side, 3), 255, dtype=np.uint8)
        cells[: len(self.pictures)] = [picture.pixels for picture in self.pictures]
        ordered = cells.reshape(rows, self.columns, side, side, 3).swapaxes(1, 2)
        return ordered.reshape(rows * side, self.columns * side, 3)

    @property
    def file_name(self) -> str:
        """A PNG name as safe as a picture's, different for other captions or seeds."""
        first = self.pictures[0]
        rest = _digest(*(f"{picture.seed} {picture.caption}" for picture in self.pictures))
        return f"{slug(first.caption)}-{first.seed}{_truncated(first.truncation)}-grid_{rest}.png"

    def save(self, path: str | Path) -> Path:
        """Writes the grid as `Picture.save` writes a picture; captions and seeds are each listed once."""
        captions = dict.fromkeys(picture.caption for picture in self.pictures)
        seeds = dict.fromkeys(str(picture.seed) for picture in self.pictures)
        return _save(self.pixels, Path(path), _texts("\n".join(captions), ",".join(seeds), self.pictures[0]))


def grid(pictures: Sequence[Picture], columns: int | None = None) -> Grid:
    """Lays out pictures in order: by default one row per caption, or nearly a square where there is one caption."""
    if not pictures:
        raise OptionError("a grid needs at least one picture")
    if columns is None:
        captions = len({picture.caption for picture in pictures})
        columns = math.ceil(len(pictures) / captions if captions > 1 else math.sqrt(len(pictures)))
    return Grid(pictures, columns)


def slug(caption: str) -> str:
    """A caption as part of a file name: ASCII letters, digits and hyphens, at most 69 characters.

    Where the readable part does not tell the caption apart from others, eight digits of its SHA-256 follow.
    """
    plain = unicodedata.normalize("NFKD", caption).encode("ascii", "ignore").decode("ascii").lower()
    readable = "-".join(re.findall("[a-z0-9]+", plain))[:_LONGEST_SLUG].strip("-")
    if readable and readable.replace("-", " ") == caption:
        return readable
    return f"{readable or 'caption'}_{_digest(caption)}"


def suffix_format(path: Path) -> str:
    """Pillow's format for the path's suffix. Raises `OptionError` where it is not a picture's."""
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        found = f"the suffix {quoted(path.suffix)}" if path.suffix else "no suffix"
        raise OptionError(f"{quoted(str(path))} has {found}; one of {listed(SUFFIXES)} expected") from None


def _truncated(truncation: float) -> str:
    return "" if truncation == 1 else f"-t{truncation:g}"


def _texts(caption: str, seeds: str, picture: Picture) -> dict[str, str]:
    from importlib.metadata import version

    # "Description" and "Software" are keywords of the PNG specification, whose texts hold no NUL and no lone surrogate.
    plain = caption.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return {
        "Description": plain,
        "Software": f"t2i-engine {version('t2i-engine')}",
        "Seed": seeds,
        "Truncation": f"{picture.truncation:g}",
        "Bundle": picture.bundle,
    }


def _save(pixels: Pixels, path: Path, texts: Mapping[str, str]) -> Path:
    kind = suffix_format(path)
    partial = path.parent / f".{os.getpid()}-{_digest(path.name)}.partial"
    try:
        with partial.open("wb") as file:
            _encode(pixels, file, kind, texts)
        partial.replace(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise OutputError(
            f"cannot write {quoted(str(path), 200)} ({getattr(error, 'strerror', None) or error}); choose another --out"
        ) from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            partial.unlink()
    return path


def _encode(pixels: Pixels, file: IO[bytes], kind: str, texts: Mapping[str, str]) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    Image.fromarray(pixels).save(file, kind, pnginfo=chunks, quality=95)  # each format takes what it knows


def _digest(*texts: str) -> str:
    content = "\n".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:8]
