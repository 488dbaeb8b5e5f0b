"""Curves through points, in a plane of 100 x 100 units: x to the right, y down, as pictures count."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Points = tuple[Point, ...]
Array = NDArray[np.float64]


@lru_cache(maxsize=32)
def _basis(steps: int) -> Array:
    """Uniform Catmull-Rom weights of four neighbouring points, float (steps, 4)."""
    t = np.arange(steps) / steps
    weights = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], axis=1)
    return np.asarray(weights / 2)


@lru_cache(maxsize=1024)
def closed_curve(nodes: Points, steps: int = 6) -> Array:
    """A smooth closed curve through all points, `steps` samples a piece; float (N * steps, 2)."""
    knots = np.asarray(nodes, dtype=float)
    windows = np.stack([np.roll(knots, 1 - k, axis=0) for k in range(4)], axis=1)
    return np.asarray((_basis(steps) @ windows).reshape(-1, 2))


@lru_cache(maxsize=1024)
def open_curve(nodes: Points, samples: int) -> Array:
    """A smooth curve from the first point to the last, evenly spaced in parameter; float (samples, 2)."""
    knots = np.asarray(nodes, dtype=float)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    position = np.linspace(0, len(knots) - 1, samples)
    piece = np.minimum(position.astype(int), len(knots) - 2)
    t = (position - piece)[:, None]
    p0, p1, p2, p3 = (padded[piece + k] for k in range(4))
    curve = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return np.asarray(curve / 2)


def points(text: str) -> Points:
    """Reads points written as in SVG: "80,33 77,26.5"."""
    pairs = (pair.split(",") for pair in text.split())
    return tuple((float(x), float(y)) for x, y in pairs)
