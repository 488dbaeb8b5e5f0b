"""`folder:PATH`: a folder of pictures with captions, as a Hugging Face ImageFolder or with text files next to them.

    PATH/metadata.jsonl or metadata.csv    rows of `file_name` and `text`: several rows per picture, or a list of texts
    PATH/a.jpg, a.txt                      without metadata: captions, one per line

The splits are the folders PATH/train and PATH/test (or val, validation), each with its own metadata or listed in
PATH's. Without PATH/train, everything is training data.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from training.data.files import (
    PICTURE_SUFFIXES,
    PictureFile,
    list_files,
    read_caption_file,
    read_text,
    stripped,
    within,
)
from training.data.source import DataError, Listing, Problem, Split

METADATA = ("metadata.jsonl", "metadata.csv")
NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "validation", "val")}


@dataclass(frozen=True)
class Folder:
    """The pictures below `folder`."""

    folder: Path

    def __post_init__(self) -> None:
        """Raises `DataError` if the folder does not exist."""
        if not self.folder.is_dir():
            raise DataError(
                f"'{self.folder}' is not a folder; expected one of pictures with metadata.jsonl or .txt files"
            )

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether a folder looks like this data set."""
        return any(_pictures(folder)) or any((folder / name).is_file() for name in METADATA)

    @property
    def name(self) -> str:
        """As written in a config."""
        return f"folder:{self.folder}"

    def listing(self, split: Split) -> Listing:
        """The captioned pictures of a split; a picture that the metadata do not mention has no caption."""
        root = self._root(split)
        if root is None:
            return list_files("folder", split, ())
        pictures = list(_pictures(root))
        captions = self._captions(root, pictures)
        files: list[PictureFile] = []
        problems: list[Problem] = []
        for file in dict.fromkeys((*pictures, *captions)):  # metadata may name missing pictures
            name = file.relative_to(self.folder).as_posix()
            found = captions.get(file) or Problem("no caption", name)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                files.append(PictureFile(file, found, f"folder/{name}"))
        return list_files("folder", split, files, problems)

    def _root(self, split: Split) -> Path | None:
        if not (self.folder / "train").is_dir():
            return self.folder if split == "train" else None
        return next((self.folder / name for name in NAMES[split] if (self.folder / name).is_dir()), None)

    def _captions(self, root: Path, pictures: list[Path]) -> Mapping[Path, tuple[str, ...] | Problem]:
        """Captions by picture, from metadata if there are any, otherwise from text files."""
        for folder in dict.fromkeys((root, self.folder)):
            for name in METADATA:
                if (folder / name).is_file():
                    found = _metadata(folder / name)
                    return {file: texts for file, texts in found.items() if file.is_relative_to(root)}
        texts = {file: file.with_suffix(".txt") for file in pictures}
        return {file: read_caption_file(text, text.relative_to(self.folder).as_posix()) for file, text in texts.items()}


def _pictures(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in PICTURE_SUFFIXES)


def _metadata(file: Path) -> dict[Path, tuple[str, ...]]:
    """Captions by picture. Raises `DataError`, naming the row without `file_name` and `text`."""
    captions: dict[Path, tuple[str, ...]] = {}
    expected = "expected rows of file_name, a picture below this folder, and text, a caption or a list of captions"
    number = 0
    try:
        for row in _rows(file):
            number += 1
            name, text = row["file_name"], row["text"]
            texts = text if isinstance(text, list) else [text]
            picture = within(file.parent, name)
            captions[picture] = captions.get(picture, ()) + stripped(texts)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise DataError(f"'{file}', after {number} rows: {type(error).__name__} {error}; {expected}") from None
    return captions


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    text = read_text(file, "give a readable file")
    if file.suffix == ".csv":
        yield from csv.DictReader(StringIO(text, newline=""))
    else:
        yield from (json.loads(line) for line in text.split("\n") if line.strip())
