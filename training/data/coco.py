"""`coco:PATH`: COCO captions of 2014 or 2017 (Chen et al., 2015) as distributed.

    PATH/annotations/captions_train2014.json, captions_val2014.json    or 2017; 2014, the papers' year, if both exist
    PATH/train2014/*.jpg, val2014/*.jpg

COCO's validation pictures are the test split, as in the papers. Both splits are of one year: train2017 has most of
val2014.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from training.data.files import PictureFile, list_files, read_text, stripped, within
from training.data.source import DataError, Listing, Problem, Split

LAYOUT = "expected annotations/captions_train2014.json (or 2017) and its pictures in train2014/ below it"
YEARS = ("2014", "2017")
FOLDERS = {"train": "train", "test": "val"}


@dataclass(frozen=True)
class Coco:
    """COCO captions below `folder`."""

    folder: Path

    def __post_init__(self) -> None:
        """Raises `DataError` if there is no such data set."""
        if not self.recognises(self.folder):
            raise DataError(f"'{self.folder}' holds no COCO captions; {LAYOUT}")

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether a folder looks like this data set."""
        return any(folder.glob("annotations/captions_*.json"))

    @property
    def name(self) -> str:
        """As written in a config."""
        return f"coco:{self.folder}"

    def listing(self, split: Split) -> Listing:
        """The captioned pictures of a split that exist."""
        year = max(YEARS, key=lambda year: [self._annotations(f"{name}{year}").is_file() for name in FOLDERS.values()])
        folder = f"{FOLDERS[split]}{year}"
        file = self._annotations(folder)
        if not file.is_file():
            return list_files("coco", split, ())
        files: list[PictureFile] = []
        problems: list[Problem] = []
        captions: dict[int, list[str]] = {}
        try:
            content = json.loads(read_text(file, LAYOUT))
            for note in content["annotations"]:
                captions.setdefault(note["image_id"], []).append(note["caption"])
            for number, name in sorted((image["id"], image["file_name"]) for image in content["images"]):
                picture = within(self.folder / folder, name)
                texts = stripped(captions.get(number, ()))
                if texts:
                    files.append(PictureFile(picture, texts, f"coco/{folder}/{picture.stem}"))
                else:
                    problems.append(Problem("no caption", f"{folder}/{picture.name}"))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise DataError(f"'{file}' is not a COCO captions file ({reason}); download it again") from None
        return list_files("coco", split, files, problems)

    def _annotations(self, folder: str) -> Path:
        return self.folder / "annotations" / f"captions_{folder}.json"
