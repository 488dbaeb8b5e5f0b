"""The part map: which part of the bird each spot of a picture shows. Measured, so that captions are true."""

import numpy as np
from PIL import Image, ImageDraw

from training.data.synthbirds.anatomy import Part, Silhouette
from training.data.synthbirds.attributes import PARTS
from training.data.synthbirds.feathers import fan_outline
from training.data.synthbirds.geometry import Array, Points, closed_curve
from training.data.synthbirds.pose import Pose

# The same for every picture side, so that attributes do not depend on it.
_SIDE = 96
_SCALE = _SIDE / 100


def part_areas(silhouette: Silhouette, pose: Pose, crest: bool, hidden_from: float | None) -> dict[Part, float]:
    """The visible parts' shares of the picture, of which everything below `hidden_from` (units) is hidden."""
    canvas = Image.new("L", (_SIDE, _SIDE))
    draw = ImageDraw.Draw(canvas)

    def fill(points: Array, part: Part) -> None:
        draw.polygon((points * _SCALE).ravel().tolist(), fill=1 + PARTS.index(part))

    def region(points: Points) -> Array:
        return pose.place(closed_curve(points))

    if silhouette.far_wing:
        fill(fan_outline(silhouette.far_wing, pose), "wings")
    fill(fan_outline(silhouette.tail, pose), "tail")
    for leg in silhouette.legs:
        width = max(1, round(silhouette.leg_width * pose.scale * _SCALE))
        draw.line((pose.place(leg) * _SCALE).ravel().tolist(), fill=1 + PARTS.index("legs"), width=width)
    if crest:
        fill(region(silhouette.crest), "crown")
    _fill_body(canvas, silhouette, pose)
    fill(region(silhouette.bill.lower), "bill")
    fill(region(silhouette.bill.upper), "bill")
    fill(fan_outline(silhouette.wing, pose), "wings")
    rows = _SIDE if hidden_from is None else int(hidden_from * _SCALE)
    counts = np.bincount(np.asarray(canvas)[:rows].ravel(), minlength=len(PARTS) + 1)
    return {part: float(counts[1 + number]) / _SIDE**2 for number, part in enumerate(PARTS)}


def _fill_body(canvas: Image.Image, silhouette: Silhouette, pose: Pose) -> None:
    regions: tuple[tuple[Points, Part], ...] = (
        (silhouette.belly, "belly"),
        (silhouette.breast, "breast"),
        (silhouette.face, "face"),
        (silhouette.crown, "crown"),
    )
    trunk = Image.new("L", canvas.size, 1 + PARTS.index("back"))
    draw = ImageDraw.Draw(trunk)
    for points, part in regions:
        draw.polygon((pose.place(closed_curve(points)) * _SCALE).ravel().tolist(), fill=1 + PARTS.index(part))
    mask = Image.new("L", canvas.size)
    ImageDraw.Draw(mask).polygon((pose.place(closed_curve(silhouette.body)) * _SCALE).ravel().tolist(), fill=255)
    canvas.paste(trunk, mask=mask)
