"""What is to be seen in a picture: drawn from the picture's key, and true of the finished picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar, get_args

from training.data.synthbirds.anatomy import Stance
from training.data.synthbirds.colours import COLOURS, Colour
from training.data.synthbirds.kinds import Setting

Part = Literal["crown", "face", "back", "wings", "breast", "belly", "tail", "bill", "legs"]
Facing = Literal["left", "right"]
Pattern = Literal["plain", "streaked", "spotted"]
Item = TypeVar("Item")

PARTS: tuple[Part, ...] = get_args(Part)
FEATHERED: tuple[Part, ...] = ("crown", "face", "back", "wings", "breast", "belly", "tail")

# Which parts take the first and the second accent; all others show the main colour. Weights as birds are, roughly.
_SCHEMES: tuple[tuple[float, tuple[Part, ...], tuple[Part, ...]], ...] = (
    (3.0, (), ()),
    (2.0, ("wings", "tail"), ()),
    (1.2, ("wings",), ()),
    (1.2, ("crown", "face"), ()),
    (1.2, ("crown",), ()),
    (1.0, ("belly",), ()),
    (1.0, ("breast",), ()),
    (1.0, ("breast", "belly"), ()),
    (1.2, ("face", "breast", "belly"), ()),
    (0.5, ("tail",), ()),
    (1.0, ("wings", "tail"), ("crown",)),
    (1.0, ("wings", "tail"), ("belly",)),
    (0.8, ("wings",), ("breast", "belly")),
    (0.8, ("crown", "face"), ("breast",)),
    (0.8, ("belly",), ("breast",)),
    (0.7, ("wings", "tail", "crown"), ()),
    (0.6, ("crown", "face"), ("wings", "tail")),
)
_ACCENTS: dict[Colour, float] = {
    "black": 2.2,
    "white": 2.4,
    "grey": 1.5,
    "brown": 1.4,
    "red": 1.5,
    "orange": 1.1,
    "yellow": 1.6,
    "green": 0.9,
    "blue": 1.2,
    "purple": 0.7,
    "pink": 0.7,
}
_BILLS: dict[Colour, float] = {
    "black": 3.0,
    "white": 0.3,
    "grey": 1.6,
    "brown": 0.8,
    "red": 1.2,
    "orange": 1.9,
    "yellow": 1.9,
    "green": 0.2,
    "blue": 0.3,
    "purple": 0.1,
    "pink": 0.5,
}
_LEGS: dict[Colour, float] = {
    "black": 2.0,
    "grey": 1.5,
    "brown": 1.2,
    "orange": 2.0,
    "yellow": 1.5,
    "pink": 1.0,
    "red": 0.8,
}
# Neighbours that shading brings close together: rarely side by side, so that a caption's colours can be told apart.
_CLOSE: frozenset[frozenset[Colour]] = frozenset(
    frozenset(pair)
    for pair in (
        ("red", "orange"),
        ("orange", "yellow"),
        ("orange", "brown"),
        ("red", "pink"),
        ("pink", "purple"),
        ("blue", "purple"),
        ("red", "brown"),
    )
)


@dataclass(frozen=True)
class Attributes:
    """What a picture shows. `areas` are the visible parts' shares of the whole picture, measured on its part map.

    Parts that cannot be seen (a swimming duck's legs) have the area 0. `main_colour` is the colour with the largest
    area on the bird.
    """

    kind: str
    stance: Stance
    setting: Setting
    facing: Facing
    colours: Mapping[Part, Colour]
    areas: Mapping[Part, float]
    main_colour: Colour
    wing_bars: Colour | None
    eye_ring: Colour | None
    crest: bool
    pattern: Pattern

    def area_of(self, colour: Colour) -> float:
        """The share of the picture that the bird covers in this colour."""
        return sum(area for part, area in self.areas.items() if self.colours[part] == colour)


def weighted(choices: Mapping[Item, float], rng: Random) -> Item:
    """Draws one key with a probability proportional to its value."""
    mark = rng.random() * sum(choices.values())
    for item, weight in choices.items():
        mark -= weight
        if mark < 0:
            return item
    return item


def pick(items: Sequence[Item], rng: Random) -> Item:
    """Draws one item."""
    return items[int(rng.random() * len(items))]


def colour_bird(areas: Mapping[Part, float], rng: Random) -> dict[Part, Colour]:
    """Colours every part. A main colour, drawn evenly, covers the largest area; up to two accents follow a scheme."""
    main = pick(COLOURS, rng)
    first = _accent({main}, rng)
    second = _accent({main, first}, rng)
    _, first_parts, second_parts = _SCHEMES[weighted({i: scheme[0] for i, scheme in enumerate(_SCHEMES)}, rng)]
    colours: dict[Part, Colour] = dict.fromkeys(PARTS, main)
    colours.update(dict.fromkeys(first_parts, first))
    colours.update(dict.fromkeys(second_parts, second))
    covered = {
        colour: sum(areas[part] for part in FEATHERED if colours[part] == colour) for colour in (main, first, second)
    }
    largest = max(covered, key=lambda colour: covered[colour])
    swap = {main: largest, largest: main}
    colours = {part: swap.get(colour, colour) for part, colour in colours.items()}
    colours["bill"] = weighted({c: w for c, w in _BILLS.items() if c != colours["face"] or c in ("black", "grey")}, rng)
    colours["legs"] = weighted(_LEGS, rng)
    return colours


def _accent(taken: set[Colour], rng: Random) -> Colour:
    def weight(colour: Colour) -> float:
        close = any(frozenset((colour, other)) in _CLOSE for other in taken)
        return _ACCENTS[colour] * (0.15 if close else 1.0)

    return weighted({colour: weight(colour) for colour in COLOURS if colour not in taken}, rng)


def main_colour(colours: Mapping[Part, Colour], areas: Mapping[Part, float]) -> Colour:
    """The colour with the largest area; the first of the eleven where two are equal."""
    return max(COLOURS, key=lambda colour: sum(area for part, area in areas.items() if colours[part] == colour))


def mark_bird(
    colours: Mapping[Part, Colour], areas: Mapping[Part, float], speckled: float, rng: Random
) -> tuple[Colour | None, Colour | None, Pattern]:
    """Decides on wing bars, an eye ring and the pattern of the underside; each only where it stands out.

    Bars take up to a quarter of a wing, streaks and spots up to a third of the underside: there are none where that
    could take its place from the main colour.
    """
    bars = _mark(colours["wings"], rng) if rng.random() < 0.3 else None
    ring = _mark(colours["face"], rng) if rng.random() < 0.2 else None
    pattern: Pattern = pick(("streaked", "spotted"), rng) if rng.random() < speckled else "plain"
    left: dict[Part, float] = {"wings": 0.75}
    if bars and (areas["wings"] < 0.03 or not _main_stays(colours, areas, left)):
        bars = None
    left = {"breast": 0.67, "belly": 0.67, **(left if bars else {})}
    one_ground = colours["breast"] == colours["belly"] != "black"
    if pattern != "plain" and not (one_ground and areas["breast"] > 0.01 and _main_stays(colours, areas, left)):
        pattern = "plain"
    return bars, ring, pattern


def _main_stays(colours: Mapping[Part, Colour], areas: Mapping[Part, float], left: Mapping[Part, float]) -> bool:
    """Whether the main colour still leads where its parts keep only the share `left` of their areas."""
    main = main_colour(colours, areas)
    smaller = {part: area * (left.get(part, 1.0) if colours[part] == main else 1.0) for part, area in areas.items()}
    return main_colour(colours, smaller) == main


def _mark(ground: Colour, rng: Random) -> Colour:
    """A colour for a small mark on the ground colour: white or yellow where that is dark, else black."""
    if ground in ("white", "yellow", "pink", "orange"):
        return "black"
    if ground == "grey":
        return pick(("black", "white"), rng)
    return pick(("white", "white", "white", "yellow"), rng)
