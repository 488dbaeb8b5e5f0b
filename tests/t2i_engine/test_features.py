"""The features that pictures are compared by, and the distances between sets of them."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from t2i_engine.features import describe, distance, frechet


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_every_resolution_has_the_same_features(resolution: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, resolution, resolution, 3), dtype=np.uint8)
    features = describe(pixels)
    assert features.shape == (3, 228)
    assert features.dtype == np.float32
    np.testing.assert_allclose(describe(pixels[1:2]), features[1:2], rtol=1e-5)


def test_grain_colour_and_place_are_all_seen() -> None:
    random = np.random.default_rng(0)
    flat = np.full((1, 64, 64, 3), 100, np.uint8)
    grainy = flat + random.integers(0, 3, flat.shape, dtype=np.uint8)
    left, right = flat.copy(), flat.copy()
    left[:, 16:32, :16] = 180
    right[:, 16:32, 48:] = 180
    tinted = flat.copy()
    tinted[..., 2] += 20
    found = describe(np.concatenate([flat, grainy, left, right, tinted]))
    apart = np.linalg.norm(found[:, None] - found, axis=2)[~np.eye(5, dtype=bool)]
    assert apart.min() > 1


def test_the_frechet_distance_is_that_of_its_definition() -> None:
    random = np.random.default_rng(0)
    first = random.normal(size=(300, 5)) @ random.normal(size=(5, 5))
    second = random.normal(size=(200, 5)) @ random.normal(size=(5, 5)) + 1
    one, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert frechet(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet(first, first) < 1e-9


def test_fewer_pictures_than_features_can_be_compared() -> None:
    random = np.random.default_rng(0)
    first = random.normal(size=(20, 50))
    assert distance(first, first) == pytest.approx((0, 0, 0), abs=1e-9)
    moved = distance(first + 2, first)
    assert moved == pytest.approx((50 * 4, 2 * 50**0.5, 2 * 50**0.5))
