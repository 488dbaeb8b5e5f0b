"""How a silhouette stands in its picture: size, place, tilt, facing and individual build."""

from dataclasses import dataclass
from random import Random

import numpy as np

from training.data.synthbirds.anatomy import Silhouette, Stance
from training.data.synthbirds.geometry import Array, Points, closed_curve, open_curve

# How far (degrees) a bird may lean either way in each stance.
_LEAN: dict[Stance, float] = {"perched": 8, "standing": 4, "clinging": 3, "swimming": 1.5, "flying": 11, "hovering": 9}


@dataclass(frozen=True)
class Pose:
    """An affine map from silhouette to picture, after a gentle wave that makes every individual's build its own."""

    matrix: tuple[float, float, float, float]
    shift: tuple[float, float]
    wave: tuple[float, float]

    @property
    def scale(self) -> float:
        """How much larger the bird is than its silhouette."""
        a, b, c, d = self.matrix
        return float(abs(a * d - b * c) ** 0.5)

    def place(self, points: Points | Array) -> Array:
        """Moves points, float (N, 2), from the silhouette to the picture, which has 100 units a side."""
        p = np.asarray(points, dtype=float)
        waved = p + 1.1 * np.sin(p[:, ::-1] * (0.09, 0.075) + self.wave)
        a, b, c, d = self.matrix
        return np.asarray(waved @ np.array(((a, c), (b, d))) + self.shift)


def outline(silhouette: Silhouette, crest: bool) -> Array:
    """Points that bound the whole bird, for fitting it into the picture."""
    fans = [silhouette.wing, silhouette.tail] + ([silhouette.far_wing] if silhouette.far_wing else [])
    rims = [open_curve(fan.tip, 12) for fan in fans]
    legs = [np.asarray(leg) for leg in silhouette.legs] + [np.asarray(part.shape) for part in silhouette.ornaments]
    tuft = [np.asarray(silhouette.crest)] if crest else []
    bill = np.asarray(silhouette.bill.upper)
    if silhouette.stance == "hovering":
        bill = bill + np.array((6.0, 0.0))  # room for the flower
    return np.concatenate([closed_curve(silhouette.body), bill, *rims, *legs, *tuft])


def draw_pose(silhouette: Silhouette, faces_left: bool, crest: bool, small: bool, rng: Random) -> Pose:
    """Draws a pose that keeps the whole bird inside the picture; a small bird takes about half of its side."""
    lean = np.deg2rad((rng.random() * 2 - 1) * _LEAN[silhouette.stance])
    width, height = 0.94 + 0.12 * rng.random(), 0.94 + 0.12 * rng.random()
    rotation = np.array(((np.cos(lean), -np.sin(lean)), (np.sin(lean), np.cos(lean))))
    matrix = np.diag((-1.0 if faces_left else 1.0, 1.0)) @ rotation @ np.diag((width, height))
    wave = (rng.random() * 6.3, rng.random() * 6.3)
    flat = Pose(_entries(matrix), (0.0, 0.0), wave).place(outline(silhouette, crest))
    low, high = flat.min(axis=0), flat.max(axis=0)
    extent = 46 + 12 * rng.random() if small else 76 + 18 * rng.random()
    scale = extent / float((high - low).max())
    slack = 97.5 - (high - low) * scale - 2.5
    # Rather in the middle than at an edge: the mean of two uniform draws.
    share = np.array([(rng.random() + rng.random()) / 2, (rng.random() + rng.random()) / 2])
    if silhouette.waterline < 100 or (small and silhouette.legs):
        share[1] = 0.45 + 0.4 * share[1]
    shift = 2.5 + slack * share - low * scale
    return Pose(_entries(matrix * scale), (float(shift[0]), float(shift[1])), wave)


def _entries(matrix: Array) -> tuple[float, float, float, float]:
    a, b, c, d = (float(value) for value in matrix.ravel())
    return a, b, c, d
