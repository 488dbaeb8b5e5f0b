"""The feathers of a fan: a wing or a tail as rows of overlapping vanes."""

from functools import lru_cache

import numpy as np

from training.data.synthbirds.anatomy import Fan, Row
from training.data.synthbirds.geometry import Array, open_curve
from training.data.synthbirds.pose import Pose

_SAMPLES = 41
_UNEVEN = np.array((0.0, 0.018, 0.006, 0.02, 0.01))  # how much shorter one feather is than another
# One vane in its own coordinates: across (0 to 1) and along (0 root, 1 tip), rounded at the tip.
_ACROSS = np.array((0.0, 0.0, 0.03, 0.14, 0.32, 0.52, 0.74, 0.92, 1.02, 1.06, 1.06))
_ALONG = np.array((0.0, 0.5, 0.80, 0.92, 0.985, 1.0, 0.985, 0.92, 0.80, 0.5, 0.0))


def fan_points(fan: Fan, across: Array, along: Array) -> Array:
    """Points of the fan, float (..., 2), at shares `across` (first feather to last) and `along` (root to tip)."""
    root, tip = open_curve(fan.root, _SAMPLES), open_curve(fan.tip, _SAMPLES)
    position = np.clip(across, 0, 1) * (_SAMPLES - 1)
    low = np.minimum(position.astype(int), _SAMPLES - 2)
    part = (position - low)[..., None]
    start = root[low] * (1 - part) + root[low + 1] * part
    end = tip[low] * (1 - part) + tip[low + 1] * part
    share = along[..., None]
    bow = 4 * share * (1 - share) * np.clip(across, 0, 1)[..., None] * np.asarray(fan.bulge)
    return np.asarray(start * (1 - share) + end * share + bow)


@lru_cache(maxsize=256)
def row_of_vanes(fan: Fan, row: Row, tip_only: float | None = None) -> Array:
    """The outlines of one row's vanes, last feather first, as they are painted; float (count, 11, 2), read-only.

    `tip_only` gives just that much of each vane's end, for wing bars.
    """
    number = np.arange(row.count - 1, -1, -1)[:, None]
    end = row.end - _UNEVEN[number % len(_UNEVEN)]
    start = row.start if tip_only is None else end - tip_only
    across = (number + _ACROSS) / row.count
    along = start + (end - start) * _ALONG
    return fan_points(fan, across, along)


@lru_cache(maxsize=256)
def _rim(fan: Fan) -> Array:
    u, ones = np.linspace(0, 1, 16), np.ones(16)
    first, last = np.zeros(5), np.ones(5)
    v = np.linspace(0, 1, 5)
    pieces = [(u, 0 * ones), (last, v), (u[::-1], ones), (first, v[::-1])]
    return np.concatenate([fan_points(fan, across, along) for across, along in pieces])


def fan_outline(fan: Fan, pose: Pose) -> Array:
    """The whole fan as one outline in the picture; float (N, 2)."""
    return pose.place(_rim(fan))
