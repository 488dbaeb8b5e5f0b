"""Features for comparing pictures: fixed filters instead of a learned network, so they are the same everywhere.

Mean energies of oriented filters at four scales, as in the first layer of a scattering network (Bruna & Mallat, 2013),
and a thumbnail. docs/export.md says how well they agree with the Inception network on which FID is based.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from t2i_engine.backends.base import Array
from t2i_engine.pictures import Pixels

SCALES = 4
THUMBNAIL = 4  # pixels along a side

_BLOCK = 4
_ORIENTED = 3 * (_BLOCK**2 - 1)

WIDTH = SCALES * _ORIENTED + 3 * THUMBNAIL**2
"""D, the number of features of a picture."""

_FAINT = 2.0  # one or two levels of 255: below that, energies count as equal
# Luma and two colour differences (ITU-R BT.601), one column each.
_COLOURS = np.array([[0.299, 0.5, -0.147], [0.587, -0.419, -0.289], [0.114, -0.081, 0.436]])

Features = npt.NDArray[np.floating]


class Distance(NamedTuple):
    """The distance between two sets of features, whose rows are paired by caption and seed."""

    frechet: float
    """The Fréchet distance of Gaussians fitted to both sets: what a change does to all pictures alike."""
    mean: float
    """The mean Euclidean distance over pairs."""
    worst: float
    """The Euclidean distance of the pair that is furthest apart."""


def describe(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Maps pixels uint8 (B, R, R, 3) to features, float32 (B, D); R is a power of two, 32 or more."""
    batch, side = len(pixels), pixels.shape[1] // THUMBNAIL
    cells = pixels.reshape(batch, THUMBNAIL, side, THUMBNAIL, side, 3)
    thumbnails = cells.mean(axis=(2, 4), dtype=np.float32) @ _COLOURS.astype(np.float32)
    features: list[Array] = [thumbnails.reshape(batch, -1)]
    scaled: Array = pixels.astype(np.float32)
    for _ in range(SCALES):
        across = scaled.shape[1] // _BLOCK
        blocks = scaled.reshape(batch, across, _BLOCK, across, _BLOCK, 3).swapaxes(2, 3)
        energies = np.abs(blocks.reshape(-1, _FILTERS.shape[0]) @ _FILTERS).reshape(batch, across**2, -1).mean(axis=1)
        features.append(np.log(energies + _FAINT))
        rows = scaled[:, 0::2] + scaled[:, 1::2]
        scaled = 0.25 * (rows[:, :, 0::2] + rows[:, :, 1::2])
    return np.concatenate(features, axis=1, dtype=np.float32)


def distance(found: Features, expected: Features) -> Distance:
    """Compares two sets of features (N, D) of the same captions and seeds; N is at least 2."""
    apart = np.linalg.norm(found.astype(np.float64) - expected.astype(np.float64), axis=1)
    return Distance(frechet(found, expected), float(apart.mean()), float(apart.max()))


def frechet(first: Features, second: Features) -> float:
    """The Fréchet distance (Dowson & Landau, 1982) of Gaussians fitted to two sets of features (N, D), as in FID.

    The trace of the root of the covariances' product is a sum of singular values, which QR gives without squaring.
    """
    means: list[Array] = []
    factors: list[Array] = []
    for features in (first.astype(np.float64), second.astype(np.float64)):
        means.append(features.mean(axis=0))
        factors.append(np.asarray(np.linalg.qr((features - means[-1]) / np.sqrt(len(features) - 1), mode="r")))
    spread = sum(np.square(factor).sum() for factor in factors)
    shared = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    return max(0.0, float(np.square(means[0] - means[1]).sum() + spread - 2 * shared))


def _filters() -> Array:
    """The DCT-II of 4 × 4 pixel blocks in each colour component, without the means: float32 (4 * 4 * 3, 45)."""
    index = np.arange(_BLOCK)
    waves = np.cos(np.pi * index[:, None] * (2 * index + 1) / (2 * _BLOCK))
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    filters: Array = np.einsum("ur,vc,pq->rcpuvq", waves, waves, _COLOURS).reshape(_BLOCK * _BLOCK * 3, -1, 3)
    return np.asarray(filters[:, 1:].reshape(len(filters), -1), np.float32)


_FILTERS = _filters()
