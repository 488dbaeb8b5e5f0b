"""Batches: reproducible, complete within an epoch, and captions cut as in AttnGAN."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_engine.tokenizer import Tokenizer
from training.data.corpus import Batch, Corpus, build_vocabulary
from training.data.source import DataError
from training.losses import related_pairs

CAPTIONS = [[f"bird number w{i}", f"another w{i} bird"] for i in range(10)]
TOKENIZER = Tokenizer(build_vocabulary(caption for captions in CAPTIONS for caption in captions))


def corpus(captions: list[list[str]] = CAPTIONS, max_words: int = 18) -> Corpus:
    pictures = np.arange(len(captions), dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    return Corpus(pictures, captions, TOKENIZER, max_words, horizontal_flip=False)


def picture_numbers(image: torch.Tensor) -> list[int]:
    return [round((float(value) + 1) * 127.5) for value in image[:, 0, 0, 0]]


def test_vocabulary_holds_every_word_once_behind_padding() -> None:
    assert build_vocabulary(["A red bird", "a RED, red wing!"]) == ("<end>", "a", "bird", "red", "wing")


@given(seed=st.integers(0, 2**32 - 1), step=st.integers(0, 10_000), size=st.integers(2, 10))
@settings(max_examples=30, deadline=None)
def test_a_batch_depends_on_seed_and_step_alone(seed: int, step: int, size: int) -> None:
    used = corpus()
    used.batch(seed, 3, size)
    for left, right in zip(used.batch(seed, step, size), corpus().batch(seed, step, size), strict=True):
        assert torch.equal(left, right)


def test_an_epoch_shows_every_picture_once_and_the_next_in_another_order() -> None:
    data = corpus()
    epochs = [
        [n for step in steps for n in picture_numbers(data.batch(7, step, 5).image)] for steps in ((0, 1), (2, 3))
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


def test_every_picture_comes_with_one_of_its_own_captions() -> None:
    data = corpus()
    seen = set()
    for step in range(20):
        batch = data.batch(0, step, 5)
        for number, ids, length in zip(picture_numbers(batch.image), batch.tokens, batch.lengths, strict=True):
            caption = " ".join(TOKENIZER.words[i] for i in ids[:length])
            assert caption in CAPTIONS[number]
            assert not ids[length:].any()
            seen.add(caption)
    assert len(seen) == 20


def test_pixels_become_values_from_minus_one_to_one() -> None:
    pictures = np.array([0, 255], np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    image = Corpus(pictures, CAPTIONS[:2], TOKENIZER, 18, horizontal_flip=False).batch(0, 0, 2).image
    assert image.shape == (2, 3, 2, 2)
    assert {image.min().item(), image.max().item()} == {-1.0, 1.0}


def test_about_half_of_the_pictures_are_flipped_if_configured() -> None:
    left = np.zeros((10, 4, 4, 3), np.uint8)
    left[:, :, 0] = 255
    for flip, expected in ((False, {1.0}), (True, {-1.0, 1.0})):
        data = Corpus(left, CAPTIONS, TOKENIZER, 18, flip)
        image = torch.cat([data.batch(0, step, 10).image for step in range(20)])
        assert {float(value) for value in image[:, 0, 0, 0]} == expected
        assert torch.equal(image[:, 0, 0, 0], -image[:, 0, 0, 3])
    assert 70 < (image[:, 0, 0, 0] == 1).sum() < 130


def test_long_captions_keep_some_words_in_order() -> None:
    words = TOKENIZER.words[1:]
    data = corpus([[" ".join(words)]] * 4, max_words=5)
    for step in range(5):
        batch = data.batch(0, step, 4)
        assert batch.lengths.tolist() == [5] * 4
        assert all(ids.tolist() == sorted(set(ids.tolist())) for ids in batch.tokens)
    assert len({tuple(ids.tolist()) for step in range(5) for ids in data.batch(0, step, 4).tokens}) > 1


def test_captions_without_a_known_word_are_never_drawn() -> None:
    data = corpus([["bird w1", "xyzzy"], ["xyzzy"], ["bird w2"], ["bird w3"]])
    for step in range(10):
        batch = data.batch(0, step, 3)
        assert sorted(picture_numbers(batch.image)) == [0, 2, 3]
        assert batch.lengths.tolist() == [2, 2, 2]


def test_pictures_of_a_group_stay_together_wherever_they_are_drawn() -> None:
    pictures = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    groups = np.array([0, 0, 0, 1, 2, 3, 3, 4, 5, 6])
    batch = Corpus(pictures, CAPTIONS, TOKENIZER, 18, horizontal_flip=False, groups=groups).batch(0, 0, 10)
    assert batch.groups.tolist() == [groups[number] for number in picture_numbers(batch.image)]
    related = related_pairs(batch.tokens, batch.groups)
    assert int(related.sum()) == 3 * 3 + 2 * 2 + 5


def test_larger_pictures_are_cut_somewhere_else_each_time() -> None:
    """Each pixel says where it is: red its row, green its column."""
    place = np.stack([*np.mgrid[:6, :6], np.zeros((6, 6))], axis=2).astype(np.uint8)
    data = Corpus(np.stack([place] * 10), CAPTIONS, TOKENIZER, 18, horizontal_flip=False, resolution=4)
    corners = set()
    for step in range(20):
        pixels = ((data.batch(0, step, 10).image + 1) * 127.5).round().int()
        assert pixels.shape == (10, 3, 4, 4)
        assert torch.equal(pixels[:, 0, 3] - pixels[:, 0, 0], torch.full((10, 4), 3))
        corners |= {(int(picture[0, 0, 0]), int(picture[1, 0, 0])) for picture in pixels}
    assert corners == {(y, x) for y in range(3) for x in range(3)}


def test_processes_share_the_batch_that_one_would_draw() -> None:
    whole = corpus().batch(7, 3, 8)
    shares = [corpus().batch(7, 3, 2, rank, 4) for rank in range(4)]
    for name in Batch._fields:
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(whole, name))


def test_too_few_pictures_for_a_batch_are_an_error() -> None:
    corpus().require(10)
    with pytest.raises(DataError, match=r"10 pictures .* fewer than a batch of 11"):
        corpus().require(11)
