"""Captions for a class of CUB-200-2011 from the shares of its pictures that show each attribute.

They are the same for every picture of the class and always the same words; what most pictures of a class do not show is
not said.
"""

from collections.abc import Sequence
from random import Random

from training.data.source import DataError

CAPTIONS_A_CLASS = 10
COMMON = 35.0
"""Percent of a class's pictures that must show what a caption says."""
SECOND = 0.6
"""How common a second colour must be, compared with the first, to be named with it."""

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
"""Percent by attribute and value: `{"wing_color": {"black": 80.0}}`."""


def class_captions(names: Sequence[str], shares: Sequence[str], classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Captions by class, from the lines of attributes.txt and class_attribute_labels_continuous.txt.

    Raises `DataError` where the lines do not belong together.
    """
    try:
        attributes = [line.split()[1].removeprefix("has_").split("::") for line in names]
        rows = [[float(share) for share in line.split()] for line in shares]
        tables: list[Shares] = []
        for row in rows:
            table: Shares = {}
            for (attribute, value), share in zip(attributes, row, strict=True):
                table.setdefault(attribute, {})[value.split("_(")[0]] = share
            tables.append(table)
        return {name: _write(name, table) for name, table in zip(classes, tables, strict=True)}
    except (ValueError, IndexError):
        raise DataError(
            "CUB's attributes cannot be read: expected a line `NUMBER has_NAME::VALUE` for each attribute, and a line "
            "with as many percentages for each class in classes.txt; take the files of CUB_200_2011.tgz"
        ) from None


def _write(name: str, shares: Shares) -> tuple[str, ...]:
    """Ten captions, each of other features in other words; the class's name is their seed."""
    features = _features(shares)
    colours = " and ".join(_most(shares.get("primary_color", {})))
    size = _most_in_words(shares.get("size", {}), SIZES)
    captions = []
    for number in range(CAPTIONS_A_CLASS):
        rng = Random(f"{name}/{number}")
        bird = " ".join(word for word in (rng.choice((size, "")), colours, "bird") if word)
        bird = f"{'an' if bird[0] in 'aeiou' else 'a'} {bird}"
        told = _listed(rng.sample(features, min(len(features), rng.choice((2, 2, 3, 4)))))
        if told:
            captions.append(rng.choice((f"this bird has {told}", f"this is {bird} with {told}", f"{bird} with {told}")))
        else:
            captions.append(rng.choice((f"this is {bird}", bird)))
    return tuple(captions)


def _features(shares: Shares) -> list[str]:
    """What can be said after "this bird has": a phrase for each part."""
    features = []
    for attribute, part in PARTS.items():
        colours = _most(shares.get(f"{attribute}_color", {}))
        if colours:
            features.append(_with_article(f"{' and '.join(colours)} {part}", part))
    for attribute, part in PATTERNED.items():
        pattern = _most_in_words(shares.get(f"{attribute}_pattern", {}), PATTERNS)
        if pattern:
            features.append(_with_article(f"{pattern} {part}", part))
    bill = [
        _most_in_words(shares.get("bill_length", {}), LENGTHS),
        _most_in_words(shares.get("bill_shape", {}), BILLS),
        *_most(shares.get("bill_color", {}))[:1],
    ]
    if any(bill):
        features.append(_with_article(" ".join(word for word in [*bill, "bill"] if word), "bill"))
    if head := _most_in_words(shares.get("head_pattern", {}), HEADS):
        features.append(head)
    return features


def _most(shares: dict[str, float]) -> list[str]:
    """The most common value, and the second where it is nearly as common; none where none is common."""
    first, *others = sorted(shares, key=lambda value: -shares[value])[:2] or [""]
    if shares.get(first, 0) < COMMON:
        return []
    return [first, *(other for other in others if shares[other] >= max(COMMON, SECOND * shares[first]))]


def _most_in_words(shares: dict[str, float], words: dict[str, str]) -> str:
    """The word for the most common value; empty where there is none for it."""
    return words.get(next(iter(_most(shares)), ""), "")


def _with_article(phrase: str, part: str) -> str:
    return phrase if part in PLURAL else f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _listed(phrases: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(phrases[:-1]), *phrases[-1:]) if part)
