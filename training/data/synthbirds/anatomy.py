"""What a silhouette consists of. The silhouettes themselves, one entry each, are in `silhouettes/`.

All birds are described facing right, in units of which the picture has 100 per side.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from training.data.synthbirds.colours import Colour
from training.data.synthbirds.geometry import Point, Points

Stance = Literal["perched", "standing", "clinging", "swimming", "flying", "hovering"]
Part = Literal["crown", "face", "back", "wings", "breast", "belly", "tail", "bill", "legs"]


@dataclass(frozen=True)
class Row:
    """One row of equal feathers: `count` of them, from share `start` to share `end` of the fan's length."""

    count: int
    start: float
    end: float


FOLDED = (Row(8, 0.30, 1.0), Row(7, 0.16, 0.56), Row(6, 0.06, 0.38), Row(5, -0.04, 0.22))
SPREAD = (Row(15, 0.25, 1.0), Row(13, 0.12, 0.52), Row(11, 0.02, 0.30))
FINGERED = (Row(8, 0.25, 1.0), Row(10, 0.12, 0.52), Row(9, 0.02, 0.30))
FLIPPER = (Row(3, 0.0, 1.0),)
TAIL = (Row(6, 0.0, 1.0),)


@dataclass(frozen=True)
class Fan:
    """Feathers that run from the curve `root` to the curve `tip`, in rows that overlap like tiles: a wing or a tail.

    Both curves share one parameter, so a feather joins points at equal shares of them; the first feathers lie on top.
    `bulge` bends the last feathers outwards (units). `eyespots` are a peacock's, one near the tip of each feather.
    """

    root: Points
    tip: Points
    rows: tuple[Row, ...] = FOLDED
    bulge: Point = (0.0, 0.0)
    eyespots: bool = False


@dataclass(frozen=True)
class Bill:
    """Both mandibles as outlines; the upper one is drawn over the lower one."""

    upper: Points
    lower: Points


@dataclass(frozen=True)
class Eye:
    """An eye's centre and radius."""

    centre: Point
    radius: float


@dataclass(frozen=True)
class Ornament:
    """A detail such as a comb or a bill's tip, which has one colour in every bird of a kind; too small to mention."""

    shape: Points
    colour: Colour


@dataclass(frozen=True)
class Silhouette:
    """A bird in one stance.

    `body` is a single outline of head, neck and trunk. The regions lie over it in the order belly, breast, face, crown
    and may reach beyond it, as they are clipped to it; what none covers is the back. `spine` leads from the forehead to
    the tail and gives the small feathers their direction. Each leg runs from the body to the ground through its joints.
    A `stern` bird has a brow over its eye. `ornaments` are painted last.
    """

    stance: Stance
    body: Points
    crown: Points
    face: Points
    breast: Points
    belly: Points
    spine: Points
    wing: Fan
    tail: Fan
    bill: Bill
    eyes: tuple[Eye, ...]
    stern: bool = False
    legs: tuple[Points, ...] = ()
    leg_width: float = 1.3
    crest: Points = ()
    ornaments: tuple[Ornament, ...] = ()
    far_wing: Fan | None = None
    waterline: float = 100.0


@lru_cache
def beating(bird: Silhouette, lift: float) -> Silhouette:
    """The same bird with its wings at another point of their beat: `lift` scales their height above the shoulder."""

    def moved(fan: Fan) -> Fan:
        level = fan.root[0][1]

        def curve(points: Points) -> Points:
            return tuple((x, level + (y - level) * lift if y < level else y) for x, y in points)

        return replace(fan, root=curve(fan.root), tip=curve(fan.tip))

    return replace(bird, wing=moved(bird.wing), far_wing=moved(bird.far_wing) if bird.far_wing else None)
