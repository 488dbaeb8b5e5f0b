import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event, current_thread
from typing import BinaryIO
from unittest.mock import ANY

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from t2i_engine.errors import OptionError, OutputError
from t2i_engine.pictures import Picture, grid, in_threads

any_text = st.text(st.characters(exclude_categories=()), max_size=300)


def _picture(caption: str = "a yellow bird", seed: int = 0, level: int = 0) -> Picture:
    pixels = np.random.default_rng(level).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Picture(pixels, caption, seed, "tiny")


def _texts(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        assert isinstance(image, PngImageFile)
        return {key: str(text) for key, text in image.text.items()}


def test_png_keeps_every_level_and_tells_where_it_comes_from(tmp_path: Path) -> None:
    picture = _picture("a yellow bird, 鳥", seed=7)
    path = picture.save(tmp_path / "bird.png")
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), picture.pixels)
    texts = _texts(path)
    assert re.fullmatch(r"t2i-engine \d+\.\d+.*", texts.pop("Software"))
    assert texts == {"Description": "a yellow bird, 鳥", "Seed": "7", "Truncation": "1", "Bundle": "tiny"}


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.PNG", "PNG"), ("a.jpg", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP")]
)
def test_the_suffix_decides_the_format(tmp_path: Path, name: str, kind: str) -> None:
    with Image.open(_picture().save(tmp_path / name)) as image:
        assert image.format == kind
        assert image.size == (8, 8)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lower_quality_is_a_smaller_file(tmp_path: Path, name: str) -> None:
    sizes = [_picture().save(tmp_path / name, quality).stat().st_size for quality in (95, 50)]
    assert sizes[1] < sizes[0]


def test_pngs_are_as_small_as_those_that_take_three_times_as_long(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    coarse = random.normal(128, 40, (9, 9, 3)).repeat(16, axis=0).repeat(16, axis=1)
    noise = random.normal(0, 2, (144, 144, 3))
    pixels = np.clip(coarse + noise, 0, 255).astype(np.uint8)
    path = Picture(pixels, "a bird", 0, "tiny").save(tmp_path / "bird.png")
    Image.fromarray(pixels).save(tmp_path / "slow.png")
    assert path.stat().st_size < 1.05 * (tmp_path / "slow.png").stat().st_size


def test_pictures_are_encoded_in_threads_and_come_back_in_order() -> None:
    first_three = Barrier(3, timeout=30)

    def make(picture: Picture) -> int:
        if picture.seed < 3:
            first_three.wait()  # for as many threads
        return picture.seed

    made = list(in_threads((_picture(seed=seed) for seed in range(100)), make))
    assert [picture.seed for picture, _ in made] == [seed for _, seed in made] == list(range(100))


def test_pictures_are_encoded_while_the_next_are_drawn() -> None:
    encoded = Event()

    def draw() -> Iterator[Picture]:
        yield _picture(seed=0)
        yield _picture(seed=1)
        assert encoded.wait(30)
        yield _picture(seed=2)

    assert len(list(in_threads(draw(), lambda _: encoded.set()))) == 3


def test_one_picture_is_encoded_without_another_thread() -> None:
    assert list(in_threads([_picture()], lambda _: current_thread())) == [(ANY, current_thread())]
    assert list(in_threads([], lambda _: current_thread())) == []


def test_what_fails_in_a_thread_is_raised() -> None:
    def fail(_: Picture) -> None:
        raise OutputError("the disk is full")

    with pytest.raises(OutputError, match="the disk is full"):
        list(in_threads([_picture()], fail))


@pytest.mark.parametrize("drawn", [1, 2, 9])
def test_what_was_drawn_is_not_lost_when_drawing_fails(drawn: int) -> None:
    def draw() -> Iterator[Picture]:
        yield from (_picture(seed=seed) for seed in range(drawn))
        raise OutputError("out of memory")

    made: list[int] = []
    with pytest.raises(OutputError, match="out of memory"):
        list(in_threads(draw(), lambda picture: made.append(picture.seed)))
    assert sorted(made) == list(range(drawn))


@pytest.mark.parametrize("name", ["bird.gif", "bird", "bird.png.txt"])
def test_another_suffix_is_an_error_that_names_those_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match=r"one of \.png, \.jpg, \.jpeg, \.webp expected"):
        _picture().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("file", "missing", "n\0l"):
        with pytest.raises(OutputError, match="cannot write"):
            _picture().save(tmp_path / folder / "bird.png")


def test_writing_that_breaks_off_leaves_the_previous_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _picture(level=1).save(tmp_path / "bird.png")
    before = path.read_bytes()

    def half(image: Image.Image, file: BinaryIO, *_: object, **__: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OutputError, match="No space left on device"):
        _picture(level=2).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@settings(deadline=None)
@given(any_text)
def test_any_caption_can_be_saved_in_a_png(tmp_path_factory: pytest.TempPathFactory, caption: str) -> None:
    path = _picture(caption).save(tmp_path_factory.getbasetemp() / "any.png")
    assert _texts(path)["Description"] == caption.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


@settings(deadline=None)
@given(any_text, st.integers(0, 2**32 - 1))
def test_file_names_are_short_and_safe_everywhere(caption: str, seed: int) -> None:
    name = _picture(caption, seed).file_name
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*-[0-9]+\.png", name, re.ASCII)
    assert len(name) <= 100


@settings(deadline=None)
@given(any_text, any_text)
def test_other_captions_have_other_file_names(one: str, other: str) -> None:
    assert (one == other) == (_picture(one).file_name == _picture(other).file_name)


@pytest.mark.parametrize(
    "other", ["A yellow bird", "a yellow bird.", "a-yellow-bird", " a yellow bird", "a  yellow bird", "á yellow bird"]
)
def test_captions_that_read_alike_have_other_file_names(other: str) -> None:
    assert _picture("a yellow bird").file_name == "a-yellow-bird-0.png"
    assert re.fullmatch(r"a-yellow-bird_[0-9a-f]{8}-0\.png", _picture(other).file_name)


@given(st.floats(0, 1, exclude_min=True), st.floats(0, 1, exclude_min=True))
@example(0.1234567, 0.1234568)
def test_other_truncations_have_other_file_names(one: float, other: float) -> None:
    names = {replace(_picture(), truncation=truncation).file_name for truncation in (one, other)}
    assert len(names) == len({one, other})


@pytest.mark.parametrize(("truncation", "text"), [(1, "1"), (0.5, "0.5"), (0.1234567, "0.1234567")])
def test_a_png_says_with_which_truncation_to_draw_it_again(tmp_path: Path, truncation: float, text: str) -> None:
    path = replace(_picture(), truncation=truncation).save(tmp_path / "bird.png")
    assert _texts(path)["Truncation"] == text


def test_grid_has_a_row_per_caption() -> None:
    pictures = [_picture(caption, seed, level=seed) for caption in ("a", "b") for seed in range(3)]
    sheet = grid(pictures)
    assert sheet.pixels.shape == (16, 24, 3)
    np.testing.assert_array_equal(sheet.pixels[8:, 16:], pictures[5].pixels)


def test_grid_of_one_caption_is_nearly_a_square_with_white_cells_behind() -> None:
    sheet = grid([_picture(seed=seed, level=seed) for seed in range(5)])
    assert sheet.pixels.shape == (16, 24, 3)
    assert (sheet.pixels[8:, 16:] == 255).all()


def test_grid_tells_its_captions_and_seeds(tmp_path: Path) -> None:
    sheet = grid([_picture(caption, seed) for caption in ("a", "b") for seed in (1, 5)])
    texts = _texts(sheet.save(tmp_path / sheet.file_name))
    assert (texts["Description"], texts["Seed"]) == ("a\nb", "1,5")


def test_grid_of_nothing_is_an_error() -> None:
    with pytest.raises(OptionError, match="at least one picture"):
        grid([])
