"""What lies behind and before a bird in each setting, and what falls."""

from collections.abc import Callable

from PIL import Image, ImageDraw

from training.data.synthbirds.attributes import Weather
from training.data.synthbirds.colours import blend
from training.data.synthbirds.kinds import Setting
from training.data.synthbirds.perches import branch, fence, nest, rock, trunk
from training.data.synthbirds.site import SNOW, Site
from training.data.synthbirds.terrain import beach, blades, blossoms, flower, snowfield, water

Paints = Callable[[Site, Image.Image], None]


def draw_behind(site: Site, canvas: Image.Image) -> None:
    """Draws what lies behind the bird."""
    if site.setting in _BEHIND:
        _BEHIND[site.setting](site, canvas)


def draw_before(site: Site, canvas: Image.Image) -> None:
    """Draws what stands before the bird, and what falls."""
    if site.setting in _BEFORE:
        _BEFORE[site.setting](site, canvas)
    if site.weather in _FALLING:
        _FALLING[site.weather](site, canvas)


def _grass_behind(site: Site, canvas: Image.Image) -> None:
    blades(site, canvas, -16.0, 3.0, 46, 0.35)


def _grass_before(site: Site, canvas: Image.Image) -> None:
    blades(site, canvas, -5.5, 9.0, 60, 0.0)


def _meadow_behind(site: Site, canvas: Image.Image) -> None:
    _grass_behind(site, canvas)
    blossoms(site, canvas, 13, -17.0, -6.0)


def _meadow_before(site: Site, canvas: Image.Image) -> None:
    _grass_before(site, canvas)
    blossoms(site, canvas, 8, -1.0, 10.0)


def _flakes(site: Site, canvas: Image.Image) -> None:
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(site.between(12, 30))):
        x, y, r = (
            site.between(0, 100) * site.scale,
            site.between(0, 100) * site.scale,
            site.between(0.4, 0.9) * site.scale,
        )
        draw.ellipse((x - r, y - r, x + r, y + r), fill=SNOW)


def _rain(site: Site, canvas: Image.Image) -> None:
    draw, tone = ImageDraw.Draw(canvas), blend(site.wash[0], (250, 252, 255), 0.6)
    slant, width = site.between(-1.6, 1.6), max(1, round(0.3 * site.scale))
    for _ in range(54):
        x, y, length = site.between(0, 100), site.between(-6, 100), site.between(4, 8)
        draw.line([v * site.scale for v in (x, y, x + slant, y + length)], fill=tone, width=width)


_BEHIND: dict[Setting, Paints] = {
    "branch": branch,
    "nest": branch,
    "fence": fence,
    "trunk": trunk,
    "rock": rock,
    "snow": snowfield,
    "ice": snowfield,
    "beach": beach,
    "grass": _grass_behind,
    "meadow": _meadow_behind,
    "flower": flower,
}
_BEFORE: dict[Setting, Paints] = {
    "grass": _grass_before,
    "meadow": _meadow_before,
    "water": water,
    "nest": nest,
}
_FALLING: dict[Weather, Paints] = {"snow": _flakes, "rain": _rain}
