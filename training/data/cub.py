"""`cub:PATH`: CUB-200-2011 (Wah et al., 2011) with human captions (Reed et al., 2016) and the zero-shot split.

    PATH/CUB_200_2011/images.txt, bounding_boxes.txt, images/CLASS/NAME.jpg
    PATH/text/CLASS/NAME.txt                            captions, one per line
    PATH/train/filenames.pickle, test/filenames.pickle  names CLASS/NAME; the splits share no class

Captions and lists may also lie inside CUB_200_2011. `cub+attributes:PATH` captions pictures without a human caption by
the attributes that most pictures of their class show.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from training.data.files import Box, PictureFile, list_files, read_caption_file, read_text
from training.data.source import DataError, Listing, Problem, Split
from training.safe_pickle import SafePickleError, read_safe_pickle

LAYOUT = "expected CUB_200_2011/images.txt, text/ and train/filenames.pickle below it, as training/data/cub.py says"
NAME = r"[\w.-]*\w[\w.-]*/[\w.-]*\w[\w.-]*"

CAPTIONS_PER_CLASS = 10
COMMON = 35.0
"""Percentage of a class's pictures that must show what a caption says."""
SECOND = 0.6
"""A second colour is named if it is at least this common, relative to the first."""

PARTS = {
    "crown": "crown", "wing": "wings", "breast": "breast", "belly": "belly", "back": "back", "throat": "throat",
    "nape": "nape", "under_tail": "tail", "leg": "feet",
}  # fmt: skip
PATTERNED = {"breast": "breast", "belly": "belly", "wing": "wings", "back": "back", "tail": "tail"}
PATTERNS = {"spotted": "spotted", "striped": "striped"}
SIZES = {"very_small": "tiny", "small": "small", "medium": "medium sized", "large": "large", "very_large": "very large"}
BILLS = {
    "curved": "curved", "dagger": "pointed", "hooked": "hooked", "hooked_seabird": "hooked", "needle": "thin",
    "spatulate": "flat", "cone": "cone shaped",
}  # fmt: skip
LENGTHS = {"longer_than_head": "long", "shorter_than_head": "short"}
HEADS = {"crested": "a crest", "eyering": "an eye ring", "eyebrow": "an eyebrow", "masked": "a black mask"}
PLURAL = ("wings", "feet")

Shares = dict[str, dict[str, float]]
"""Percentages by attribute and value: `{"wing_color": {"black": 80.0}}`."""


@dataclass(frozen=True)
class Cub:
    """CUB-200-2011 below `folder`, optionally with captions made of class attributes."""

    folder: Path
    attributes: bool = False

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
        return f"cub{'+attributes' if self.attributes else ''}:{self.folder}"

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
                    if not self.attributes or captions.kind != "no caption":
                        problems.append(captions)
                        continue
                    captions = ()
                files.append(PictureFile(file, captions, f"cub/{name}", box=boxes[name]))
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
        """Gives pictures without captions those of their class, whose pictures then form one group."""
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
        """The first of some files or folders that exists, in CUB_200_2011 or beside it."""
        places = [folder / name for name in names for folder in (self._root, self._root.parent)]
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
            raise DataError(f"the list '{file}' is no list of names CLASS/NAME; use the one that AttnGAN distributes")
        return names


def class_of(item: PictureFile) -> str:
    """The class of a picture: CLASS of its key, `cub/CLASS/NAME`."""
    return item.key.split("/")[1]


def class_captions(names: Sequence[str], shares: Sequence[str], classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Captions by class, from the lines of attributes.txt and class_attribute_labels_continuous.txt.

    Every class always gets the same captions. Raises `DataError` if the lines do not match.
    """
    try:
        attributes = [line.split()[1].removeprefix("has_").split("::") for line in names]
        captions = {}
        for name, line in zip(classes, shares, strict=True):
            table: Shares = {}
            for (attribute, value), share in zip(attributes, line.split(), strict=True):
                table.setdefault(attribute, {})[value.split("_(")[0]] = float(share)
            captions[name] = _write(name, table)
        return captions
    except (ValueError, IndexError):
        raise DataError(
            "CUB's attributes cannot be read: expected a line `NUMBER has_NAME::VALUE` per attribute, and a line of as "
            "many percentages per class in classes.txt; use the files of CUB_200_2011.tgz"
        ) from None


def _write(name: str, shares: Shares) -> tuple[str, ...]:
    """Ten captions of different features in different words, seeded by the class's name."""
    features = _features(shares)
    colours = " and ".join(_most(shares, "primary_color"))
    size = _word(shares, "size", SIZES)
    captions = []
    for number in range(CAPTIONS_PER_CLASS):
        rng = Random(f"{name}/{number}")
        bird = _with_article(rng.choice((size, "")), colours, "bird")
        mentioned = rng.sample(features, min(len(features), rng.choice((2, 2, 3, 4))))
        forms = [f"this is {bird}", bird]
        if mentioned:
            all_of_them = " and ".join(part for part in (", ".join(mentioned[:-1]), mentioned[-1]) if part)
            forms = [f"this bird has {all_of_them}", *(f"{form} with {all_of_them}" for form in forms)]
        captions.append(rng.choice(forms))
    return tuple(captions)


def _features(shares: Shares) -> list[str]:
    """Phrases that can follow "this bird has", one per part."""
    features = []
    for attribute, part in PARTS.items():
        if colours := _most(shares, f"{attribute}_color"):
            features.append(_with_article(" and ".join(colours), part))
    for attribute, part in PATTERNED.items():
        if pattern := _word(shares, f"{attribute}_pattern", PATTERNS):
            features.append(_with_article(pattern, part))
    bill = [_word(shares, "bill_length", LENGTHS), _word(shares, "bill_shape", BILLS), *_most(shares, "bill_color")[:1]]
    if any(bill):
        features.append(_with_article(*bill, "bill"))
    if head := _word(shares, "head_pattern", HEADS):
        features.append(head)
    return features


def _most(shares: Shares, attribute: str) -> list[str]:
    """An attribute's most common value, with the second if nearly as common; empty if none is common."""
    values = shares.get(attribute, {})
    first, *others = sorted(values, key=lambda value: -values[value])[:2] or [""]
    if values.get(first, 0) < COMMON:
        return []
    return [first, *(other for other in others if values[other] >= max(COMMON, SECOND * values[first]))]


def _word(shares: Shares, attribute: str, words: dict[str, str]) -> str:
    """The word for an attribute's most common value; empty if there is none."""
    return words.get(next(iter(_most(shares, attribute)), ""), "")


def _with_article(*words: str) -> str:
    phrase = " ".join(word for word in words if word)
    return phrase if words[-1] in PLURAL else f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _lines(file: Path) -> list[str]:
    return read_text(file, LAYOUT).splitlines()
