"""`cub:PATH`: CUB-200-2011 (Wah et al., 2011) with human captions (Reed et al., 2016) and the zero-shot split.

    PATH/CUB_200_2011/images.txt, bounding_boxes.txt, images/CLASS/NAME.jpg
    PATH/text/CLASS/NAME.txt                            captions, one per line
    PATH/train/filenames.pickle, test/filenames.pickle  names CLASS/NAME; the splits share no class

Captions and lists may also lie inside CUB_200_2011.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from training.data.files import Box, PictureFile, list_files, read_caption_file, read_text
from training.data.source import DataError, Listing, Problem, Split
from training.safe_pickle import SafePickleError, read_safe_pickle

LAYOUT = (
    "expected CUB_200_2011/images.txt, text/ and train/filenames.pickle in it, as docs/training.md, Data sources, says"
)
NAME = r"[\w.-]*\w[\w.-]*/[\w.-]*\w[\w.-]*"


@dataclass(frozen=True)
class Cub:
    """CUB-200-2011 below `folder`."""

    folder: Path

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether a folder looks like this data set."""
        return any((root / "images.txt").is_file() for root in (folder, folder / "CUB_200_2011"))

    def __post_init__(self) -> None:
        """Raises `DataError` if there is no such data set."""
        if not self.recognises(self.folder):
            raise DataError(f"'{self.folder}' holds no CUB-200-2011; {LAYOUT}")

    @property
    def name(self) -> str:
        """As written in a config."""
        return f"cub:{self.folder}"

    def listing(self, split: Split) -> Listing:
        """The captioned pictures of the class-disjoint split that exist."""
        boxes = self._boxes()
        problems: list[Problem] = []
        files: list[PictureFile] = []
        for name in self._names(split):
            file = self._root / "images" / f"{name}.jpg"
            if not file.is_file():
                problems.append(Problem("absent picture", f"images/{name}.jpg"))
            elif name not in boxes:
                problems.append(Problem("no bounding box", name))
            else:
                captions = read_caption_file(self._beside("text") / f"{name}.txt", f"text/{name}.txt")
                if isinstance(captions, Problem):
                    problems.append(captions)
                else:
                    category = name.partition("/")[0]
                    files.append(PictureFile(file, captions, f"cub/{name}", box=boxes[name], category=category))
        return list_files("cub", split, files, problems, units="classes")

    @property
    def _root(self) -> Path:
        return next(root for root in (self.folder, self.folder / "CUB_200_2011") if (root / "images.txt").is_file())

    def _beside(self, name: str) -> Path:
        """A file or folder in CUB_200_2011, or beside it."""
        places = [folder / name for folder in (self._root, self._root.parent)]
        return next((place for place in places if place.exists()), places[0])

    def _boxes(self) -> dict[str, Box]:
        """Bounding boxes by picture name. Raises `DataError`."""
        try:
            paths = dict(line.split(maxsplit=1) for line in _lines(self._root / "images.txt"))
            numbers = [line.split() for line in _lines(self._root / "bounding_boxes.txt")]
            return {paths[number].removesuffix(".jpg"): Box(*map(float, edges)) for number, *edges in numbers}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.name}: images.txt and bounding_boxes.txt do not match ({error})") from None

    def _names(self, split: Split) -> list[str]:
        """The names in a split's list. Raises `DataError`, also for a pickle of anything but names."""
        file = self._beside(f"{split}/filenames.pickle")
        try:
            names = read_safe_pickle(file)
        except OSError as error:
            raise DataError(f"the list '{file}' cannot be read ({error.strerror}); {LAYOUT}") from None
        except SafePickleError as error:
            raise DataError(f"the list '{file}' is refused: {error}; use the list that AttnGAN distributes") from None
        if not isinstance(names, list) or not all(isinstance(n, str) and re.fullmatch(NAME, n) for n in names):
            raise DataError(f"the list '{file}' is not a list of CLASS/NAME; use the one that AttnGAN distributes")
        return names


def _lines(file: Path) -> list[str]:
    return read_text(file, LAYOUT).splitlines()
