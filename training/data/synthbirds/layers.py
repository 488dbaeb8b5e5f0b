"""The layers a bird is painted in: paint in plain light, paint in shade, relief and coverage, joined at the end."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from training.data.synthbirds.colours import Paint, Rgb
from training.data.synthbirds.geometry import Array

FLAT = 128  # the relief of a surface in plain light; darker values lie in shade, lighter ones shine


class Layers:
    """Four pictures: `body` and `shade` (RGB), `relief` and `cover` (grey).

    They hold only a section of the picture, the one with the bird: `size` pixels from the point `corner` (units), at
    `scale` pixels a unit.
    """

    def __init__(self, corner: Array, size: tuple[int, int], scale: float) -> None:
        self.corner = corner
        self.size = size
        self.scale = scale
        self.body = Image.new("RGB", size)
        self.shade = Image.new("RGB", size)
        self.relief = Image.new("L", size, FLAT)
        self.cover = Image.new("L", size)
        self._draws = [ImageDraw.Draw(layer) for layer in (self.body, self.shade, self.relief, self.cover)]

    def reduced(self, factor: int) -> "Layers":
        """Empty layers of the same section with fewer pixels."""
        width, height = self.size
        return Layers(self.corner, (width // factor, height // factor), self.scale / factor)

    def _inks(self, paint: Paint, relief: int) -> Iterator[tuple[ImageDraw.ImageDraw, Rgb | int]]:
        """Each layer's pen with what it writes."""
        inks: tuple[Rgb | int, ...] = (paint.body, paint.shade, relief, 255)
        return zip(self._draws, inks, strict=True)

    def pixels(self, points: Array) -> list[float]:
        """Points (units of the whole picture) as the flat list of pixel coordinates that Pillow takes."""
        flat: list[float] = ((points - self.corner) * self.scale).ravel().tolist()
        return flat

    def mask(self, points: Array) -> Image.Image:
        """A grey picture that is 255 inside the outline."""
        mask = Image.new("L", self.size)
        ImageDraw.Draw(mask).polygon(self.pixels(points), fill=255)
        return mask

    def soften(self, picture: Image.Image, radius: float) -> Image.Image:
        """Blurs by a radius in units; wide blurs are made small and enlarged, which costs less and looks the same."""
        factor = max(1, int(radius * self.scale / 0.9))
        small = picture.reduce(factor) if factor > 1 else picture
        blurred = small.filter(ImageFilter.GaussianBlur(radius * self.scale / factor))
        return blurred.resize(picture.size, Image.Resampling.BILINEAR) if factor > 1 else blurred

    def fill(self, points: Array, paint: Paint, relief: int = FLAT) -> None:
        """Paints the inside of an outline."""
        flat = self.pixels(points)
        for draw, value in self._inks(paint, relief):
            draw.polygon(flat, fill=value)

    def line(self, points: Array, paint: Paint, width: float, relief: int = FLAT) -> None:
        """Paints a line of a width in units."""
        flat, pixels = self.pixels(points), max(1, round(width * self.scale))
        for draw, value in self._inks(paint, relief):
            draw.line(flat, fill=value, width=pixels, joint="curve")

    def disc(self, centre: Array, radius: float, paint: Paint, relief: int = FLAT) -> None:
        """Paints a disc."""
        (x, y), r = self.pixels(centre), radius * self.scale
        for draw, value in self._inks(paint, relief):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=value)

    def emboss(self, lines: Iterable[Array], relief: int, width: float) -> None:
        """Draws lines into the relief alone."""
        pixels = max(1, round(width * self.scale))
        for line in lines:
            self._draws[2].line(self.pixels(line), fill=relief, width=pixels)

    def stain(self, mask: Image.Image, body: Image.Image, shade: Image.Image) -> None:
        """Lays paint on what is there already, through a mask."""
        self.body.paste(body, mask=mask)
        self.shade.paste(shade, mask=mask)
        self.cover = ImageChops.lighter(self.cover, mask)
        self._draws[3] = ImageDraw.Draw(self.cover)

    def press(self, mask: Image.Image, relief: int) -> None:
        """Moves the relief towards a value, through a mask."""
        self.relief.paste(relief, mask=mask)

    def form(self, trunk: Image.Image, wing: Image.Image) -> Image.Image:
        """The light that falls from above on a round body with a wing upon it, as a relief."""
        factor = max(1, round(0.8 * self.scale))
        heights = (
            _height(self.cover, factor, 1.3 * self.scale) * 0.8
            + _height(wing, factor, 1.6 * self.scale) * 0.45
            + _height(trunk, factor, 5.0 * self.scale) * 1.9
        )
        slope = np.zeros_like(heights)
        slope[1:-1] = heights[2:] - heights[:-2]
        light = FLAT + np.clip(np.where(slope < 0, slope * 0.85, slope * 0.55), -84, 60)
        return Image.fromarray(light.astype(np.uint8)).resize(self.size, Image.Resampling.BILINEAR)

    def render(self, form: Image.Image) -> Image.Image:
        """Joins the layers and the relief of the whole bird to an RGB picture."""
        box = self.cover.getbbox() or (0, 0, 1, 1)

        def values(layer: Image.Image) -> NDArray[np.float32]:
            return np.asarray(layer.crop(box), dtype=np.float32)

        light = (values(self.relief) + values(form) - np.float32(2 * FLAT)) * np.float32(1 / FLAT)
        colour = values(self.body)
        colour += (values(self.shade) - colour) * np.clip(-light, 0, 1)[..., None]
        colour += (np.float32(255) - colour) * np.clip(light * np.float32(0.72), 0, 0.75)[..., None]
        picture = Image.new("RGB", self.size)
        picture.paste(Image.fromarray((colour + np.float32(0.5)).astype(np.uint8)), box)
        return picture


def _height(mask: Image.Image, factor: int, radius: float) -> NDArray[np.float32]:
    """A mask as a rounded hill, reduced by a factor."""
    blurred = mask.reduce(factor).filter(ImageFilter.GaussianBlur(radius / factor))
    return np.asarray(blurred, dtype=np.float32)
