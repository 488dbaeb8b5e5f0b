"""Where the bird is: a soft background, what it rests on, and what stands before it."""

from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.data.synthbirds.attributes import Weather
from training.data.synthbirds.colours import Rgb, blend
from training.data.synthbirds.kinds import Setting

# Each setting has washes: colours at the top, in the middle and at the bottom; the first are the dark ones.
_WASHES: dict[Setting, tuple[tuple[Rgb, Rgb, Rgb], ...]] = {
    "branch": (
        ((98, 124, 92), (112, 138, 96), (84, 108, 78)), ((122, 140, 112), (140, 152, 118), (108, 126, 98)),
        ((186, 204, 176), (204, 214, 178), (176, 194, 160)), ((206, 214, 196), (222, 220, 190), (196, 204, 172)),
    ),
    "trunk": (
        ((92, 110, 92), (106, 122, 96), (80, 98, 80)), ((124, 134, 120), (136, 142, 118), (112, 120, 100)),
        ((188, 204, 184), (206, 212, 186), (180, 192, 166)), ((214, 214, 200), (224, 218, 194), (200, 198, 174)),
    ),
    "flower": (
        ((86, 128, 110), (100, 140, 108), (80, 116, 90)), ((120, 142, 122), (134, 154, 122), (104, 128, 100)),
        ((190, 216, 192), (206, 220, 190), (180, 204, 172)), ((210, 222, 206), (220, 226, 196), (196, 210, 180)),
    ),
    "grass": (
        ((120, 150, 150), (130, 152, 110), (92, 126, 66)), ((142, 160, 150), (142, 160, 110), (104, 134, 70)),
        ((206, 224, 222), (202, 218, 168), (160, 188, 110)), ((222, 226, 208), (212, 220, 170), (170, 192, 118)),
    ),
    "water": (
        ((110, 140, 150), (92, 128, 144), (62, 100, 122)), ((130, 150, 146), (104, 136, 142), (76, 112, 126)),
        ((206, 222, 222), (176, 206, 214), (136, 180, 198)), ((226, 222, 206), (190, 208, 206), (150, 186, 194)),
    ),
    "snow": (
        ((134, 152, 176), (158, 174, 196), (206, 216, 230)), ((120, 140, 160), (150, 166, 184), (200, 212, 226)),
        ((188, 204, 222), (210, 222, 234), (238, 243, 249)), ((204, 208, 220), (220, 224, 234), (240, 243, 248)),
    ),
    "sky": (
        ((72, 122, 176), (104, 150, 194), (146, 182, 210)), ((90, 120, 152), (124, 152, 178), (166, 188, 202)),
        ((150, 196, 232), (184, 216, 240), (220, 234, 244)), ((176, 200, 226), (206, 218, 232), (238, 228, 214)),
    ),
    "beach": (
        ((96, 140, 176), (110, 150, 170), (176, 150, 108)), ((112, 136, 160), (128, 150, 160), (166, 144, 112)),
        ((178, 214, 236), (176, 212, 222), (232, 212, 168)), ((214, 222, 230), (196, 214, 216), (226, 206, 170)),
    ),
    "ice": (
        ((96, 138, 172), (130, 168, 192), (172, 204, 220)), ((110, 140, 166), (140, 170, 190), (176, 202, 216)),
        ((170, 206, 230), (196, 222, 236), (212, 234, 242)), ((188, 208, 226), (206, 222, 234), (214, 230, 240)),
    ),
    "rock": (
        ((112, 138, 158), (132, 150, 160), (120, 126, 128)), ((128, 140, 146), (142, 150, 150), (126, 124, 118)),
        ((196, 214, 226), (212, 220, 224), (190, 192, 188)), ((220, 218, 206), (224, 220, 208), (200, 194, 182)),
    ),
}  # fmt: skip
_WASHES |= {"fence": _WASHES["grass"], "meadow": _WASHES["grass"], "nest": _WASHES["branch"]}
_LEVEL = frozenset({"water", "snow", "ice", "beach", "grass", "meadow", "fence", "rock"})
_SNOWY = frozenset({"branch", "trunk", "fence", "rock"})
_SUNSET: tuple[tuple[Rgb, Rgb, Rgb], ...] = (
    ((104, 70, 124), (196, 104, 92), (150, 88, 74)), ((236, 150, 120), (252, 196, 130), (230, 158, 110)),
)  # fmt: skip
_NIGHT: tuple[tuple[Rgb, Rgb, Rgb], ...] = (
    ((14, 20, 54), (26, 36, 80), (20, 30, 62)), ((44, 60, 122), (66, 84, 148), (48, 66, 116)),
)  # fmt: skip
# How much of its setting's colour each height keeps under another sky.
_KEPT = (0.1, 0.2, 0.45)


class Scenery:
    """Draws one setting. `light_bird` asks for the darker washes, so that the bird stands out; `ahead` is `Place`'s."""

    def __init__(
        self, setting: Setting, weather: Weather, side: int, light_bird: bool, ahead: float, rng: Random
    ) -> None:
        self.setting = setting
        self.ahead = ahead
        self.weather = weather
        self.side = side
        self.scale = side / 100
        self.rng = rng
        washes = _WASHES["snow" if weather == "snow" and setting in _SNOWY else setting]
        half = len(washes) // 2
        self.wash = washes[int(rng.random() * half) + (0 if light_bird else half)]
        if weather in ("sunset", "night"):
            sky = (_SUNSET if weather == "sunset" else _NIGHT)[0 if light_bird else 1]
            top, middle, bottom = map(blend, sky, self.wash, _KEPT)
            self.wash = top, middle, bottom
        elif weather == "rain":
            top, middle, bottom = (blend(colour, (108, 120, 134), 0.55) for colour in self.wash)
            self.wash = top, middle, bottom

    def background(self) -> Image.Image:
        """The far ground, out of focus."""
        rng, small = self.rng, 14
        top, middle, bottom = (np.array(colour, dtype=float) for colour in self.wash)
        share = np.linspace(0, 1, small)[:, None, None]
        upper = top + (middle - top) * np.clip(share * 2, 0, 1)
        grid = upper + (bottom - middle) * np.clip(share * 2 - 1, 0, 1)
        grid = np.broadcast_to(grid, (small, small, 3)).copy()
        tint = np.array([rng.random() for _ in range(3)]) - 0.5
        grid += tint * 24
        noise = np.frombuffer(rng.randbytes(small * small), dtype=np.uint8).reshape(small, small, 1) / 255 - 0.5
        if self.setting in _LEVEL:
            noise = (
                noise + np.roll(noise, 1, axis=1) + np.roll(noise, 2, axis=1)
            ) / 2  # bands, as ground seen from the side
        grid += noise * (20 if self.setting in ("sky", "snow", "ice", "beach") else 30)
        canvas = Image.fromarray(np.clip(grid, 0, 255).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        self._distance(canvas)
        canvas = canvas.filter(ImageFilter.GaussianBlur(2.2)).resize((self.side, self.side), Image.Resampling.BILINEAR)
        self._lights(canvas)
        return canvas

    def _lights(self, canvas: Image.Image) -> None:
        """The setting sun, or the moon and stars."""
        rng, draw = self.rng, ImageDraw.Draw(canvas)
        if self.weather not in ("sunset", "night"):
            return
        x = 50 - self.ahead * (27 + 10 * rng.random())  # not behind the face

        def disc(x: float, y: float, r: float, colour: Rgb) -> None:
            draw.ellipse([v * self.scale for v in (x - r, y - r, x + r, y + r)], fill=colour)

        if self.weather == "sunset":
            disc(x, 18 + 26 * rng.random(), 7 + 2 * rng.random(), (255, 226, 150))
            return
        for _ in range(34):
            disc(100 * rng.random(), 70 * rng.random() ** 1.5, 0.25 + 0.4 * rng.random(), (236, 238, 250))
        disc(x, 14 + 8 * rng.random(), 6.5 + 1.5 * rng.random(), (246, 242, 220))

    def _distance(self, canvas: Image.Image) -> None:
        """Soft shapes far behind, on a canvas of 64 x 64."""
        rng, draw = self.rng, ImageDraw.Draw(canvas, "RGBA")
        if self.weather == "snow" and self.setting not in ("sky", "ice"):
            self._firs(draw)
        elif self.setting in ("branch", "trunk", "flower", "nest"):
            for _ in range(9):
                x, y, r = rng.random() * 64, rng.random() * 64, 3 + rng.random() * 7
                tone = blend(
                    self.wash[int(rng.random() * 3)], (255, 250, 215) if rng.random() < 0.55 else (40, 70, 40), 0.35
                )
                draw.ellipse((x - r, y - r, x + r, y + r), fill=(*tone, 120))
        elif self.setting == "sky":
            for _ in range(3):
                x, y = rng.random() * 64, rng.random() * 64
                for _ in range(5):
                    cx, cy, r = x + (rng.random() - 0.5) * 26, y + (rng.random() - 0.5) * 5, 3 + rng.random() * 5
                    draw.ellipse((cx - 1.6 * r, cy - r, cx + 1.6 * r, cy + r), fill=(255, 252, 248, 80))
        elif self.setting == "ice":
            for _ in range(4):
                x, h, w = rng.random() * 64, 8 + rng.random() * 14, 6 + rng.random() * 8
                tone = blend(self.wash[1], (250, 252, 255) if rng.random() < 0.5 else (110, 170, 204), 0.5)
                draw.polygon((x - w, 36, x - 0.6 * w, 36 - h, x + 0.1 * w, 36 - 0.7 * h, x + w, 36), fill=(*tone, 150))
        else:
            y = 20 + rng.random() * 10
            tone = blend(self.wash[0], (70, 100, 80) if self.setting != "rock" else (90, 100, 120), 0.45)
            for _ in range(6):
                x, w, h = rng.random() * 64, 8 + rng.random() * 14, 3 + rng.random() * 8
                draw.ellipse((x - w, y - h, x + w, y + h), fill=(*tone, 90))

    def _firs(self, draw: ImageDraw.ImageDraw) -> None:
        for _ in range(5):
            x, h, w = self.rng.random() * 64, 16 + self.rng.random() * 22, 5 + self.rng.random() * 5
            draw.polygon((x - w, 46, x, 46 - h, x + w, 46), fill=(*blend(self.wash[0], (70, 96, 100), 0.5), 110))
