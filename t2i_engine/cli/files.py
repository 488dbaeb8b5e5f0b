"""Files that a user names: captions to read, and where to save pictures."""

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from t2i_engine.errors import CaptionError, OptionError, OutputError, listed, quoted
from t2i_engine.pictures import QUALITY, SUFFIXES, Grid, Picture, grid, in_threads

LARGEST_CAPTIONS_FILE = 64 << 20


def read_captions(file: Path) -> list[str]:
    """The captions of a UTF-8 file, one per line, without blank lines. Raises `CaptionError` if there are none."""
    shown = quoted(str(file), 200)
    try:
        with file.open("rb") as opened:  # a device or pipe has no size to check first
            content = opened.read(LARGEST_CAPTIONS_FILE + 1)
        if len(content) > LARGEST_CAPTIONS_FILE:
            raise CaptionError(f"captions file {shown} is larger than {LARGEST_CAPTIONS_FILE >> 20} MiB; split it")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise CaptionError(f"captions file {shown} cannot be read ({reason}); give an existing text file") from None
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1  # counts without a byte order mark, as `start` does
        raise CaptionError(f"captions file {shown} is not UTF-8 (line {line}); save it as UTF-8") from None
    captions = [line.strip() for line in lines if line.strip()]
    if not captions:
        raise CaptionError(f"captions file {shown} holds no caption; write one per line")
    return captions


@dataclass(frozen=True)
class Destination:
    """Where to save pictures, and how: in `folder`, under their own names with `suffix`, or as the one `file`."""

    folder: Path
    file: str | None
    suffix: str = ".png"
    quality: int = QUALITY

    @classmethod
    def parse(
        cls, out: str, pictures: int, picture_format: str | None = None, quality: int | None = None
    ) -> "Destination":
        """Interprets `--out`: a folder if it exists, ends with / or has no suffix; otherwise a file for one picture.

        Writes nothing. Raises `OptionError` for a file that is not a picture or cannot hold them all, for a format
        other than the file's, or for a quality if the format has none, and `OutputError` for a folder that cannot be
        written.
        """
        path, shown = Path(out), quoted(out, 200)
        suffix = f".{picture_format or 'png'}"
        try:
            if path.is_dir() or not path.suffix or out.endswith(("/", os.sep)):
                return cls(_checked(path), None, suffix, _checked_quality(quality, suffix))
            if path.suffix.lower() not in SUFFIXES:
                raise OptionError(f"{shown} does not end with {listed(SUFFIXES)}; end a folder's name with /")
            if pictures > 1:
                raise OptionError(f"{pictures:,} pictures do not fit into {shown}; give a folder, or add --grid")
            if picture_format and SUFFIXES[suffix] != SUFFIXES[path.suffix.lower()]:
                raise OptionError(f"{shown} is not a {picture_format} file; drop --format, which is for folders")
            return cls(_checked(path.parent), path.name, suffix, _checked_quality(quality, path.suffix.lower()))
        except (OSError, ValueError) as error:
            raise _not_writable(path, error) from None

    def save(
        self, pictures: Iterable[Picture], as_grid: bool = False, columns: int | None = None
    ) -> Iterator[tuple[Picture, Path]]:
        """Saves each picture as it is drawn, or all as one grid, and yields it with its path; makes the folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise _not_writable(self.folder, error) from None
        if as_grid:
            sheet = grid(list(pictures), columns)
            path = sheet.save(self._path(sheet), self.quality)
            yield from ((picture, path) for picture in sheet.pictures)
        else:
            yield from in_threads(pictures, lambda picture: picture.save(self._path(picture), self.quality))

    def _path(self, picture: Picture | Grid) -> Path:
        return self.folder / (self.file or picture.file_name.removesuffix(".png") + self.suffix)


def _checked_quality(quality: int | None, suffix: str) -> int:
    if quality is None:
        return QUALITY
    if SUFFIXES[suffix] == "PNG":
        raise OptionError("PNG keeps every level and has no quality: drop --quality, or add --format jpg or webp")
    if not 1 <= quality <= 100:
        raise OptionError(f"quality {quality} is out of range; 1 to 100 expected")
    return quality


def _checked(folder: Path) -> Path:
    nearest = next((path for path in (folder, *folder.parents) if path.exists()), Path())
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return folder


def _not_writable(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"cannot write to {quoted(str(path), 200)} ({reason}); choose another --out")
