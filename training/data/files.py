"""What data sets of files share: decoding, cropping and resizing pictures, reading captions, noticing changed files."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from training.data.source import BrokenPictureError, DataError, Example, Listing, Problem, Split

READING = 1
"""Raised whenever a file would decode to different pixels; cached pictures are keyed by it."""

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Box(NamedTuple):
    """A bounding box, in pixels from the top left corner."""

    left: float
    top: float
    width: float
    height: float

    def with_margin(self, picture_width: int, picture_height: int) -> tuple[int, int, int, int]:
        """Corners of a square 1.5 times the box's longer side around it, clipped to the picture (AttnGAN, DF-GAN)."""
        radius = int(max(self.width, self.height) * 0.75)
        x, y = int(self.left + self.width / 2), int(self.top + self.height / 2)
        return max(0, x - radius), max(0, y - radius), min(picture_width, x + radius), min(picture_height, y + radius)


@dataclass(frozen=True)
class PictureFile:
    """An item with a picture file of its own."""

    file: Path
    captions: tuple[str, ...]
    key: str
    group: str = ""
    box: Box | None = None
    """Crop to this, with a margin."""
    category: str = ""
    """Its class, in data sets that hold out whole classes."""

    @property
    def unit(self) -> str:
        """Its class or group, or itself."""
        return self.category or self.group or self.key

    def load(self, resolution: int) -> Example:
        """Reads the picture with `read_picture`."""
        return Example(read_picture(self.file, resolution, self.box), self.captions, self.key, self.group)


def read_picture(file: Path | IO[bytes], resolution: int, box: Box | None = None) -> NDArray[np.uint8]:
    """Decodes a picture to RGB, uint8 (R, R, 3): resizes its shorter side to R = `resolution`, and crops the other.

    Transparent pixels become white. With `box`, the picture is first cropped to it with a margin; without, its EXIF
    orientation is applied. Raises `BrokenPictureError`.
    """
    try:
        with Image.open(file) as opened:
            if opened.mode.startswith(("I", "F")):
                raise BrokenPictureError(f"more than 8 bits per channel ({opened.mode})")
            picture = opened.crop(box.with_margin(*opened.size)) if box else ImageOps.exif_transpose(opened)
            if picture.has_transparency_data:
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
            fitted = ImageOps.fit(picture.convert("RGB"), (resolution, resolution), Image.Resampling.BILINEAR)
            return np.asarray(fitted)
    except BrokenPictureError:
        raise
    except UnidentifiedImageError as error:  # its own message names the file by its path on this machine
        raise BrokenPictureError("no picture in a known format") from error
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, IndexError, …
        raise BrokenPictureError(" ".join(str(error).split()) or type(error).__name__) from error


def read_caption_file(file: Path, name: str) -> tuple[str, ...] | Problem:
    """The captions of a UTF-8 file, one per line, without blank lines; a `Problem` called `name` if there are none."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError:
        return Problem("no caption", name)
    except UnicodeDecodeError:
        return Problem("caption not in UTF-8", name)
    return stripped(text.splitlines()) or Problem("empty caption file", name)


def stripped(texts: Iterable[str]) -> tuple[str, ...]:
    """Strips the texts and drops empty ones."""
    return tuple(text.strip() for text in texts if text.strip())


def within(folder: Path, name: str) -> Path:
    """The file `name` in a folder. Raises `ValueError` if the name leads out of it."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ValueError(f"'{name}' lies outside '{folder}'")
    return folder / name


def read_text(file: Path, cure: str) -> str:
    """The text of a file that a data set requires. Raises `DataError`, ending with `cure`."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"'{file}' cannot be read ({error.strerror}); {cure}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"'{file}' is not UTF-8 (byte {error.start}); convert it: iconv -f latin1 -t utf-8") from None


def list_files(
    kind: str,
    split: Split,
    files: Iterable[PictureFile],
    problems: Sequence[Problem] = (),
    units: str = "pictures",
) -> Listing:
    """Lists the files that exist; missing ones become problems. `units` is as in `Listing`.

    The version covers everything that determines pictures and captions, and each file's size; the fingerprint covers
    modification times as well.
    """
    version, fingerprint = hashlib.sha256(), hashlib.sha256(f"{READING}".encode())
    present: list[PictureFile] = []
    absent: list[Problem] = []
    for item in files:
        try:
            found = item.file.stat()
        except (OSError, ValueError):  # ValueError: a name that no file can have
            absent.append(Problem("absent picture", item.key))
            continue
        present.append(item)
        described = json.dumps((item.key, item.captions, item.group, item.box, found.st_size)).encode()
        version.update(described)
        fingerprint.update(described + str(found.st_mtime_ns).encode())
    name = f"{kind}-{split}-{fingerprint.hexdigest()[:24]}"
    return Listing(present, name, version.hexdigest()[:24], (*absent, *problems), units)
