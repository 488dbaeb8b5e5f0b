"""`webdataset:PATTERN`: tar shards of pictures and captions that lie side by side, KEY.jpg and KEY.txt.

Captions are KEY.txt, one a line, or `captions`, `caption` or `text` of KEY.json. A pattern may hold braces, `*` in
the files' name, and `{split}`, which stands for train or test: `data/{split}-{0000..0127}.tar`; without it everything
is to train with. A shard is a file, never a command or an address.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from braceexpand import braceexpand

from training.data.example import Example
from training.data.files import PICTURE_SUFFIXES, READING, read_picture, stripped
from training.data.source import DataError, Listing, Problem, Split

LARGEST_CAPTIONS = 1 << 20
Content = TypeVar("Content")
_HIDDEN = re.compile(r"__[^/]*__($|/)")  # webdataset's own members


@dataclass(frozen=True)
class PackedPicture:
    """An item that lies in a shard."""

    shard: Path
    offset: int
    size: int
    captions: tuple[str, ...]
    key: str

    def load(self, side: int) -> Example:
        """Reads it as `read_picture` does, without the rest of the shard."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return Example(read_picture(BytesIO(file.read(self.size)), side), self.captions, self.key)


@dataclass(frozen=True)
class WebDataset:
    """The shards that a pattern names."""

    pattern: str

    def __post_init__(self) -> None:
        """Raises `DataError` for what is no file, and where no file is there."""
        if "://" in self.pattern or self.pattern.startswith("pipe:"):
            raise DataError(f"'{self.pattern}' is no file; expected tar files that are on this machine, or mounted")
        self.shards("train")

    @property
    def name(self) -> str:
        """As it is asked for."""
        return f"webdataset:{self.pattern}"

    def shards(self, split: Split) -> list[Path]:
        """The files of a split, in the pattern's order. Raises `DataError` where one is missing."""
        if split == "test" and "{split}" not in self.pattern:
            return []
        try:
            patterns = list(braceexpand(self.pattern.replace("{split}", split)))
        except ValueError:
            raise DataError(f"the braces of '{self.pattern}' do not match; write for example {{0000..0127}}") from None
        files: list[Path] = []
        for pattern in map(Path, patterns):
            files += sorted(pattern.parent.glob(pattern.name)) if "*" in pattern.name else [pattern]
        missing = [file for file in files if not file.is_file()] if files else patterns
        if missing:
            raise DataError(
                f"{len(missing):,} shards of '{self.pattern}' are not there, the first is '{missing[0]}';"
                " expected tar files such as data/{split}-{0000..0127}.tar"
            )
        return [file.absolute() for file in files]

    def listing(self, split: Split) -> Listing:
        """The pictures of all shards that have captions, with the places where they lie."""
        items: list[PackedPicture] = []
        problems: list[Problem] = []
        for shard in self.shards(split):
            shown, hidden = read_index(shard)
            items += shown
            problems += hidden
        digest = sha256(f"{READING} {self.version(split)}".encode())
        for shard in self.shards(split):
            digest.update(f"{shard.stat().st_mtime_ns}\n".encode())
        name = f"webdataset-{split}-{digest.hexdigest()[:24]}"
        return Listing(items, name, self.version(split), tuple(problems))

    def version(self, split: Split) -> str:
        """As in `Listing`, from the names and sizes of the shards."""
        told = "".join(f"{shard.name} {shard.stat().st_size}\n" for shard in self.shards(split))
        return sha256(told.encode()).hexdigest()[:24]


def read_index(shard: Path) -> tuple[list[PackedPicture], list[Problem]]:
    """The pictures of a shard, read from its headers and captions, and what is wrong; nothing of a broken shard."""
    from webdataset.tariterators import group_by_keys

    items: list[PackedPicture] = []
    problems: list[Problem] = []
    try:
        for sample in group_by_keys(_members(shard)):
            key = f"webdataset/{shard.name}/{sample['__key__']}"
            picture, captions = picture_of(sample), captions_of(sample, key)
            if picture is None:
                problems.append(Problem("absent picture", key))
            elif isinstance(captions, Problem):
                problems.append(captions)
            else:
                items.append(PackedPicture(shard, picture.offset_data, picture.size, captions, key))
    except (OSError, ValueError, tarfile.TarError) as error:
        return [], [Problem("broken shard", f"{shard} ({error})")]
    return items, problems


def picture_of(sample: Mapping[str, Content]) -> Content | None:
    """The picture of a sample, under whichever suffix; None where there is none."""
    return next((sample[suffix[1:]] for suffix in PICTURE_SUFFIXES if suffix[1:] in sample), None)


def captions_of(sample: Mapping[str, Any], key: str) -> tuple[str, ...] | Problem:
    """The captions of a sample, or what is wrong with them."""
    try:
        if "txt" in sample:
            return stripped(sample["txt"].decode("utf-8-sig").splitlines()) or Problem("empty caption file", key)
        told = json.loads(sample.get("json", b"{}"))
        texts = next((told[name] for name in ("captions", "caption", "text") if told.get(name)), ())
        return stripped([texts] if isinstance(texts, str) else texts) or Problem("no caption", key)
    except UnicodeDecodeError:
        return Problem("caption not in UTF-8", key)
    except (ValueError, TypeError, AttributeError):
        return Problem("no caption", key)


def _members(shard: Path) -> Iterator[dict[str, Any]]:
    """The files of a shard as webdataset's reader has them, pictures as their headers alone."""
    with tarfile.open(shard, "r:") as archive:
        for member in archive:
            if member.isreg() and not _HIDDEN.match(member.name):
                content: Any = member
                if member.name.lower().endswith((".txt", ".json")):
                    reader = archive.extractfile(member) if member.size <= LARGEST_CAPTIONS else None
                    content = reader.read() if reader else b""
                yield {"fname": member.name, "data": content, "__url__": str(shard)}
