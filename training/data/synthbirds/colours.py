"""The eleven basic colours (Berlin and Kay) as paint: each has natural variants and a shade of its own hue."""

from random import Random
from typing import Literal, NamedTuple, get_args

Colour = Literal["black", "white", "grey", "brown", "red", "orange", "yellow", "green", "blue", "purple", "pink"]
Rgb = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = get_args(Colour)


class Paint(NamedTuple):
    """A colour as it is laid on: `body` in plain light, `shade` turned away from it, `light` where it shines."""

    body: Rgb
    shade: Rgb
    light: Rgb


# Two to three variants of (body, shade) each; a picture takes a point between two neighbours, so that hues vary without
# gaps and every mixture is still called by the same name. Shades lean to a neighbouring hue, as in painting.
_VARIANTS: dict[Colour, tuple[tuple[Rgb, Rgb], ...]] = {
    "black": (((34, 35, 40), (8, 8, 12)), ((48, 47, 50), (14, 13, 16)), ((32, 38, 50), (6, 8, 16))),
    "white": (
        ((248, 247, 242), (158, 164, 178)),
        ((250, 246, 236), (172, 162, 150)),
        ((240, 244, 248), (148, 162, 182)),
    ),
    "grey": (((142, 146, 152), (76, 80, 90)), ((120, 126, 134), (62, 66, 76)), ((158, 156, 152), (88, 85, 84))),
    "brown": (((136, 88, 50), (70, 42, 26)), ((112, 70, 42), (56, 34, 24)), ((150, 102, 62), (82, 52, 32))),
    "red": (((208, 36, 34), (118, 12, 26)), ((190, 26, 40), (104, 8, 30)), ((222, 48, 32), (132, 18, 20))),
    "orange": (((244, 136, 26), (188, 78, 10)), ((238, 120, 20), (178, 66, 10)), ((250, 150, 44), (200, 92, 16))),
    "yellow": (((250, 214, 36), (200, 146, 14)), ((246, 222, 70), (196, 158, 28)), ((252, 204, 24), (204, 138, 8))),
    "green": (((70, 150, 58), (24, 82, 42)), ((104, 166, 52), (46, 98, 30)), ((42, 134, 78), (14, 72, 52))),
    "blue": (((44, 108, 206), (18, 46, 122)), ((72, 146, 222), (28, 76, 150)), ((36, 82, 178), (14, 34, 104))),
    "purple": (((128, 62, 168), (66, 24, 98)), ((112, 50, 150), (54, 18, 86)), ((150, 88, 190), (82, 40, 120))),
    "pink": (((246, 148, 180), (196, 84, 126)), ((242, 128, 168), (188, 66, 114)), ((250, 170, 190), (204, 104, 136))),
}

_SHINE = {"black": 0.26, "white": 0.9}


def blend(first: Rgb, second: Rgb, share: float) -> Rgb:
    """The colour at `share` of the way from the first to the second."""
    return (
        round(first[0] + (second[0] - first[0]) * share),
        round(first[1] + (second[1] - first[1]) * share),
        round(first[2] + (second[2] - first[2]) * share),
    )


def mix_paint(colour: Colour, rng: Random) -> Paint:
    """Draws one natural variant of a colour."""
    variants = _VARIANTS[colour]
    first = int(rng.random() * len(variants))
    other = variants[(first + 1) % len(variants)]
    share = rng.random()
    body = blend(variants[first][0], other[0], share)
    return Paint(
        body, blend(variants[first][1], other[1], share), blend(body, (255, 252, 240), _SHINE.get(colour, 0.5))
    )


def deepened(paint: Paint, share: float) -> Paint:
    """The same paint nearer to its shade, as flight feathers are darker than the coverts over them."""
    return Paint(blend(paint.body, paint.shade, share), paint.shade, blend(paint.light, paint.body, share))
