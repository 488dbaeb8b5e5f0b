"""Pictures: pixels with their caption and seed, saved as PNG, JPEG or WebP, alone or as a grid."""

import hashlib
import io
import math
import re
import unicodedata
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from t2i_engine.errors import OptionError, OutputError, listed, quoted
from t2i_engine.files import exists, write_atomically

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

QUALITY = 95
"""The default quality of JPEG and WebP, 1 to 100."""

MILLISECONDS = 120
"""The duration of each frame of an animation."""
CURE = "choose another --out"

_LONGEST_SLUG = 60
_AHEAD = 32  # most pictures that wait to be encoded or consumed; more would only fill memory
_THREADS = 4

# Generated pictures hardly ever repeat a sequence of bytes: searching for matches takes three to six times as long and
# saves nothing. Runs of equal bytes are cheap to find, and occur in grids and flat skies.
_OPTIONS: Mapping[str, Mapping[str, int]] = {
    "PNG": {"compress_level": 1, "compress_type": zlib.Z_RLE},
    "WEBP": {"method": 0},
}

Pixels = npt.NDArray[np.uint8]
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Picture:
    """A drawn picture: `pixels` uint8 (R, R, 3), and where they come from."""

    pixels: Pixels
    caption: str
    seed: int
    bundle: str
    unknown: tuple[str, ...] = ()  # words of the caption that were left out
    read_as: tuple[tuple[str, str], ...] = ()  # other unknown words, with the known ones that they were read as
    milliseconds: float = 0.0  # its share of its batch's time
    truncation: float = 1.0

    @property
    def file_name(self) -> str:
        """A PNG name, short and safe on every file system, unique to caption, seed and truncation."""
        return f"{slug(self.caption)}-{self.seed}{_truncated(self.truncation)}.png"

    def save(self, path: str | Path, quality: int = QUALITY) -> Path:
        """Writes the picture atomically, in the format of the path's suffix, and returns the path.

        A PNG carries caption, software, seed, truncation and bundle as text chunks; `quality` is for JPEG and WebP.
        Raises `OptionError` for an unknown suffix and `OutputError` if the file cannot be written.
        """
        return _save(self.pixels, Path(path), _texts(self.caption, str(self.seed), self), quality)

    def to_png(self) -> bytes:
        """The content of the PNG file that `save` would write."""
        return self.encoded("PNG", QUALITY)

    def encoded(self, kind: str, quality: int) -> bytes:
        """The content of a file: PNG, or JPEG or WEBP of a quality from 1 to 100."""
        return _encoded(self.pixels, kind, _texts(self.caption, str(self.seed), self), quality)


@dataclass(frozen=True, eq=False)
class Grid:
    """Pictures of one size side by side, row by row."""

    pictures: Sequence[Picture]
    columns: int

    @property
    def pixels(self) -> Pixels:
        """Uint8 (rows * R, columns * R, 3); cells without a picture are white."""
        resolution = self.pictures[0].pixels.shape[0]
        rows = math.ceil(len(self.pictures) / self.columns)
        cells = np.full((rows * self.columns, resolution, resolution, 3), 255, dtype=np.uint8)
        cells[: len(self.pictures)] = [picture.pixels for picture in self.pictures]
        ordered = cells.reshape(rows, self.columns, resolution, resolution, 3).swapaxes(1, 2)
        return ordered.reshape(rows * resolution, self.columns * resolution, 3)

    @property
    def file_name(self) -> str:
        """A PNG name like a picture's, unique to captions and seeds."""
        first = self.pictures[0]
        rest = _digest(*(f"{picture.seed} {picture.caption}" for picture in self.pictures))
        return f"{slug(first.caption)}-{first.seed}{_truncated(first.truncation)}-grid_{rest}.png"

    def save(self, path: str | Path, quality: int = QUALITY) -> Path:
        """Writes the grid as `Picture.save` does; its text chunks list each caption and seed once."""
        captions = dict.fromkeys(picture.caption for picture in self.pictures)
        seeds = dict.fromkeys(str(picture.seed) for picture in self.pictures)
        return _save(self.pixels, Path(path), _texts("\n".join(captions), ",".join(seeds), self.pictures[0]), quality)


@dataclass(frozen=True, eq=False)
class Strip:
    """An interpolation between two captions and seeds: `pixels` uint8 (steps, R, R, 3)."""

    pixels: Pixels
    captions: tuple[str, str]
    seeds: tuple[int, int]
    bundle: str
    truncation: float = 1.0

    @property
    def file_name(self) -> str:
        """A PNG name like a picture's, unique to captions and seeds."""
        ends = _digest(*(f"{seed} {caption}" for seed, caption in zip(self.seeds, self.captions, strict=True)))
        return f"{slug(self.captions[0])}-{self.seeds[0]}{_truncated(self.truncation)}-strip_{ends}.png"

    def save(self, path: str | Path) -> Path:
        """Writes the pictures side by side or, if the path ends in .gif, as an animation that loops back and forth.

        Atomic; raises what `Picture.save` raises. A GIF has at most 256 colours.
        """
        path = Path(path)
        if path.suffix.lower() == ".gif":
            frames = [*self.pixels, *self.pixels[-2:0:-1]]
            return _write(path, lambda: _animation(frames))
        seeds = dict.fromkeys(map(str, self.seeds))
        texts = _texts("\n".join(dict.fromkeys(self.captions)), ",".join(seeds), self)
        return _save(np.concatenate(list(self.pixels), axis=1), path, texts, QUALITY, [".gif"])


def in_threads(pictures: Iterable[Picture], make: Callable[[Picture], Made]) -> Iterator[tuple[Picture, Made]]:
    """Yields each picture with the result of `make`, in order: several are encoded at once while the next are drawn.

    The last one is encoded in the caller's thread, so that a request for one picture waits for no other thread. If
    drawing fails, `make` still gets every picture that was drawn.
    """
    waiting: deque[tuple[Picture, Future[Made]]] = deque()
    latest: Picture | None = None
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for picture in pictures:
                if latest:
                    waiting.append((latest, pool.submit(make, latest)))
                latest = picture
                while waiting and (waiting[0][1].done() or len(waiting) > _AHEAD):
                    done, made = waiting.popleft()
                    yield done, made.result()
        finally:
            last = [(latest, make(latest))] if latest else []
        yield from ((done, made.result()) for done, made in waiting)
        yield from last


def grid(pictures: Sequence[Picture], columns: int | None = None) -> Grid:
    """Lays out pictures in order; by default one row per caption, or nearly a square for a single caption."""
    if not pictures:
        raise OptionError("a grid needs at least one picture")
    if columns is None:
        captions = len({picture.caption for picture in pictures})
        columns = math.ceil(len(pictures) / captions if captions > 1 else math.sqrt(len(pictures)))
    return Grid(pictures, columns)


def slug(caption: str) -> str:
    """A caption as part of a file name: ASCII letters, digits and hyphens, at most 69 characters.

    If other captions share the readable part, eight digits of the caption's SHA-256 follow it.
    """
    plain = unicodedata.normalize("NFKD", caption).encode("ascii", "ignore").decode("ascii").lower()
    readable = "-".join(re.findall("[a-z0-9]+", plain))[:_LONGEST_SLUG].strip("-")
    if readable and readable.replace("-", " ") == caption:
        return readable
    return f"{readable or 'caption'}_{_digest(caption)}"


def _truncated(truncation: float) -> str:
    return "" if truncation == 1 else f"-t{_exact(truncation)}"


def _exact(truncation: float) -> str:
    """The fewest digits that draw the same picture."""
    return repr(float(truncation)).removesuffix(".0")


def _texts(caption: str, seeds: str, picture: Picture | Strip) -> dict[str, str]:
    # "Description" and "Software" are keywords of the PNG specification, whose texts exclude NUL and lone surrogates.
    plain = caption.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return {
        "Description": plain,
        "Software": _software(),
        "Seed": seeds,
        "Truncation": _exact(picture.truncation),
        "Bundle": picture.bundle,
    }


@cache
def _software() -> str:
    from importlib.metadata import version  # reads a file, and takes half as long as encoding a picture

    return f"t2i-engine {version('t2i-engine')}"


def _save(pixels: Pixels, path: Path, texts: Mapping[str, str], quality: int, others: Sequence[str] = ()) -> Path:
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        found = f"the suffix {quoted(path.suffix)}" if path.suffix else "no suffix"
        raise OptionError(f"{quoted(str(path))} has {found}; one of {listed([*SUFFIXES, *others])} expected")
    return _write(path, lambda: _encoded(pixels, kind, texts, quality))


def _write(path: Path, encode: Callable[[], bytes]) -> Path:
    if not exists(path.parent):
        raise OutputError(f"cannot write {quoted(str(path), 200)} (its folder cannot be found); {CURE}")
    # Waiting for the disk would take longer than drawing, and the picture can be drawn again.
    return write_atomically(path, lambda file: file.write_bytes(encode()), CURE, durable=False)


def _animation(frames: Sequence[Pixels]) -> bytes:
    from PIL import Image

    first, *others = map(Image.fromarray, frames)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=MILLISECONDS, loop=0)
    return file.getvalue()


def _encoded(pixels: Pixels, kind: str, texts: Mapping[str, str], quality: int) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    file = io.BytesIO()
    options = _OPTIONS.get(kind, {})
    Image.fromarray(pixels).save(file, kind, pnginfo=chunks, quality=quality, **options)  # PNG has no quality
    return file.getvalue()


def _digest(*texts: str) -> str:
    content = "\n".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:8]
