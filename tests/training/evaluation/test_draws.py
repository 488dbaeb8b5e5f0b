from collections.abc import Sequence

import numpy as np
import pytest

from t2i_engine.backends.base import Array
from t2i_engine.pictures import Pixels
from t2i_engine.tokenizer import PADDING, Tokenizer
from tests.training.evaluation.instruments import noise_pictures, painting_sampler
from training.data.rendered import Rendered
from training.evaluation.draws import BATCH, CaptionDraws, RealPictures, in_batches

TOKENIZER = Tokenizer((PADDING, "bird", *(f"word{number}" for number in range(200))))


class Recorder:
    """Notes the seeds it is asked for and paints a caption's last token."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def paint(self, tokens: Array, seeds: Sequence[int]) -> Pixels:
        self.seeds += seeds
        return np.stack([np.full((8, 8, 3), token, np.uint8) for token in tokens])


def draws(captions: list[tuple[str, ...]], count: int, recorder: Recorder) -> CaptionDraws:
    pictures = len(captions)
    rendered = Rendered(
        noise_pictures(pictures, seed=0), captions, [str(i) for i in range(pictures)], np.arange(pictures), ()
    )
    return CaptionDraws(painting_sampler(TOKENIZER, 32, recorder.paint), rendered, count)


def captions_of(pictures: int, each: int) -> list[tuple[str, ...]]:
    return [tuple(f"bird word{picture * each + number}" for number in range(each)) for picture in range(pictures)]


def test_every_caption_is_drawn_once_before_any_is_drawn_again() -> None:
    captions = captions_of(12, 5)
    drawn = [caption for batch in draws(captions, 60, Recorder()).batches() for caption in batch.captions]
    assert sorted(drawn) == sorted(caption for texts in captions for caption in texts)


def test_the_first_captions_are_of_different_pictures_and_in_every_place() -> None:
    (batch,) = draws(captions_of(30, 5), 30, Recorder()).batches()
    assert len(set(batch.groups)) == 30
    places = {int(caption.removeprefix("bird word")) % 5 for caption in batch.captions}
    assert places == set(range(5))


@pytest.mark.parametrize("mirrored", [False, True])
def test_each_crop_is_a_random_window_of_its_picture(mirrored: bool) -> None:
    """Every pixel tells its picture and place."""
    places = np.stack(np.meshgrid(np.arange(9), np.arange(9), indexing="ij"), axis=-1)
    pictures = np.stack([np.dstack([np.full((9, 9), number), places]) for number in range(40)]).astype(np.uint8)
    crops = np.concatenate(list(RealPictures(pictures, 6, 3, mirrored).batches()))
    assert crops.shape == (120, 6, 6, 3)
    assert np.array_equal(np.bincount(crops[:, 0, 0, 0]), np.full(40, 3))
    seen = set()
    for crop in crops:
        top, left = crop[..., 1:].reshape(-1, 2).min(axis=0)
        flipped = bool(crop[0, 0, 2] > crop[0, 1, 2])
        window = pictures[crop[0, 0, 0], top : top + 6, left : left + 6]
        assert np.array_equal(crop, window[:, ::-1] if flipped else window)
        seen.add((int(top), int(left), flipped))
    assert len(seen) > (20 if mirrored else 12)
    assert {flipped for *_, flipped in seen} == {False, mirrored}


@pytest.mark.parametrize(("side", "count", "views"), [(8, 1_000, 1), (6, 1_000, 10), (6, 130, 3), (6, 3, 1)])
def test_only_pictures_that_are_cropped_have_several_views(side: int, count: int, views: int) -> None:
    real = RealPictures.as_compared(noise_pictures(40, seed=0), side, count, mirrored=True)
    assert sum(len(batch) for batch in real.batches()) == 40 * views
    assert sum(len(batch) for batch in real.batches(5)) == 5 * views


def test_each_picture_stands_beside_the_real_one_of_its_caption() -> None:
    draw_all = draws(captions_of(40, 2), 80, Recorder())
    for batch in draw_all.batches():
        assert len(batch.captions) <= BATCH
        for caption, pixels, real, group in zip(batch.captions, batch.pixels, batch.real, batch.groups, strict=True):
            assert caption in draw_all.data.captions[group]
            assert np.array_equal(real, draw_all.data.pictures[group])
            assert (pixels == TOKENIZER.encode(caption).ids[-1]).all()


def test_seeds_are_the_captions_numbers_and_unknown_captions_are_left_out() -> None:
    recorder = Recorder()
    captions: list[tuple[str, ...]] = [("bird",), ("nothing known",), ("bird",)]
    drawn = sum(len(batch.captions) for batch in draws(captions, 6, recorder).batches())
    assert drawn == len(recorder.seeds) == 4
    assert len(set(recorder.seeds)) == 4
    assert max(recorder.seeds) <= 5


def test_batches_hold_every_picture_once() -> None:
    pictures = noise_pictures(2 * BATCH + 3, seed=0)
    assert np.array_equal(np.concatenate(list(in_batches(pictures))), pictures)
