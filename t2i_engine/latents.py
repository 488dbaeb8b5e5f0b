"""Seed to noise: the same numbers on every machine and with every NumPy version; truncation follows DF-GAN."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from t2i_engine.errors import OptionError

LARGEST_SEED = 2**32 - 1
CUT = 2.0

Noise = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Latents:
    """`noise` float32 (B, Z) and `condition_noise` float32 (B, S), one row per seed."""

    noise: Noise
    condition_noise: Noise


def draw(seeds: Sequence[int], noise_width: int, condition_width: int, truncation: float = 1.0) -> Latents:
    """Draws both noises for each seed; a row depends only on its seed and the truncation.

    Truncation 1 is N(0, I). Below 1, it is a normal distribution cut at ±2, times the truncation. Raises `OptionError`
    if a seed or the truncation is out of range.
    """
    check_truncation(truncation)
    rows = np.array([_normals(check_seed(seed), noise_width + condition_width, truncation) for seed in seeds])
    rows = rows.reshape(len(seeds), noise_width + condition_width).astype(np.float32)
    return Latents(rows[:, :noise_width], rows[:, noise_width:])


def between(start: int, end: int, steps: int, noise_width: int, condition_width: int, truncation: float) -> Latents:
    """Interpolates both noises between two seeds, inclusive, in `steps` rows.

    Spherically (Shoemake, 1985): halfway along a straight line, noise would be shorter than any a generator has seen.
    Raises `OptionError` as `draw` does.
    """
    ends = draw([start, end], noise_width, condition_width, truncation)
    return Latents(*(_spherical(rows[0], rows[1], steps) for rows in (ends.noise, ends.condition_noise)))


def check_seed(seed: int) -> int:
    """Returns the seed. Raises `OptionError` unless it is in 0 to 2**32 - 1."""
    if not 0 <= seed <= LARGEST_SEED:
        raise OptionError(f"seed {seed} is out of range; 0 to {LARGEST_SEED} expected")
    return seed


def check_truncation(truncation: float) -> float:
    """Returns the truncation. Raises `OptionError` unless it is in (0, 1]."""
    if not 0 < truncation <= 1:
        raise OptionError(f"truncation {truncation} is out of range; above 0 and at most 1 expected")
    return truncation


def _spherical(start: Noise, end: Noise, steps: int) -> Noise:
    """Interpolates spherically between two vectors, inclusive: float32 (steps, width)."""
    share = np.linspace(0, 1, steps)[:, None]
    length = float(np.linalg.norm(start) * np.linalg.norm(end))
    angle = np.arccos(np.clip(start @ end / length, -1, 1)) if length else 0.0
    if np.sin(angle) < 1e-6:  # the same direction, or none
        return ((1 - share) * start + share * end).astype(np.float32)
    vectors = (np.sin((1 - share) * angle) * start + np.sin(share * angle) * end) / np.sin(angle)
    return np.asarray(vectors, np.float32)


def _normals(seed: int, count: int, truncation: float) -> list[float]:
    # NumPy guarantees a bit generator's raw integers across versions, but not its normal distribution: so the inverse
    # CDF is applied here. 52 bits plus a half fit a float64 exactly and are never 0 or 1.
    normal = NormalDist()
    uniforms = ((np.random.Philox(key=seed).random_raw(count) >> np.uint64(12)) + 0.5) * 2.0**-52
    if truncation == 1:
        return [normal.inv_cdf(uniform) for uniform in uniforms.tolist()]
    low, high = normal.cdf(-CUT), normal.cdf(CUT)
    cut = (normal.inv_cdf(low + uniform * (high - low)) for uniform in uniforms.tolist())
    return [truncation * min(max(value, -CUT), CUT) for value in cut]
