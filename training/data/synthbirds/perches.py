"""What a bird sits, stands or clings on above the ground: branches, trunks, fences, nests and rocks."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.data.synthbirds.colours import Rgb, blend
from training.data.synthbirds.geometry import Array, closed_curve
from training.data.synthbirds.site import LEAVES, SNOW, Site, toned

_BARK: tuple[Rgb, ...] = ((112, 86, 64), (96, 80, 68), (128, 104, 82), (104, 92, 84))
_WOOD: tuple[Rgb, ...] = ((150, 116, 82), (164, 150, 134), (128, 100, 78), (232, 228, 218))
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


def branch(site: Site, canvas: Image.Image) -> None:
    """A branch with twigs under the bird's feet; snow lies on it where it snows."""
    draw, feet = ImageDraw.Draw(canvas), site.place.feet
    bark = site.lit(_BARK[int(site.rng.random() * len(_BARK))])
    slope = site.between(-0.1, 0.1)
    if len(feet) > 1 and abs(feet[0, 0] - feet[1, 0]) > 1:
        slope = 0.5 * slope + 0.8 * float((feet[0, 1] - feet[1, 1]) / (feet[0, 0] - feet[1, 0]))
    middle, thick, bend = (
        feet.mean(axis=0),
        site.between(4.6, 7.0) * site.place.scale**0.5,
        site.between(-0.0012, 0.0012),
    )
    x = np.linspace(-4, 104, 28)
    off = x - middle[0]
    taper = 1 + 0.005 * off * (1 if site.rng.random() < 0.5 else -1)
    y = middle[1] + slope * off + bend * off**2 + 0.35 * np.sin(x * 0.35 + site.rng.random() * 6)
    for _ in range(3):
        _twig(site, draw, float(site.between(5, 95)), x, y + thick * 0.4, bark)
    for top, bottom, tone in _ROUND:
        upper, lower = np.stack([x, y + thick * taper * top], 1), np.stack([x, y + thick * taper * bottom], 1)
        draw.polygon(site.flat(np.concatenate([upper, lower[::-1]])), fill=toned(bark, tone))
    for _ in range(26):
        i, depth, length = site.between(0, 26), site.between(0.1, 0.9), site.between(2, 5)
        j = int(i)
        start = np.array((x[j], y[j] + thick * taper[j] * depth))
        end = start + np.array((length, (y[j + 1] - y[j]) / 4 * length))
        draw.line(
            site.flat(np.stack([start, end])),
            fill=toned(bark, site.between(-0.35, 0.25)),
            width=max(1, round(0.4 * site.scale)),
        )
    if site.weather == "snow":
        heap = 2.4 + 1.0 * np.sin(x * 0.21 + site.rng.random() * 6) + 0.5 * np.sin(x * 0.5)
        upper, lower = np.stack([x, y - heap * 0.55], 1), np.stack([x, y + heap * 0.5 + 0.6], 1)
        draw.polygon(site.flat(np.concatenate([upper, lower[::-1]])), fill=(206, 218, 232))
        draw.polygon(site.flat(np.concatenate([upper, (lower - (0, 1.1))[::-1]])), fill=SNOW)


def _twig(site: Site, draw: ImageDraw.ImageDraw, at: float, x: Array, y: Array, bark: Rgb) -> None:
    base = np.array((at, np.interp(at, x, y)))
    lean = site.between(-16, 16)
    rise = site.between(-13, -7) if site.rng.random() < 0.4 else site.between(10, 17)
    tip = base + np.array((lean, rise))
    draw.line(
        site.flat(np.stack([base, base + (tip - base) * (0.5, 0.35), tip])),
        fill=toned(bark, -0.1),
        width=max(1, round(1.0 * site.scale)),
    )
    if site.weather == "snow":
        return
    green = site.lit(LEAVES[int(site.rng.random() * len(LEAVES))])
    for share in (0.5, 0.75, 1.0):
        stem = base + (tip - base) * share
        angle, length = site.between(0, 6.3), site.between(5, 8)
        along = np.array((np.cos(angle), np.sin(angle)))
        side = np.array((-along[1], along[0])) * length * 0.24
        end = stem + along * length
        leaf = np.stack([stem, stem + along * length * 0.35 + side, end, stem + along * length * 0.35 - side])
        tone = site.between(-0.15, 0.2)
        draw.polygon(site.flat(closed_curve(tuple(map(tuple, leaf.tolist())))), fill=toned(green, tone))
        draw.line(
            site.flat(np.stack([stem, end])),
            fill=toned(green, tone - 0.2),
            width=max(1, round(0.35 * site.scale)),
        )


def trunk(site: Site, canvas: Image.Image) -> None:
    """A trunk that the bird clings to."""
    draw, ahead = ImageDraw.Draw(canvas), site.place.ahead
    bark = site.lit(_BARK[int(site.rng.random() * len(_BARK))])
    edge = float((site.place.feet[:, 0] * ahead).min()) * ahead - 0.5 * ahead
    width = site.between(20, 30)
    y = np.linspace(-2, 102, 22)
    wobble = 0.8 * np.sin(y * 0.11 + site.rng.random() * 6)
    for start, end, tone in _ROUND:
        near, far = edge + ahead * width * start + wobble, edge + ahead * width * end + wobble
        draw.polygon(
            site.flat(np.concatenate([np.stack([near, y], 1), np.stack([far, y], 1)[::-1]])),
            fill=toned(bark, tone),
        )
    for _ in range(46):
        x, top, length = (
            edge + ahead * width * site.between(0.03, 0.97),
            site.between(-2, 98),
            site.between(4, 12),
        )
        line = np.array(((x, top), (x + site.between(-1, 1), top + length)))
        draw.line(site.flat(line), fill=toned(bark, site.between(-0.45, 0.25)), width=max(1, round(0.6 * site.scale)))


def fence(site: Site, canvas: Image.Image) -> None:
    """Two rails on posts; the bird is on the upper one."""
    draw, feet = ImageDraw.Draw(canvas), site.place.feet
    wood = site.lit(_WOOD[int(site.rng.random() * len(_WOOD))])
    top, thick = float(feet[:, 1].mean()) - 0.4, site.between(5.0, 6.5) * site.place.scale**0.5
    gap, width = site.between(34, 46), site.between(6, 8)
    post = float(feet[:, 0].mean()) - gap * site.between(0.3, 0.7)
    for x in np.arange(post - 2 * gap, 110, gap):
        for start, end, tone in ((0.0, 1.0, -0.08), (0.0, 0.3, 0.12), (0.75, 1.0, -0.3)):
            box = (x + width * start, top - 4, x + width * end, 105)
            draw.rectangle([float(v) * site.scale for v in box], fill=toned(wood, tone))
    for y in (top, top + 3.6 * thick):
        for start, end, tone in ((0.0, 1.0, 0.06), (0.0, 0.25, 0.3), (0.78, 1.0, -0.32)):
            box = (-2, y + thick * start, 102, y + thick * end)
            draw.rectangle([v * site.scale for v in box], fill=toned(wood, tone))
        for _ in range(9):
            x, at = site.between(-4, 96), y + thick * site.between(0.3, 0.75)
            line = [v * site.scale for v in (x, at, x + site.between(4, 14), at)]
            draw.line(line, fill=toned(wood, -0.2), width=max(1, round(0.35 * site.scale)))
    if site.weather == "snow":
        draw.rectangle([v * site.scale for v in (-2, top - 1.6, 102, top + 0.6)], fill=SNOW)


def nest(site: Site, canvas: Image.Image) -> None:
    """A bowl of twigs that hides the bird from its legs down."""
    draw, size = ImageDraw.Draw(canvas), site.place.scale
    x, top = float(site.place.feet[:, 0].mean()) - 3 * site.place.ahead * size, site.place.nest_rim
    wide, deep = 31 * size, 17 * size
    straw = site.lit(blend((142, 106, 66), (120, 96, 74), site.rng.random()))
    angles = np.linspace(0, np.pi, 16)
    bowl = np.stack([x + wide * np.cos(angles), top + deep * np.sin(angles) ** 0.7], 1)
    draw.polygon(site.flat(bowl), fill=toned(straw, -0.35))
    for _ in range(130):
        across, down = site.between(-1, 1), site.between(-0.06, 0.92)
        reach = wide * (1 - 0.35 * max(down, 0.0) ** 2)
        middle = np.array((x + across * reach * 0.92, top + deep * down * (1 - 0.8 * across**2)))
        along = np.array((site.between(3, 8), 5 * across + site.between(-2.4, 2.4))) * size * (1, 0.6)
        tone = site.between(-0.3, 0.4) - 0.25 * down
        line = np.stack([middle - along, middle + along])
        draw.line(site.flat(line), fill=toned(straw, tone), width=max(1, round(0.7 * size * site.scale)))


def rock(site: Site, canvas: Image.Image) -> None:
    """A boulder of flat faces: light on top, darker towards the ground, rough all over."""
    feet = site.place.feet
    middle, top = float(feet[:, 0].mean()), float(feet[:, 1].min()) - 0.6
    stone = site.lit(blend((146, 138, 128), (108, 112, 118), site.rng.random()))
    spread, count = site.between(30, 42), 7
    across = np.linspace(-1, 1, count)
    reach = np.array((0.45, 1.0, 1.25))[:, None]
    x = middle + spread * across * reach + np.array([site.between(-3, 3) for _ in range(3 * count)]).reshape(3, count)
    fall = np.array((0.4, 7.0, 40.0))[:, None] + np.array((1.6, 9.0, 0.0))[:, None] * across**2
    y = (
        top
        + fall
        + np.array([site.between(0, 1) for _ in range(3 * count)]).reshape(3, count)
        * np.array(((0.7,), (5.0,), (0.0,)))
    )
    rows = np.stack([x, y], axis=2)
    ledge, mask = Image.new("RGB", canvas.size, stone), Image.new("L", canvas.size)
    draw = ImageDraw.Draw(ledge)
    for row, tone in ((0, 0.1), (1, -0.2)):
        for k in range(count - 1):
            face = np.stack([rows[row, k], rows[row, k + 1], rows[row + 1, k + 1], rows[row + 1, k]])
            draw.polygon(
                site.flat(face),
                fill=toned(stone, tone - 0.1 * across[k] * site.place.ahead + site.between(-0.1, 0.1)),
            )
    for _ in range(70):
        px, py, r, tone = (
            middle + site.between(-50, 50),
            top + site.between(0, 30),
            site.between(0.3, 1.2),
            site.between(-0.4, 0.35),
        )
        draw.ellipse(
            [v * site.scale for v in (px - 1.7 * r, py - 0.5 * r, px + 1.7 * r, py + 0.5 * r)],
            fill=toned(stone, tone),
        )
    rim = np.concatenate([rows[0], rows[1:, -1], rows[:0:-1, 0]])
    ImageDraw.Draw(mask).polygon(site.flat(rim), fill=255)
    canvas.paste(
        ledge.filter(ImageFilter.GaussianBlur(0.35 * site.scale)),
        mask=mask.filter(ImageFilter.GaussianBlur(0.4 * site.scale)),
    )
