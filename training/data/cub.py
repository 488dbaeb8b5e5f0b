"""`cub:PATH`: CUB-200-2011 (Wah et al., 2011) with human captions (Reed et al., 2016) and the zero-shot split.

    PATH/CUB_200_2011/images.txt, bounding_boxes.txt, images/CLASS/NAME.jpg
    PATH/text/CLASS/NAME.txt                            captions, one a line
    PATH/train/filenames.pickle, test/filenames.pickle  names CLASS/NAME; no class is in both

Captions and lists may also lie inside CUB_200_2011. `cub+attributes:PATH` describes pictures without a human caption by
their class's attributes (cub_attributes.py).
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from training.data.cub_attributes import class_captions
from training.data.files import Box, PictureFile, list_files, read_caption_file, read_text
from training.data.source import DataError, Listing, Problem, Split
from training.plain_pickle import PlainPickleError, read_plain_pickle

LAYOUT = "expected CUB_200_2011/images.txt, text/ and train/filenames.pickle below it, as training/data/cub.py says"
NAME = r"[\w.-]*\w[\w.-]*/[\w.-]*\w[\w.-]*"


@dataclass(frozen=True)
class Cub:
    """CUB-200-2011 below `folder`, with captions from class attributes if they are asked for."""

    folder: Path
    attributes: bool = False

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether a folder looks like this data set."""
        return any((root / "images.txt").is_file() for root in (folder, folder / "CUB_200_2011"))

    def __post_init__(self) -> None:
        """Raises `DataError` where there is no such data set."""
        if not self.recognises(self.folder):
            raise DataError(f"'{self.folder}' holds no CUB-200-2011; {LAYOUT}")

    @property
    def name(self) -> str:
        """As it is asked for."""
        return f"cub{'+attributes' if self.attributes else ''}:{self.folder}"

    def listing(self, split: Split) -> Listing:
        """The pictures of the class-disjoint list that are there and have captions."""
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
                if isinstance(captions, Problem) and not (self.attributes and captions.kind == "no caption"):
                    problems.append(captions)
                else:
                    human = () if isinstance(captions, Problem) else captions
                    files.append(PictureFile(file, human, f"cub/{name}", box=boxes[name]))
        if not self.attributes:
            return list_files("cub", split, files, problems)
        by_people = [item for item in files if item.captions]
        described, classes = ({class_of(item) for item in items} for items in (by_people, files))
        note = (
            f"human captions for {len(by_people):,} of {len(files):,} pictures, "
            f"in {len(described)} of {len(classes)} classes, class attributes for the others"
        )
        return list_files("cub+attributes", split, self._described(files), problems, note)

    def _described(self, files: list[PictureFile]) -> list[PictureFile]:
        """Gives class captions to pictures without any; all pictures of such a class then fit each other's captions."""
        names = self._beside("attributes/attributes.txt", "attributes.txt")
        shares = self._beside("attributes/class_attribute_labels_continuous.txt")
        classes = [line.split()[1] for line in _lines(self._root / "classes.txt")]
        captions = class_captions(_lines(names), _lines(shares), classes)
        described = {class_of(item) for item in files if not item.captions}
        if strange := described - captions.keys():
            raise DataError(f"{self.name}: class {min(strange)} is not in classes.txt; {LAYOUT}")
        return [
            replace(item, captions=item.captions or captions[class_of(item)], group=f"cub/{class_of(item)}")
            if class_of(item) in described
            else item
            for item in files
        ]

    @property
    def _root(self) -> Path:
        return next(root for root in (self.folder, self.folder / "CUB_200_2011") if (root / "images.txt").is_file())

    def _beside(self, *names: str) -> Path:
        """The first of some files or folders that is there, in CUB_200_2011 or beside it."""
        places = [folder / name for name in names for folder in (self._root, self._root.parent)]
        return next((place for place in places if place.exists()), places[0])

    def _boxes(self) -> dict[str, Box]:
        """The birds by picture name. Raises `DataError`."""
        try:
            paths = dict(line.split(maxsplit=1) for line in _lines(self._root / "images.txt"))
            numbers = [line.split() for line in _lines(self._root / "bounding_boxes.txt")]
            return {paths[number].removesuffix(".jpg"): Box(*map(float, edges)) for number, *edges in numbers}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.name}: images.txt and bounding_boxes.txt do not belong together ({error})"
            ) from None

    def _names(self, split: Split) -> list[str]:
        """The names that a split's list holds. Raises `DataError`, also for a pickle of more than names."""
        file = self._beside(f"{split}/filenames.pickle")
        try:
            names = read_plain_pickle(file)
        except OSError as error:
            raise DataError(f"the list '{file}' cannot be read ({error.strerror}); {LAYOUT}") from None
        except PlainPickleError as error:
            raise DataError(f"the list '{file}' is refused: {error}; take the list that AttnGAN distributes") from None
        if not isinstance(names, list) or not all(isinstance(n, str) and re.fullmatch(NAME, n) for n in names):
            raise DataError(f"the list '{file}' is no list of names CLASS/NAME; take the one that AttnGAN distributes")
        return names


def class_of(item: PictureFile) -> str:
    """The class of a picture: CLASS of its key, `cub/CLASS/NAME`."""
    return item.key.split("/")[1]


def _lines(file: Path) -> list[str]:
    return read_text(file, LAYOUT).splitlines()
