"""Pictures on the way from one caption and seed to another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from t2i_engine.backends import tensorrt, tensorrt_rtx
from t2i_engine.backends.base import Array
from t2i_engine.cli import main
from t2i_engine.engine import Engine
from t2i_engine.latents import LARGEST_SEED, between, draw
from tests.t2i_engine.painters import Painter

A, B = "a yellow bird", "a blue bird"
seeds = st.integers(0, LARGEST_SEED)


@given(seeds, seeds, st.integers(2, 9), st.sampled_from([1.0, 0.5]))
def test_noise_on_the_way_begins_and_ends_with_the_seeds_and_stays_as_large(
    start: int, end: int, steps: int, truncation: float
) -> None:
    way, ends = between(start, end, steps, 40, 60, truncation), draw([start, end], 40, 60, truncation)
    for found, expected in ((way.noise, ends.noise), (way.condition_noise, ends.condition_noise)):
        assert found.dtype == np.float32
        assert len(found) == steps
        np.testing.assert_allclose(found[[0, -1]], expected, rtol=1e-5, atol=1e-6)
        sizes = np.linalg.norm(found, axis=1)
        assert sizes.min() > 0.9 * min(sizes[0], sizes[-1])


def test_a_way_begins_and_ends_with_the_pictures_of_its_captions_and_seeds(tiny_bundle: Path) -> None:
    engine = Engine.open(tiny_bundle)
    strip = engine.interpolate((A, B), (3, 9), steps=5)
    assert strip.pixels.shape[0] == 5
    for found, caption, seed in ((strip.pixels[0], A, 3), (strip.pixels[-1], B, 9)):
        np.testing.assert_allclose(found.astype(int), engine.generate(caption, seed).pixels, atol=1)
    halfway = engine.interpolate((A, B), (3, 9), steps=3).pixels[1]
    np.testing.assert_array_equal(strip.pixels[2], halfway)


def test_a_long_way_is_drawn_in_batches_that_every_backend_takes(tiny_bundle: Path) -> None:
    class Spy(Painter):
        def changed(self, pixels: Array) -> Array:
            batches.append(len(pixels))
            return pixels

    batches = list[int]()
    engine = replace(Engine.open(tiny_bundle), generator=Spy())
    strip = engine.interpolate((A, B), (3, 9), steps=40).pixels
    assert max(batches) <= min(tensorrt.MAX_BATCH, tensorrt_rtx.MAX_BATCH)
    ends = [engine.generate(A, 3).pixels, engine.generate(B, 9).pixels]
    np.testing.assert_allclose(strip[[0, -1]].astype(int), ends, atol=1)
    fewer = engine.interpolate((A, B), (3, 9), steps=14).pixels.astype(int)
    np.testing.assert_allclose(strip[::3], fewer, atol=1)


def test_unknown_words_are_read_as_near_ones_unless_they_are_to_be_exact(interpolate: "Interpolate") -> None:
    assert "read 'azure' as 'blue'" in interpolate("a yellow bird", "an azure bird", "--out", "near.png").stderr
    exact = interpolate("a yellow bird", "an azure bird", "--exact-words", "--out", "exact.png")
    assert "left out unknown words: 'an', 'azure'" in exact.stderr


@pytest.fixture
def interpolate(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Interpolate":
    monkeypatch.chdir(tmp_path)
    return Interpolate(tiny_bundle)


class Interpolate:
    """Runs `t2i-engine interpolate` with the tiny bundle in an empty working directory."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["interpolate", "--bundle", str(self.bundle), *arguments])


def test_a_strip_has_the_pictures_side_by_side_and_says_what_they_are(
    interpolate: Interpolate, tiny_bundle: Path
) -> None:
    result = interpolate(A, B, "--seeds", "3,9", "--steps", "4", "--out", "strip.png")
    assert result.exit_code == 0, result.output
    assert result.stdout == "strip.png\n"
    expected = Engine.open(tiny_bundle).interpolate((A, B), (3, 9), 4).pixels
    with Image.open("strip.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.concatenate(list(expected), axis=1))
        assert image.info["Description"] == f"{A}\n{B}"
        assert image.info["Seed"] == "3,9"


def test_an_animation_loops_back_and_forth(interpolate: Interpolate) -> None:
    result = interpolate(A, "--seeds", "3,9", "--steps", "4", "--out", "film.gif")
    assert result.exit_code == 0, result.output
    with Image.open("film.gif") as film:
        assert film.info["loop"] == 0
        assert len(list(ImageSequence.Iterator(film))) == 6


def test_without_out_it_is_named_like_a_picture(interpolate: Interpolate) -> None:
    result = interpolate(A, B)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("a-yellow-bird-0-strip_")
    assert Path(result.stdout.strip()).is_file()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((A,), "both ends are the same picture"),
        ((A, A, "--seeds", "3,3"), "both ends are the same picture"),
        ((A, B, A), "captions: 3"),
        ((A, B, "--seeds", "0-4"), "seeds: 5"),
        ((A, B, "--steps", "1"), "1 steps are out of range"),
        ((A, "xyzzy"), "xyzzy"),
        ((A, B, "--out", "strip.bmp"), "'.bmp'; one of .png, .jpg, .jpeg, .webp, .gif expected"),
        ((A, B, "--out", "nowhere/strip.gif"), "its folder cannot be found"),
        ((A, B, "--truncation", "2"), "truncation 2.0 is out of range"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    interpolate: Interpolate, arguments: tuple[str, ...], part: str
) -> None:
    result = interpolate(*arguments)
    assert result.exit_code == 2, result.output
    assert part in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error")]) == 1
    assert not list(Path().iterdir())
