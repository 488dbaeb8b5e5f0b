"""Paints a bird into layers, from tail to eye."""

from collections.abc import Mapping
from random import Random

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from training.data.synthbirds.anatomy import FINGERED, SPREAD, Fan, Part, Row, Silhouette
from training.data.synthbirds.attributes import Attributes
from training.data.synthbirds.colours import Colour, Paint, blend, deepened, mix_paint
from training.data.synthbirds.feathers import fan_outline, row_of_vanes
from training.data.synthbirds.geometry import Array, Points, closed_curve, open_curve
from training.data.synthbirds.layers import Layers
from training.data.synthbirds.pose import Pose

_INK = Paint((22, 20, 24), (8, 8, 10), (90, 90, 95))
_GLINT = Paint((255, 255, 255), (255, 255, 255), (255, 255, 255))
_IRIS = (Paint((244, 196, 40), (190, 130, 10), (255, 240, 150)), Paint((240, 140, 30), (180, 80, 10), (255, 210, 130)))
_EYESPOT = (
    Paint((196, 150, 60), (130, 90, 30), (240, 210, 140)),
    Paint((52, 176, 190), (20, 100, 120), (150, 230, 230)),
    Paint((30, 40, 120), (14, 18, 70), (90, 100, 190)),
)


class BirdPainter:
    """Paints one bird. Every colour is mixed once, so that equal parts are equal and other birds differ."""

    def __init__(self, layers: Layers, silhouette: Silhouette, pose: Pose, attributes: Attributes, rng: Random) -> None:
        self.layers = layers
        self.silhouette = silhouette
        self.pose = pose
        self.bird = attributes
        self.rng = rng
        paints: dict[Colour, Paint] = {}
        for colour in (*attributes.colours.values(), attributes.wing_bars, attributes.eye_ring):
            if colour and colour not in paints:
                paints[colour] = mix_paint(colour, rng)
        self.mixed = paints
        self.paints: Mapping[Part, Paint] = {part: paints[colour] for part, colour in attributes.colours.items()}

    def paint(self, pale_eye: bool) -> Image.Image:
        """Paints everything and returns the RGB picture; `layers.cover` tells where the bird is."""
        bird = self.silhouette
        if bird.far_wing:
            self._fan(bird.far_wing, self.paints["wings"], -16, None)
        self._fan(bird.tail, self.paints["tail"], -4, None)
        for leg in bird.legs:
            self._leg(leg)
        if self.bird.crest:
            self.layers.fill(self._curve(bird.crest), self.paints["crown"], 120)
        trunk = self._trunk()
        self._bill()
        self._face(trunk)
        self._eyes(pale_eye)
        self._wing_shadow(trunk)
        self._fan(bird.wing, self.paints["wings"], 2, self.bird.wing_bars)
        for ornament in bird.ornaments:
            self.layers.fill(self._curve(ornament.shape), mix_paint(ornament.colour, self.rng), 128)
        wing = self.layers.mask(fan_outline(bird.wing, self.pose))
        return self.layers.render(self.layers.form(trunk, wing))

    def _curve(self, points: Points) -> Array:
        return self.pose.place(closed_curve(points))

    def _trunk(self) -> Image.Image:
        """Head, neck and trunk: soft patches of colour within one outline, with small feathers along the spine."""
        layers, bird = self.layers, self.silhouette
        outline = layers.mask(self._curve(bird.body))
        back = self.paints["back"]
        # Patches are painted small and enlarged: their edges come out soft, as where feathers of two colours meet.
        small = layers.reduced(3)
        body, shade = Image.new("RGB", small.size, back.body), Image.new("RGB", small.size, back.shade)
        draws = ImageDraw.Draw(body), ImageDraw.Draw(shade)
        regions: tuple[tuple[Points, Part], ...] = (
            (bird.belly, "belly"),
            (bird.breast, "breast"),
            (bird.face, "face"),
            (bird.crown, "crown"),
        )
        for points, part in regions:
            flat = small.pixels(self._curve(points))
            draws[0].polygon(flat, fill=self.paints[part].body)
            draws[1].polygon(flat, fill=self.paints[part].shade)
        soft = [small.soften(patch, 0.9).resize(outline.size, Image.Resampling.BILINEAR) for patch in (body, shade)]
        layers.stain(outline, soft[0], soft[1])
        if self.bird.pattern != "plain":
            self._speckle(outline)
        self._down(outline)
        return outline

    def _down(self, outline: Image.Image) -> None:
        """Small contour feathers: short strokes, light and dark, along the spine."""
        layers = self.layers
        strokes = Image.new("L", outline.size, 128)
        draw = ImageDraw.Draw(strokes)
        spine = self.pose.place(open_curve(self.silhouette.spine, 24))
        heading = np.gradient(spine, axis=0)
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        count = 260
        at = np.frombuffer(self.rng.randbytes(3 * count), dtype=np.uint8).reshape(count, 3) / 255
        box = outline.getbbox() or (0, 0, 1, 1)
        low, high = layers.corner + np.array(box[:2]) / layers.scale, layers.corner + np.array(box[2:]) / layers.scale
        start = low + at[:, :2] * (high - low)
        nearest = np.abs(start[:, None] - spine).sum(axis=2).argmin(axis=1)
        end = start + heading[nearest] * (2.2 + 2.2 * at[:, 2:])
        ends = ((np.stack([start, end], axis=1) - layers.corner) * layers.scale).reshape(-1, 4).tolist()
        width = max(1, round(0.45 * layers.scale))
        for number, line in enumerate(ends):
            draw.line(line, fill=(98, 150, 108, 140)[number % 4], width=width)
        layers.relief.paste(strokes, mask=outline)

    def _speckle(self, outline: Image.Image) -> None:
        """Streaks or spots on breast and belly."""
        layers, bird = self.layers, self.silhouette
        where, marks = Image.new("L", outline.size), Image.new("L", outline.size)
        pens = ImageDraw.Draw(where), ImageDraw.Draw(marks)
        belly, breast, face = (self._curve(points) for points in (bird.belly, bird.breast, bird.face))
        for curve, inside in ((belly, 255), (breast, 255), (face, 0)):
            pens[0].polygon(layers.pixels(curve), fill=inside)
        # Counted in units, not in pixels: the same marks at every side.
        low, high = np.minimum(belly.min(axis=0), breast.min(axis=0)), np.maximum(belly.max(axis=0), breast.max(axis=0))
        step, long, row_step = (3.1, 2.6, 4.6) if self.bird.pattern == "streaked" else (3.1, 1.0, 2.8)
        for row, y in enumerate(np.arange(low[1], high[1], row_step)):
            for x in np.arange(low[0] + (row % 2) * step / 2, high[0], step):
                centre = np.array((x, y)) + np.array((self.rng.random(), self.rng.random())) * 1.2
                reach = np.array((0.6, 0.75 * long))
                pens[1].ellipse(layers.pixels(np.stack([centre - reach, centre + reach])), fill=225)
        ground = self.paints["breast"]
        mark = blend(ground.shade, (40, 28, 24), 0.6)
        mask = ImageChops.darker(ImageChops.darker(marks, layers.soften(where, 1.2)), outline)
        layers.body.paste(mark, mask=mask)
        layers.shade.paste(blend(mark, (0, 0, 0), 0.4), mask=mask)

    def _wing_shadow(self, trunk: Image.Image) -> None:
        layers = self.layers
        low = fan_outline(self.silhouette.wing, self.pose) + np.array((0.3, 1.8))
        shadow = layers.soften(layers.mask(low), 1.1)
        layers.press(ImageChops.darker(shadow.point([v * 8 // 10 for v in range(256)]), trunk), 56)

    def _fan(self, fan: Fan, paint: Paint, lift: int, bars: Colour | None) -> None:
        """A wing or a tail: rows of vanes with a light edge and a dark rim; wing bars on the tips of the coverts."""
        for number, row in enumerate(fan.rows):
            vane_paint = deepened(paint, 0.3 if number == 0 else 0.05)
            vanes = self._vanes(fan, row, None)
            tips = self._vanes(fan, row, 0.1) if bars and number in (1, 2) else None
            for index, vane in enumerate(vanes):
                tone = 126 + lift + (index % 2) * 5 + int(self.rng.random() * 9)
                self.layers.fill(vane, vane_paint, tone)
                # On a folded wing the upper tips are covered by the back's feathers.
                if tips is not None and bars and (fan.rows in (SPREAD, FINGERED) or index < 0.6 * len(vanes)):
                    self.layers.fill(tips[index], self.mixed[bars], tone + 8)
                if fan.eyespots:
                    self._eyespot(vane)
                self.layers.emboss((vane[4:],), tone - 54, 0.4)
                self.layers.emboss((vane[:4],), tone + 26, 0.35)

    def _eyespot(self, vane: Array) -> None:
        """A peacock's: three discs, one upon the other, near the tip of a feather."""
        tip, root = vane[5], (vane[0] + vane[-1]) / 2
        centre = tip + (root - tip) * (2.6 * self.pose.scale / float(np.linalg.norm(root - tip)))
        for radius, paint in zip((1.9, 1.25, 0.7), _EYESPOT, strict=True):
            self.layers.disc(centre, radius * self.pose.scale, paint, 132)

    def _vanes(self, fan: Fan, row: Row, tip_only: float | None) -> Array:
        vanes = row_of_vanes(fan, row, tip_only)
        return self.pose.place(vanes.reshape(-1, 2)).reshape(vanes.shape)

    def _bill(self) -> None:
        paint = self.paints["bill"]
        lower, upper = self._curve(self.silhouette.bill.lower), self._curve(self.silhouette.bill.upper)
        self.layers.fill(lower, deepened(paint, 0.35), 104)
        self.layers.fill(upper, paint, 132)
        half = len(upper) // 2
        self.layers.emboss((upper[half + 2 :],), 52, 0.4)
        self.layers.emboss((upper[2 : half - 2] + np.array((0.0, 0.5)),), 190, 0.4)

    def _face(self, trunk: Image.Image) -> None:
        """Models the head: a hollow from eye to bill, or the discs around an owl's forward eyes."""
        layers, eyes = self.layers, self.silhouette.eyes
        centres = self.pose.place(tuple(eye.centre for eye in eyes))
        beak = self.pose.place((self.silhouette.bill.upper[0],))[0]
        if len(eyes) == 1:
            hollow = Image.new("L", trunk.size)
            draw = ImageDraw.Draw(hollow)
            lore = np.stack([centres[0] + (centres[0] - beak) * 0.5, beak])
            draw.line(layers.pixels(lore), fill=150, width=max(1, round(2.6 * layers.scale)))
            layers.press(ImageChops.darker(layers.soften(hollow, 1.0), trunk), 84)
            return
        face = self.paints["face"]
        discs, rims = Image.new("L", trunk.size), Image.new("L", trunk.size)
        pens = ImageDraw.Draw(discs), ImageDraw.Draw(rims)
        angles = np.linspace(0, 2 * np.pi, 29)[:-1]
        rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        middles = centres + np.stack([np.sign(centres[:, 0] - centres[::-1, 0]), np.full(2, 0.8)], axis=1)
        for middle in middles:
            pens[0].polygon(layers.pixels(middle + rays * 8.0), fill=130)
            pens[1].polygon(layers.pixels(middle + rays * 9.6), fill=190)
        for middle in middles:
            pens[1].polygon(layers.pixels(middle + rays * 8.2), fill=0)
        layers.press(ImageChops.darker(layers.soften(rims, 0.7), trunk), 62)
        mask = ImageChops.darker(layers.soften(discs, 0.8), trunk)
        layers.stain(mask, Image.new("RGB", trunk.size, face.light), Image.new("RGB", trunk.size, face.body))
        for middle in middles:
            layers.emboss((np.stack([middle + ray * 3.5, middle + ray * 7.4]) for ray in rays), 106, 0.4)

    def _eyes(self, pale: bool) -> None:
        layers = self.layers
        size = self.pose.scale
        iris = _IRIS[int(self.rng.random() * 2)]
        for eye in self.silhouette.eyes:
            centre = self.pose.place((eye.centre,))[0]
            radius = eye.radius * size
            if self.bird.eye_ring:
                layers.disc(centre, radius + 1.0, self.mixed[self.bird.eye_ring], 132)
            else:
                face = self.paints["face"]
                layers.disc(centre, radius + 0.3, Paint(blend(face.body, face.light, 0.35), face.body, face.light), 128)
            layers.disc(centre, radius, iris if pale else _INK)
            if pale:
                layers.disc(centre, radius * 0.62, _INK)
            layers.disc(centre + np.array((0.32, -0.38)) * radius, radius * 0.3, _GLINT)
            if self.silhouette.stern:
                brow = np.array(eye.centre) + eye.radius * np.array(
                    ((-1.7, -1.5), (1.9, -0.8), (1.9, -0.1), (-1.5, -0.7))
                )
                layers.fill(self.pose.place(brow), deepened(self.paints["crown"], 0.5), 110)

    def _leg(self, leg: Points) -> None:
        """A leg with three toes forward and one back, on its ground."""
        paint = self.paints["legs"]
        joints = self.pose.place(leg)
        size = self.pose.scale
        self.layers.line(joints, paint, self.silhouette.leg_width * size, 118)
        thigh, knee = joints[0], joints[0] + (joints[1] - joints[0]) * 0.8
        tuft = np.stack(
            [thigh + size * np.array(corner) for corner in ((-3.2, -1.5), (3.2, -1.5))]
            + [knee + size * np.array(corner) for corner in ((0.5, 0.0), (-0.5, 0.0))]
        )
        self.layers.fill(tuft, self.paints["belly"], 96)
        ahead = np.sign(self.pose.matrix[0])
        foot, toe = joints[-1], (0.6 * self.silhouette.leg_width + 0.2) * size
        for dx, dy in ((4.4, 0.5), (3.2, 1.7), (-2.4, 0.7)):
            self.layers.line(np.stack([foot, foot + size * np.array((dx * ahead * 0.9, dy))]), paint, toe, 124)
