import numpy as np
import pytest
import torch
from torch import Tensor

from training.evaluation.distances import KID_PICTURES, Distances


def features(count: int, width: int = 48, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(99))
    return torch.randn(count, width, generator=generator) @ mixing * scale + 0.4


def compare(real: Tensor, generated: Tensor, batch: int = 64) -> Distances:
    distances = Distances(real.shape[1])
    for side, vectors in ((True, real), (False, generated)):
        for part in vectors.split(batch):
            distances.update(part, side)
    return distances


def fid_by_numpy(first: Tensor, second: Tensor) -> float:
    """The formula of the paper; tr (AB)^½ = tr (A^½ B A^½)^½, and the roots come from symmetric eigenproblems."""
    sides = [side.double().numpy() for side in (first, second)]
    means = [side.mean(0) for side in sides]
    covariances = [np.cov(side, rowvar=False) for side in sides]
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    trace_of_root = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    distance = np.square(means[0] - means[1]).sum() + np.trace(covariances[0]) + np.trace(covariances[1])
    return float(distance - 2 * trace_of_root)


@pytest.mark.parametrize("count", [30, 200])
def test_fid_of_a_set_with_itself_is_0_even_of_fewer_pictures_than_features(count: int) -> None:
    same = features(count)
    assert compare(same, same).fid().value <= 1e-3


def test_fid_agrees_with_an_independent_implementation() -> None:
    real, generated = features(500), features(400, seed=1, scale=1.3)
    assert compare(real, generated).fid().value == pytest.approx(fid_by_numpy(real, generated), rel=1e-4)


def test_fid_does_not_depend_on_the_batches() -> None:
    real, generated = features(100), features(100, seed=1)
    whole = compare(real, generated, batch=100).fid().value
    assert compare(real, generated, batch=7).fid().value == pytest.approx(whole, rel=1e-9)


def test_kid_is_near_0_for_the_same_distribution_and_large_for_another() -> None:
    real = features(200, width=8)
    same = compare(real, features(300, width=8, seed=1)).kid()
    other = compare(real, features(300, width=8, seed=2, scale=2)).kid()
    assert abs(same.mean) < 3 * same.deviation < other.mean
    assert same.subset_size == 100


def test_kid_is_the_same_every_time_and_leaves_torchs_randomness_alone() -> None:
    distances = compare(features(90, width=8), features(120, width=8, seed=1))
    state = torch.get_rng_state()
    assert distances.kid() == distances.kid()
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_does_not_grow_with_the_pictures() -> None:
    distances = Distances(4)
    for seed in range(8):
        distances.update(features(1000, width=4, seed=seed), real=True)
    stored = distances.real_statistics()
    assert stored["count"] == 8000
    assert stored["features"].shape == (KID_PICTURES, 4)


def test_statistics_of_real_pictures_give_the_same_figures() -> None:
    whole = compare(features(100), features(100, seed=1))
    again = Distances(48, whole.real_statistics())
    for part in features(100, seed=1).split(64):
        again.update(part, real=False)
    assert again.fid().value == pytest.approx(whole.fid().value, rel=1e-9)
    assert again.kid() == whole.kid()
