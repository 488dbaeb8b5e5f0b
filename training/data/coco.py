"""`coco:PATH`: COCO captions of 2014 or 2017 (Chen et al., 2015) as distributed, read by pycocotools.

    PATH/annotations/captions_train2014.json, captions_val2014.json    or 2017; 2014, the papers' year, if both exist
    PATH/train2014/*.jpg, val2014/*.jpg

COCO's validation pictures are the test split, as in the papers.
"""

import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from pycocotools.coco import COCO

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
        folder = next(
            (f"{FOLDERS[split]}{year}" for year in YEARS if self._annotations(f"{FOLDERS[split]}{year}").is_file()),
            None,
        )
        if folder is None:
            return list_files("coco", split, ())
        files: list[PictureFile] = []
        problems: list[Problem] = []
        try:
            reader = _read(self._annotations(folder))
            for number in sorted(reader.getImgIds()):
                file = within(self.folder / folder, reader.loadImgs([number])[0]["file_name"])
                captions = stripped(note["caption"] for note in reader.loadAnns(reader.getAnnIds(imgIds=[number])))
                if file is None:
                    raise ValueError(f"the picture {number} lies outside {folder}/")
                if captions:
                    files.append(PictureFile(file, captions, f"coco/{folder}/{file.stem}"))
                else:
                    problems.append(Problem("no caption", f"{folder}/{file.name}"))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise DataError(
                f"'{self._annotations(folder)}' is not a COCO captions file ({reason}); download it again"
            ) from None
        return list_files("coco", split, files, problems)

    def _annotations(self, folder: str) -> Path:
        return self.folder / "annotations" / f"captions_{folder}.json"


def _read(file: Path) -> COCO:
    """Opens an annotation file as UTF-8 and silently, unlike pycocotools itself."""
    content = json.loads(read_text(file, LAYOUT))
    reader = COCO()
    reader.dataset = {part: content[part] for part in ("images", "annotations")}
    with redirect_stdout(StringIO()):
        reader.createIndex()
    return reader
