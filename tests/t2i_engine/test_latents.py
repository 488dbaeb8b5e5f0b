from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_engine.errors import OptionError
from t2i_engine.latents import CUT, LARGEST_SEED, draw

seeds = st.integers(0, LARGEST_SEED)
truncations = st.floats(0, 1, exclude_min=True)


def test_noise_of_a_seed_never_changes() -> None:
    latents = draw([7], 3, 2)
    np.testing.assert_allclose(latents.noise, [[1.1362473, -0.5377774, -0.2016436]], rtol=1e-6)
    np.testing.assert_allclose(latents.condition_noise, [[-0.2394141, -1.3862015]], rtol=1e-6)


def test_noise_is_standard_normal() -> None:
    values = draw(range(300), 100, 256).noise.ravel()
    quantiles = np.array([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
    expected = [NormalDist().inv_cdf(quantile) for quantile in quantiles]
    np.testing.assert_allclose(np.quantile(values, quantiles), expected, atol=0.05)
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert values.std() == pytest.approx(1, abs=0.02)


def test_truncated_noise_is_a_cut_normal_times_the_truncation() -> None:
    values = draw(range(300), 100, 0, truncation=0.5).noise.ravel() / 0.5
    normal = NormalDist()
    inside = normal.cdf(CUT) - normal.cdf(-CUT)
    for border in (-1.5, -0.5, 0.5, 1.5):
        expected = (normal.cdf(border) - normal.cdf(-CUT)) / inside
        assert (values < border).mean() == pytest.approx(expected, abs=0.01)


@given(st.lists(seeds, min_size=1, max_size=5), truncations)
def test_a_row_depends_on_its_seed_alone(batch: list[int], truncation: float) -> None:
    together = draw(batch, 5, 4, truncation)
    for row, seed in enumerate(batch):
        alone = draw([seed], 5, 4, truncation)
        np.testing.assert_array_equal(together.noise[row], alone.noise[0])
        np.testing.assert_array_equal(together.condition_noise[row], alone.condition_noise[0])


@given(seeds, truncations)
def test_noise_does_not_depend_on_the_width_of_the_condition_noise(seed: int, truncation: float) -> None:
    np.testing.assert_array_equal(draw([seed], 6, 0, truncation).noise, draw([seed], 6, 9, truncation).noise)


@given(seeds, st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_truncated_noise_stays_within_the_cut(seed: int, truncation: float) -> None:
    latents = draw([seed], 64, 64, truncation)
    bound = np.float32(CUT * truncation)
    assert np.abs(latents.noise).max() <= bound
    assert np.abs(latents.condition_noise).max() <= bound


@given(seeds, seeds)
def test_other_seeds_give_other_noise(one: int, other: int) -> None:
    assert (one == other) == np.array_equal(draw([one], 4, 0).noise, draw([other], 4, 0).noise)


def test_shapes_and_dtype_hold_without_condition_noise() -> None:
    latents = draw([0, 1], 3, 0)
    assert latents.noise.shape == (2, 3)
    assert latents.condition_noise.shape == (2, 0)
    assert latents.noise.dtype == latents.condition_noise.dtype == np.float32


@pytest.mark.parametrize("seed", [-1, LARGEST_SEED + 1])
def test_seed_out_of_range_is_an_error(seed: int) -> None:
    with pytest.raises(OptionError, match=f"seed {seed} is out of range"):
        draw([seed], 1, 1)


@pytest.mark.parametrize("truncation", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_truncation_out_of_range_is_an_error(truncation: float) -> None:
    with pytest.raises(OptionError, match=r"truncation .* is out of range"):
        draw([0], 1, 1, truncation)
