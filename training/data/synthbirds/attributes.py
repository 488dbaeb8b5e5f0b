"""What a picture shows: drawn from the picture's key, and true of the finished picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar, get_args

from training.data.synthbirds.anatomy import Part, Stance
from training.data.synthbirds.colours import COLOURS, Colour
from training.data.synthbirds.kinds import Kind, Setting

Facing = Literal["left", "right"]
Pattern = Literal["plain", "streaked", "spotted"]
Weather = Literal["clear", "rain", "snow", "sunset", "night"]
Size = Literal["small", "large"]
Item = TypeVar("Item")

PARTS: tuple[Part, ...] = get_args(Part)
FEATHERED: tuple[Part, ...] = ("crown", "face", "back", "wings", "breast", "belly", "tail")

# Rates. A plain bird is what "a yellow bird" should mean, and a kind's best-known plumage is what a field guide shows.
NATURAL = 0.25
PLAIN = 0.45
WING_BARS = 0.1
EYE_RING = 0.12
MARKS_OF_PLAIN = 0.3  # share of these and of the patterns that a bird of a single colour keeps
SMALL = 0.15
# How far the main colour is ahead of the next: if areas are nearly equal, nobody could say which one it is.
LEAD = 1.3

# Which parts take the first and the second accent; all others show the main colour. Weights are roughly as in birds.
_SCHEMES: tuple[tuple[float, tuple[Part, ...], tuple[Part, ...]], ...] = (
    (1.5, ("wings", "tail"), ()),
    (2.2, ("wings",), ()),
    (1.2, ("crown", "face"), ()),
    (1.6, ("crown",), ()),
    (2.2, ("belly",), ()),
    (1.6, ("breast",), ()),
    (1.2, ("breast", "belly"), ()),
    (0.8, ("face", "breast", "belly"), ()),
    (0.8, ("face",), ()),
    (1.2, ("tail",), ()),
    (0.8, ("wings", "tail"), ("crown",)),
    (0.8, ("wings", "tail"), ("belly",)),
    (0.8, ("wings",), ("belly",)),
    (0.6, ("wings",), ("breast", "belly")),
    (0.8, ("crown", "face"), ("breast",)),
    (0.8, ("belly",), ("breast",)),
    (0.5, ("wings", "tail", "crown"), ()),
    (0.6, ("crown", "face"), ("wings", "tail")),
)
# Which weather is seen where; "snow" lies on the ground and falls.
_WEATHER: dict[Weather, float] = {"clear": 7.2, "rain": 0.6, "snow": 0.7, "sunset": 0.8, "night": 0.8}
_SNOWLESS: frozenset[Setting] = frozenset(("nest", "grass", "meadow", "flower", "beach", "water"))
# Colours that accents and well-known birds favour are a little rarer here, so that all colours are the main colour
# about equally often.
_MAINS: dict[Colour, float] = {
    "black": 0.5,
    "white": 0.7,
    "grey": 0.75,
    "brown": 0.55,
    "red": 1.2,
    "orange": 1.5,
    "yellow": 1.1,
    "green": 0.9,
    "blue": 1.0,
    "purple": 1.3,
    "pink": 1.15,
}
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
    weather: Weather
    size: Size
    facing: Facing
    colours: Mapping[Part, Colour]
    areas: Mapping[Part, float]
    main_colour: Colour
    wing_bars: Colour | None
    eye_ring: Colour | None
    crest: bool
    pattern: Pattern

    @property
    def plain(self) -> bool:
        """Whether all feathers that are seen have one colour."""
        colours = {self.colours[part] for part in FEATHERED if self.areas[part] > 0}
        return len(colours) == 1 and self.wing_bars is None and self.pattern == "plain"

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


def draw_weather(setting: Setting, rng: Random) -> Weather:
    """Draws the weather, which includes the light: a bird that stands on snow is seen in snow."""
    if setting == "snow":
        return "snow"
    possible = {name: share for name, share in _WEATHER.items() if name != "snow" or setting not in _SNOWLESS}
    return weighted(possible, rng)


def colour_bird(kind: Kind, areas: Mapping[Part, float], rng: Random) -> dict[Part, Colour]:
    """Colours every part: sometimes with the kind's best-known plumage, otherwise at random.

    The main colour is ahead of all others by LEAD; up to two accents follow a scheme.
    """
    plumages = [_natural(kind, rng)] if rng.random() < NATURAL else []
    if rng.random() >= PLAIN:
        plumages += [_accented(areas, rng) for _ in range(3)]
    plumages.append(_painted(dict.fromkeys(PARTS, weighted(_MAINS, rng)), rng))
    return next(colours for colours in plumages if _lead(colours, areas) >= LEAD)


def _natural(kind: Kind, rng: Random) -> dict[Part, Colour]:
    colours: dict[Part, Colour] = dict.fromkeys(PARTS, kind.natural["back"])
    return _painted(colours, rng) | dict(kind.natural)


def _accented(areas: Mapping[Part, float], rng: Random) -> dict[Part, Colour]:
    main = weighted(_MAINS, rng)
    first = _accent({main}, rng)
    second = _accent({main, first}, rng)
    _, first_parts, second_parts = _SCHEMES[weighted({i: scheme[0] for i, scheme in enumerate(_SCHEMES)}, rng)]
    colours: dict[Part, Colour] = dict.fromkeys(PARTS, main)
    colours.update(dict.fromkeys(first_parts, first))
    colours.update(dict.fromkeys(second_parts, second))
    covered = _covered(colours, areas)
    largest = max(covered, key=lambda colour: covered[colour])
    swap = {main: largest, largest: main}
    return _painted({part: swap.get(colour, colour) for part, colour in colours.items()}, rng)


def _painted(colours: dict[Part, Colour], rng: Random) -> dict[Part, Colour]:
    """Adds bill and legs, which have colours of their own."""
    bills = {c: w for c, w in _BILLS.items() if c != colours["face"] or c in ("black", "grey")}
    return colours | {"bill": weighted(bills, rng), "legs": weighted(_LEGS, rng)}


def _covered(colours: Mapping[Part, Colour], areas: Mapping[Part, float]) -> dict[Colour, float]:
    """What the feathers cover in each of their colours."""
    covered = dict.fromkeys((colours[part] for part in FEATHERED), 0.0)
    for part in FEATHERED:
        covered[colours[part]] += areas[part]
    return covered


def _lead(colours: Mapping[Part, Colour], areas: Mapping[Part, float]) -> float:
    """The main colour's area over that of the next colour, bill and legs included."""
    covered = sorted(sum(areas[part] for part in PARTS if colours[part] == colour) for colour in set(colours.values()))
    return covered[-1] / max(covered[-2], 1e-9) if len(covered) > 1 else float("inf")


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
    one_colour = len({colours[part] for part in FEATHERED if areas[part] > 0}) == 1
    rate = MARKS_OF_PLAIN if one_colour else 1.0
    bars = _mark(colours["wings"], rng) if rng.random() < WING_BARS * rate else None
    ring = _mark(colours["face"], rng) if rng.random() < EYE_RING * rate else None
    pattern: Pattern = pick(("streaked", "spotted"), rng) if rng.random() < speckled * rate else "plain"
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
    return main_colour(colours, smaller) == main and _lead(colours, smaller) >= LEAD


def _mark(ground: Colour, rng: Random) -> Colour:
    """A colour for a small mark on the ground colour: white or yellow where that is dark, else black."""
    if ground in ("white", "yellow", "pink", "orange"):
        return "black"
    if ground == "grey":
        return pick(("black", "white"), rng)
    return pick(("white", "white", "white", "yellow"), rng)
