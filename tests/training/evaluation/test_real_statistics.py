import logging
from pathlib import Path

import pytest

from tests.training.evaluation.instruments import MeanColours, noise_pictures
from training.evaluation.distances import Distances, real_statistics
from training.evaluation.draws import RealPictures

PICTURES = noise_pictures(40, seed=0)


def distances_of(
    network: MeanColours,
    cache: Path,
    fingerprint: str = "birds-1",
    count: int = 40,
    resolution: int = 8,
    side: int = 0,
    views: int = 1,
) -> Distances:
    real = RealPictures(PICTURES[:count, :resolution, :resolution], side or resolution, views)
    return Distances(network.width, real_statistics(network, real, fingerprint, cache, lambda done: None))


def test_features_of_real_pictures_are_computed_once(tmp_path: Path) -> None:
    network = MeanColours()
    first, second = distances_of(network, tmp_path), distances_of(network, tmp_path)
    assert network.pictures == 40
    for distances in (first, second):
        distances.update(network(noise_pictures(40, seed=1)), real=False)
    assert first.fid().value == second.fid().value
    assert second.counts == {True: 40, False: 40}


@pytest.mark.parametrize(
    ("fingerprint", "count", "resolution"), [("birds-2", 40, 8), ("birds-1", 39, 8), ("birds-1", 40, 6)]
)
def test_other_pictures_are_computed_anew(tmp_path: Path, fingerprint: str, count: int, resolution: int) -> None:
    network = MeanColours()
    distances_of(network, tmp_path)
    distances_of(network, tmp_path, fingerprint, count, resolution)
    assert network.pictures == 40 + count


@pytest.mark.parametrize(("side", "views"), [(6, 1), (7, 3)])
def test_other_crops_are_computed_anew(tmp_path: Path, side: int, views: int) -> None:
    network = MeanColours()
    for _ in range(2):
        distances_of(network, tmp_path)
        distances_of(network, tmp_path, side=7, views=1)
        found = distances_of(network, tmp_path, side=side, views=views)
        assert found.counts[True] == 40 * views
    assert network.pictures == 80 + 40 * views


def test_another_network_computes_anew(tmp_path: Path) -> None:
    distances_of(MeanColours(), tmp_path)
    other = MeanColours("other colours")
    distances_of(other, tmp_path)
    assert other.pictures == 40


def test_a_damaged_file_is_computed_anew(tmp_path: Path) -> None:
    network = MeanColours()
    distances_of(network, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    distances_of(network, tmp_path)
    assert network.pictures == 80
    distances_of(network, tmp_path)
    assert network.pictures == 80


def test_statistics_that_cannot_be_cached_are_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("t2i_engine"), "propagate", True)  # the command line switches it off
    (tmp_path / "cache").write_text("a file where a folder should be")
    distances = distances_of(MeanColours(), tmp_path / "cache")
    assert distances.counts[True] == 40
    assert "will be computed again" in caplog.text
