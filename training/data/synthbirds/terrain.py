"""What a bird stands or swims on, and what grows there: snow, ice, sand, grass, flowers and water."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.data.synthbirds.colours import Rgb, blend
from training.data.synthbirds.site import LEAVES, SNOW, Site, toned

_PETALS: tuple[Rgb, ...] = ((226, 92, 110), (238, 150, 170), (240, 180, 90), (190, 110, 190), (236, 108, 80))
_DAISY: Rgb = (246, 244, 240)


def snowfield(site: Site, canvas: Image.Image) -> None:
    """Level ground of snow, or of ice: bluer, and with cracks."""
    feet, icy = site.place.feet, site.setting == "ice"
    y = float(feet[:, 1].min()) - (7.0 if icy else 1.0)
    if icy:
        _icebergs(site, canvas, y)
    field = Image.new("L", canvas.size)
    x = np.linspace(-5, 105, 24)
    crest = (
        y - 3 + 3.0 * np.sin(x * 0.05 + site.rng.random() * 6) * np.minimum(1, np.abs(x - feet[:, 0].mean()) / 25)
        if not icy
        else y + 0.7 * np.sin(x * 0.4 + site.rng.random() * 6)
    )
    ground = np.concatenate([np.stack([x, crest], 1), ((105.0, 110.0), (-5.0, 110.0))])
    ImageDraw.Draw(field).polygon(site.flat(ground), fill=255)
    white = site.lit((206, 230, 242) if icy else SNOW)
    canvas.paste(white, mask=field.filter(ImageFilter.GaussianBlur((0.3 if icy else 0.8) * site.scale)))
    if icy:
        _cracks(site, canvas, y, white)
    shadow = Image.new("L", canvas.size)
    cx, cy = feet.mean(axis=0) * site.scale
    w = 21 * site.scale * site.place.scale
    ImageDraw.Draw(shadow).ellipse((cx - w, cy - 1.2 * site.scale, cx + w, cy + 3.2 * site.scale), fill=170)
    canvas.paste(blend(white, (90, 120, 166), 0.5), mask=shadow.filter(ImageFilter.GaussianBlur(1.8 * site.scale)))


def _icebergs(site: Site, canvas: Image.Image, level: float) -> None:
    """Blocks of ice on the horizon, each with a side in shade."""
    draw = ImageDraw.Draw(canvas)
    for _ in range(3):
        x, w, h = site.between(0, 100), site.between(9, 20), site.between(8, 22)
        ice = blend(site.lit((190, 222, 240)), site.wash[1], site.between(0.25, 0.55))
        peak = (x - 0.15 * w, level + 2 - h)
        foot = (x + 0.1 * w, level + 2)
        left = ((x - w, level + 2), (x - 0.7 * w, level + 2 - 0.7 * h), peak, foot)
        right = (peak, (x + 0.5 * w, level + 2 - 0.6 * h), (x + w, level + 2), foot)
        for face, tone in ((left, 0.35), (right, -0.12)):
            draw.polygon([v * site.scale for point in face for v in point], fill=toned(ice, tone))


def _cracks(site: Site, canvas: Image.Image, top: float, ice: Rgb) -> None:
    """Long broken lines in ice, each with a light edge."""
    draw = ImageDraw.Draw(canvas)
    for _ in range(7):
        x, y = site.between(-5, 95), top + site.between(3, 30)
        steps = np.cumsum([(site.between(3, 11), site.between(-1.6, 1.6)) for _ in range(4)], axis=0)
        line = np.concatenate([((x, y),), steps + np.array((x, y))])
        for shift, tone in ((0.5, 0.5), (0.0, -0.32)):
            draw.line(
                site.flat(line + np.array((0, shift))), fill=toned(ice, tone), width=max(1, round(0.4 * site.scale))
            )


def beach(site: Site, canvas: Image.Image) -> None:
    """Sand, a band of sea behind it with a line of foam, pebbles."""
    draw, feet = ImageDraw.Draw(canvas), site.place.feet
    shore = float(feet[:, 1].min()) - site.between(7, 13)
    sand, sea = site.lit((226, 202, 152)), blend(site.wash[1], site.lit((44, 120, 160)), 0.55)
    x = np.linspace(-5, 105, 24)
    edge = shore + 1.2 * np.sin(x * 0.09 + site.rng.random() * 6) + 0.4 * np.sin(x * 0.31)
    for rise, tone in ((site.between(11, 19), sea), (1.3, toned(sea, 0.75)), (0.0, sand)):
        top = np.full_like(x, shore - rise) if tone == sea else edge - rise
        draw.polygon(site.flat(np.concatenate([np.stack([x, top], 1), ((105, 110), (-5, 110))])), fill=tone)
    for _ in range(60):
        px, py, r = site.between(0, 100), shore + 3 + site.between(0, 1) ** 1.3 * 60, site.between(0.25, 0.8)
        box = [v * site.scale for v in (px - 1.6 * r, py - 0.5 * r, px + 1.6 * r, py + 0.5 * r)]
        draw.ellipse(box, fill=toned(sand, site.between(-0.35, 0.35)))
    cx, cy = feet.mean(axis=0)
    w = 16 * site.place.scale
    draw.ellipse([v * site.scale for v in (cx - w, cy - 0.7, cx + w, cy + 1.8)], fill=toned(sand, -0.25))


def blades(site: Site, canvas: Image.Image, low: float, high: float, count: int, haze: float) -> None:
    """Grass up to between `low` and `high` units below the feet; `haze` takes it back into the distance."""
    draw, ground = ImageDraw.Draw(canvas), float(site.place.feet[:, 1].max())
    green = site.lit(blend((84, 134, 54), (140, 158, 74), site.rng.random()))
    for _ in range(count):
        x, top, lean, width = (
            site.between(-4, 104),
            ground + site.between(low, high) * site.place.scale,
            site.between(-9, 9),
            site.between(0.9, 1.8),
        )
        tone = blend(toned(green, site.between(-0.35, 0.25)), site.wash[2], haze)
        height = 103 - top
        blade = (
            (x - width, 103.0),
            (x - width * 0.6 + lean * 0.25, 103 - height * 0.6),
            (x + lean, top),
            (x + width * 0.8 + lean * 0.25, 103 - height * 0.55),
            (x + width, 103.0),
        )
        draw.polygon([v * site.scale for point in blade for v in point], fill=tone)


def blossoms(site: Site, canvas: Image.Image, count: int, low: float, high: float) -> None:
    """Flowers on thin stems among grass, from `low` to `high` below the feet."""
    draw, ground = ImageDraw.Draw(canvas), float(site.place.feet[:, 1].max())
    petals = [site.lit(_PETALS[int(site.rng.random() * len(_PETALS))]) for _ in range(2)] + [site.lit(_DAISY)]
    for number in range(count):
        x, y, size = site.between(2, 98), ground + site.between(low, high), site.between(1.5, 2.4)
        stem = [v * site.scale for v in (x, y, x + site.between(-2, 2), y + 16)]
        draw.line(stem, fill=site.lit((96, 136, 64)), width=max(1, round(0.5 * site.scale)))
        for angle in np.arange(5) * 1.2566 + site.rng.random() * 6:
            px, py, r = x + size * 0.8 * np.cos(angle), y + size * 0.7 * np.sin(angle), size * 0.72
            box = [float(v) * site.scale for v in (px - r, py - r, px + r, py + r)]
            draw.ellipse(box, fill=toned(petals[number % 3], site.between(-0.12, 0.12)))
        r = 0.6 * size
        draw.ellipse([v * site.scale for v in (x - r, y - r, x + r, y + r)], fill=site.lit((246, 208, 80)))


def flower(site: Site, canvas: Image.Image) -> None:
    """A flower at the tip of the bird's bill."""
    draw, (x, y), ahead = ImageDraw.Draw(canvas), site.place.bill_tip, site.place.ahead
    petal = site.lit(_PETALS[int(site.rng.random() * len(_PETALS))])
    green = site.lit(LEAVES[int(site.rng.random() * len(LEAVES))])
    cx, cy = x + ahead * 2.5, y + 0.6
    root = (cx + ahead * site.between(-8, 4), 104.0)
    stem = np.array(((cx, cy), (cx + ahead * 3, (cy + root[1]) / 2), root))
    draw.line(site.flat(stem), fill=toned(green, -0.1), width=max(1, round(1.3 * site.scale)), joint="curve")
    for height, turn in ((0.45, -1.0), (0.7, 1.0)):
        base = np.array((cx + ahead * 3 * (1 - abs(height - 0.5)), cy + (104 - cy) * height))
        leaf = ((0.0, 0.0), (6 * turn, -4.5), (13 * turn, -5.0), (7 * turn, 0.4))
        draw.polygon(
            site.curve(tuple((float(base[0] + px), float(base[1] + py)) for px, py in leaf)),
            fill=toned(green, 0.1 * turn),
        )
    size, phase = site.between(5.2, 6.8), site.rng.random() * 6
    for ring, tone in ((1.0, -0.12), (0.72, 0.12)):
        for k in range(5):
            angle = phase + k * 1.2566 + (0.6 if ring < 1 else 0)
            px, py, r = (
                cx + np.cos(angle) * size * 0.6 * ring,
                cy + np.sin(angle) * size * 0.6 * ring,
                size * 0.52 * ring,
            )
            box = [float(v) * site.scale for v in (px - r, py - r, px + r, py + r)]
            draw.ellipse(box, fill=toned(petal, tone + 0.05 * (k % 2)))
    heart = [v * site.scale for v in (cx - 1.5, cy - 1.5, cx + 1.5, cy + 1.5)]
    draw.ellipse(heart, fill=(246, 214, 96))


def water(site: Site, canvas: Image.Image) -> None:
    """Water below the waterline: it mirrors what is above, darkened and blurred, with ripples of light."""
    line = site.place.waterline if site.place.waterline is not None else float(site.place.feet[:, 1].min()) - 3.0
    row = min(site.side - 2, int(line * site.scale))
    below = site.side - row
    mirrored = canvas.crop((0, max(0, row - below), site.side, row)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    mirrored = mirrored.reduce(2).filter(ImageFilter.GaussianBlur(0.75 * site.scale)).resize(mirrored.size)
    water = Image.new("RGB", (site.side, below), site.wash[2])
    veil = Image.linear_gradient("L").resize((site.side, below)).point([int(118 - v * 0.36) for v in range(256)])
    water.paste(mirrored, (0, 0), veil.crop((0, 0, *mirrored.size)))
    draw = ImageDraw.Draw(water)
    glint, deep = blend(site.wash[2], (255, 255, 255), 0.5), blend(site.wash[2], (20, 50, 70), 0.35)
    centre = (
        float(site.place.feet[:, 0].mean()) if len(site.place.feet) else site.place.bill_tip[0] - site.place.ahead * 40
    )
    for number in range(22):
        depth = 0.3 + (number / 22) ** 1.4 * (below / site.scale)
        x, w = centre + site.between(-55, 55), site.between(5, 15) * (0.6 + depth / 30)
        y, thick = depth * site.scale, max(1, round(0.25 * site.scale + 0.014 * depth * site.scale))
        draw.line(((x - w) * site.scale, y, (x + w) * site.scale, y), fill=glint if number % 2 else deep, width=thick)
    water = water.filter(ImageFilter.GaussianBlur(0.45 * site.scale))
    edge = Image.new("L", water.size, 255)
    ImageDraw.Draw(edge).rectangle((0, 0, site.side, max(1, int(0.5 * site.scale))), fill=140)
    canvas.paste(water, (0, row), edge)
