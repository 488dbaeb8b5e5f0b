"""What a bird rests on and what stands before it: branches, trunks, ground, rocks, flowers and water."""

from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.data.synthbirds.colours import Rgb, blend
from training.data.synthbirds.geometry import Array, Points, closed_curve
from training.data.synthbirds.kinds import Setting

_BARK: tuple[Rgb, ...] = ((112, 86, 64), (96, 80, 68), (128, 104, 82), (104, 92, 84))
_LEAF: tuple[Rgb, ...] = ((92, 130, 62), (120, 150, 70), (76, 116, 74), (150, 158, 82))
_PETALS: tuple[Rgb, ...] = ((226, 92, 110), (238, 150, 170), (240, 180, 90), (190, 110, 190), (236, 108, 80))
# Strips that make a branch or a trunk round: from and to (shares of its thickness), and how much lighter or darker.
_ROUND = (
    (0.0, 1.0, 0.10),
    (0.08, 0.24, 0.22),
    (0.36, 1.0, 0.0),
    (0.5, 1.0, -0.12),
    (0.62, 1.0, -0.22),
    (0.74, 1.0, -0.32),
    (0.86, 1.0, -0.42),
)
_SNOW: Rgb = (244, 248, 253)


@dataclass(frozen=True)
class Place:
    """Where the bird touches its setting, in units: `feet` (N, 2), its bill, the way it faces (1 right, -1 left)."""

    feet: Array
    bill_tip: tuple[float, float]
    ahead: float
    waterline: float | None


class Support:
    """Draws the near part of a setting, on a canvas of `side` x `side` pixels."""

    def __init__(
        self, setting: Setting, side: int, place: Place, wash: tuple[Rgb, Rgb, Rgb], on_branch: bool, rng: Random
    ) -> None:
        self.setting = setting
        self.side = side
        self.scale = side / 100
        self.place = place
        self.wash = wash
        self.on_branch = on_branch
        self.rng = rng

    def behind(self, canvas: Image.Image) -> None:
        """Draws what lies behind the bird."""
        if self.setting == "branch" or (self.setting == "snow" and self.on_branch):
            self._branch(canvas)
        elif self.setting == "trunk":
            self._trunk(canvas)
        elif self.setting == "rock":
            self._rock(canvas)
        elif self.setting == "snow":
            self._snowfield(canvas)
        elif self.setting == "grass":
            self._blades(canvas, -16.0, 3.0, 46, 0.35)
        elif self.setting == "flower":
            self._flower(canvas)

    def before(self, canvas: Image.Image) -> None:
        """Draws what stands before the bird."""
        if self.setting == "grass":
            self._blades(canvas, -5.5, 9.0, 60, 0.0)
        elif self.setting == "water":
            self._water(canvas)
        elif self.setting == "snow":
            self._flakes(canvas)

    def _flat(self, points: Array) -> list[float]:
        flat: list[float] = (points * self.scale).ravel().tolist()
        return flat

    def _curve(self, points: Points) -> list[float]:
        return self._flat(closed_curve(points))

    def _between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def _branch(self, canvas: Image.Image) -> None:
        draw, feet = ImageDraw.Draw(canvas), self.place.feet
        bark = _BARK[int(self.rng.random() * len(_BARK))]
        slope = self._between(-0.1, 0.1)
        if len(feet) > 1 and abs(feet[0, 0] - feet[1, 0]) > 1:
            slope = 0.5 * slope + 0.8 * float((feet[0, 1] - feet[1, 1]) / (feet[0, 0] - feet[1, 0]))
        middle, thick, bend = feet.mean(axis=0), self._between(4.6, 7.0), self._between(-0.0012, 0.0012)
        x = np.linspace(-4, 104, 28)
        off = x - middle[0]
        taper = 1 + 0.005 * off * (1 if self.rng.random() < 0.5 else -1)
        y = middle[1] + slope * off + bend * off**2 + 0.35 * np.sin(x * 0.35 + self.rng.random() * 6)
        for _ in range(3):
            self._twig(draw, float(self._between(5, 95)), x, y + thick * 0.4, bark)
        for top, bottom, tone in _ROUND:
            upper, lower = np.stack([x, y + thick * taper * top], 1), np.stack([x, y + thick * taper * bottom], 1)
            draw.polygon(self._flat(np.concatenate([upper, lower[::-1]])), fill=_toned(bark, tone))
        for _ in range(26):
            i, depth, length = self._between(0, 26), self._between(0.1, 0.9), self._between(2, 5)
            j = int(i)
            start = np.array((x[j], y[j] + thick * taper[j] * depth))
            end = start + np.array((length, (y[j + 1] - y[j]) / 4 * length))
            draw.line(
                self._flat(np.stack([start, end])),
                fill=_toned(bark, self._between(-0.35, 0.25)),
                width=max(1, round(0.4 * self.scale)),
            )
        if self.setting == "snow":
            heap = 2.4 + 1.0 * np.sin(x * 0.21 + self.rng.random() * 6) + 0.5 * np.sin(x * 0.5)
            upper, lower = np.stack([x, y - heap * 0.55], 1), np.stack([x, y + heap * 0.5 + 0.6], 1)
            draw.polygon(self._flat(np.concatenate([upper, lower[::-1]])), fill=(206, 218, 232))
            draw.polygon(self._flat(np.concatenate([upper, (lower - (0, 1.1))[::-1]])), fill=_SNOW)

    def _twig(self, draw: ImageDraw.ImageDraw, at: float, x: Array, y: Array, bark: Rgb) -> None:
        base = np.array((at, np.interp(at, x, y)))
        lean = self._between(-16, 16)
        rise = self._between(-13, -7) if self.rng.random() < 0.4 else self._between(10, 17)
        tip = base + np.array((lean, rise))
        draw.line(
            self._flat(np.stack([base, base + (tip - base) * (0.5, 0.35), tip])),
            fill=_toned(bark, -0.1),
            width=max(1, round(1.0 * self.scale)),
        )
        if self.setting == "snow":
            return
        green = _LEAF[int(self.rng.random() * len(_LEAF))]
        for share in (0.5, 0.75, 1.0):
            stem = base + (tip - base) * share
            angle, length = self._between(0, 6.3), self._between(5, 8)
            along = np.array((np.cos(angle), np.sin(angle)))
            side = np.array((-along[1], along[0])) * length * 0.24
            end = stem + along * length
            leaf = np.stack([stem, stem + along * length * 0.35 + side, end, stem + along * length * 0.35 - side])
            tone = self._between(-0.15, 0.2)
            draw.polygon(self._flat(closed_curve(tuple(map(tuple, leaf.tolist())))), fill=_toned(green, tone))
            draw.line(
                self._flat(np.stack([stem, end])),
                fill=_toned(green, tone - 0.2),
                width=max(1, round(0.35 * self.scale)),
            )

    def _trunk(self, canvas: Image.Image) -> None:
        draw, ahead = ImageDraw.Draw(canvas), self.place.ahead
        bark = _BARK[int(self.rng.random() * len(_BARK))]
        edge = float((self.place.feet[:, 0] * ahead).min()) * ahead - 0.5 * ahead
        width = self._between(20, 30)
        y = np.linspace(-2, 102, 22)
        wobble = 0.8 * np.sin(y * 0.11 + self.rng.random() * 6)
        for start, end, tone in _ROUND:
            near, far = edge + ahead * width * start + wobble, edge + ahead * width * end + wobble
            draw.polygon(
                self._flat(np.concatenate([np.stack([near, y], 1), np.stack([far, y], 1)[::-1]])),
                fill=_toned(bark, tone),
            )
        for _ in range(46):
            x, top, length = (
                edge + ahead * width * self._between(0.03, 0.97),
                self._between(-2, 98),
                self._between(4, 12),
            )
            line = np.array(((x, top), (x + self._between(-1, 1), top + length)))
            draw.line(
                self._flat(line), fill=_toned(bark, self._between(-0.45, 0.25)), width=max(1, round(0.6 * self.scale))
            )

    def _rock(self, canvas: Image.Image) -> None:
        """A boulder of flat faces: light on top, darker towards the ground, rough all over."""
        feet = self.place.feet
        middle, top = float(feet[:, 0].mean()), float(feet[:, 1].min()) - 0.6
        stone = blend((146, 138, 128), (108, 112, 118), self.rng.random())
        spread, count = self._between(30, 42), 7
        across = np.linspace(-1, 1, count)
        reach = np.array((0.45, 1.0, 1.25))[:, None]
        x = (
            middle
            + spread * across * reach
            + np.array([self._between(-3, 3) for _ in range(3 * count)]).reshape(3, count)
        )
        fall = np.array((0.4, 7.0, 40.0))[:, None] + np.array((1.6, 9.0, 0.0))[:, None] * across**2
        y = (
            top
            + fall
            + np.array([self._between(0, 1) for _ in range(3 * count)]).reshape(3, count)
            * np.array(((0.7,), (5.0,), (0.0,)))
        )
        rows = np.stack([x, y], axis=2)
        ledge, mask = Image.new("RGB", canvas.size, stone), Image.new("L", canvas.size)
        draw = ImageDraw.Draw(ledge)
        for row, tone in ((0, 0.1), (1, -0.2)):
            for k in range(count - 1):
                face = np.stack([rows[row, k], rows[row, k + 1], rows[row + 1, k + 1], rows[row + 1, k]])
                draw.polygon(
                    self._flat(face),
                    fill=_toned(stone, tone - 0.1 * across[k] * self.place.ahead + self._between(-0.1, 0.1)),
                )
        for _ in range(70):
            px, py, r, tone = (
                middle + self._between(-50, 50),
                top + self._between(0, 30),
                self._between(0.3, 1.2),
                self._between(-0.4, 0.35),
            )
            draw.ellipse(
                [v * self.scale for v in (px - 1.7 * r, py - 0.5 * r, px + 1.7 * r, py + 0.5 * r)],
                fill=_toned(stone, tone),
            )
        rim = np.concatenate([rows[0], rows[1:, -1], rows[:0:-1, 0]])
        ImageDraw.Draw(mask).polygon(self._flat(rim), fill=255)
        canvas.paste(
            ledge.filter(ImageFilter.GaussianBlur(0.35 * self.scale)),
            mask=mask.filter(ImageFilter.GaussianBlur(0.4 * self.scale)),
        )

    def _snowfield(self, canvas: Image.Image) -> None:
        feet = self.place.feet
        y = float(feet[:, 1].min()) - 1.0
        field = Image.new("L", canvas.size)
        x = np.linspace(-5, 105, 24)
        crest = (
            y - 3 + 3.0 * np.sin(x * 0.05 + self.rng.random() * 6) * np.minimum(1, np.abs(x - feet[:, 0].mean()) / 25)
        )
        ground = np.concatenate([np.stack([x, crest], 1), ((105.0, 110.0), (-5.0, 110.0))])
        ImageDraw.Draw(field).polygon(self._flat(ground), fill=255)
        canvas.paste(_SNOW, mask=field.filter(ImageFilter.GaussianBlur(0.8 * self.scale)))
        shadow = Image.new("L", canvas.size)
        cx, cy = feet.mean(axis=0) * self.scale
        w = 21 * self.scale
        ImageDraw.Draw(shadow).ellipse((cx - w, cy - 1.2 * self.scale, cx + w, cy + 3.2 * self.scale), fill=170)
        canvas.paste((164, 182, 208), mask=shadow.filter(ImageFilter.GaussianBlur(1.8 * self.scale)))

    def _flakes(self, canvas: Image.Image) -> None:
        if self.rng.random() < 0.4:
            return
        draw = ImageDraw.Draw(canvas)
        for _ in range(int(self._between(12, 30))):
            x, y, r = (
                self._between(0, 100) * self.scale,
                self._between(0, 100) * self.scale,
                self._between(0.4, 0.9) * self.scale,
            )
            draw.ellipse((x - r, y - r, x + r, y + r), fill=_SNOW)

    def _blades(self, canvas: Image.Image, low: float, high: float, count: int, haze: float) -> None:
        """Grass up to between `low` and `high` units below the feet; `haze` takes it back into the distance."""
        draw, ground = ImageDraw.Draw(canvas), float(self.place.feet[:, 1].max())
        green = blend((84, 134, 54), (140, 158, 74), self.rng.random())
        for _ in range(count):
            x, top, lean, width = (
                self._between(-4, 104),
                ground + self._between(low, high),
                self._between(-9, 9),
                self._between(0.9, 1.8),
            )
            tone = blend(_toned(green, self._between(-0.35, 0.25)), self.wash[2], haze)
            height = 103 - top
            blade = (
                (x - width, 103.0),
                (x - width * 0.6 + lean * 0.25, 103 - height * 0.6),
                (x + lean, top),
                (x + width * 0.8 + lean * 0.25, 103 - height * 0.55),
                (x + width, 103.0),
            )
            draw.polygon([v * self.scale for point in blade for v in point], fill=tone)

    def _flower(self, canvas: Image.Image) -> None:
        draw, (x, y), ahead = ImageDraw.Draw(canvas), self.place.bill_tip, self.place.ahead
        petal = _PETALS[int(self.rng.random() * len(_PETALS))]
        green = _LEAF[int(self.rng.random() * len(_LEAF))]
        cx, cy = x + ahead * 2.5, y + 0.6
        root = (cx + ahead * self._between(-8, 4), 104.0)
        stem = np.array(((cx, cy), (cx + ahead * 3, (cy + root[1]) / 2), root))
        draw.line(self._flat(stem), fill=_toned(green, -0.1), width=max(1, round(1.3 * self.scale)), joint="curve")
        for height, turn in ((0.45, -1.0), (0.7, 1.0)):
            base = np.array((cx + ahead * 3 * (1 - abs(height - 0.5)), cy + (104 - cy) * height))
            leaf = ((0.0, 0.0), (6 * turn, -4.5), (13 * turn, -5.0), (7 * turn, 0.4))
            draw.polygon(
                self._curve(tuple((float(base[0] + px), float(base[1] + py)) for px, py in leaf)),
                fill=_toned(green, 0.1 * turn),
            )
        size, phase = self._between(5.2, 6.8), self.rng.random() * 6
        for ring, tone in ((1.0, -0.12), (0.72, 0.12)):
            for k in range(5):
                angle = phase + k * 1.2566 + (0.6 if ring < 1 else 0)
                px, py, r = (
                    cx + np.cos(angle) * size * 0.6 * ring,
                    cy + np.sin(angle) * size * 0.6 * ring,
                    size * 0.52 * ring,
                )
                box = [float(v) * self.scale for v in (px - r, py - r, px + r, py + r)]
                draw.ellipse(box, fill=_toned(petal, tone + 0.05 * (k % 2)))
        heart = [v * self.scale for v in (cx - 1.5, cy - 1.5, cx + 1.5, cy + 1.5)]
        draw.ellipse(heart, fill=(246, 214, 96))

    def _water(self, canvas: Image.Image) -> None:
        """Water below the waterline: it mirrors what is above, darkened and blurred, with ripples of light."""
        line = self.place.waterline if self.place.waterline is not None else float(self.place.feet[:, 1].min()) - 3.0
        row = min(self.side - 2, int(line * self.scale))
        below = self.side - row
        mirrored = canvas.crop((0, max(0, row - below), self.side, row)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        mirrored = mirrored.reduce(2).filter(ImageFilter.GaussianBlur(0.75 * self.scale)).resize(mirrored.size)
        water = Image.new("RGB", (self.side, below), self.wash[2])
        veil = Image.linear_gradient("L").resize((self.side, below)).point([int(118 - v * 0.36) for v in range(256)])
        water.paste(mirrored, (0, 0), veil.crop((0, 0, *mirrored.size)))
        draw = ImageDraw.Draw(water)
        glint, deep = blend(self.wash[2], (255, 255, 255), 0.5), blend(self.wash[2], (20, 50, 70), 0.35)
        centre = (
            float(self.place.feet[:, 0].mean())
            if len(self.place.feet)
            else self.place.bill_tip[0] - self.place.ahead * 40
        )
        for number in range(22):
            depth = 0.3 + (number / 22) ** 1.4 * (below / self.scale)
            x, w = centre + self._between(-55, 55), self._between(5, 15) * (0.6 + depth / 30)
            y, thick = depth * self.scale, max(1, round(0.25 * self.scale + 0.014 * depth * self.scale))
            draw.line(
                ((x - w) * self.scale, y, (x + w) * self.scale, y), fill=glint if number % 2 else deep, width=thick
            )
        water = water.filter(ImageFilter.GaussianBlur(0.45 * self.scale))
        edge = Image.new("L", water.size, 255)
        ImageDraw.Draw(edge).rectangle((0, 0, self.side, max(1, int(0.5 * self.scale))), fill=140)
        canvas.paste(water, (0, row), edge)


def _toned(colour: Rgb, tone: float) -> Rgb:
    """Darker for a negative tone, lighter for a positive one."""
    return blend(colour, (18, 16, 24), -tone) if tone < 0 else blend(colour, (255, 250, 235), tone)
