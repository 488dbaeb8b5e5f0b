"""Which pictures and captions make a batch: the same from anywhere, and every picture once an epoch."""

from hashlib import blake2b

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_engine.tokenizer import Tokenizer
from training.data.corpus import Corpus, Draft, build_vocabulary, caption_hash
from training.data.source import DataError

CAPTIONS = [[f"bird number w{i}", f"another w{i} bird"] for i in range(10)]
TOKENIZER = Tokenizer(build_vocabulary(caption for captions in CAPTIONS for caption in captions))


def corpus(captions: list[list[str]] = CAPTIONS, horizontal_flip: bool = False) -> Corpus:
    """Pictures of 6², cropped to 4²."""
    pictures = np.zeros((len(captions), 6, 6, 3), np.uint8)
    return Corpus(pictures, captions, TOKENIZER, resolution=4, horizontal_flip=horizontal_flip)


def draft(data: Corpus, seed: int, step: int, size: int, rank: int = 0, world: int = 1) -> Draft:
    return next(data.drafts(seed, step, size, rank, world))


def text(ids: tuple[int, ...]) -> str:
    return " ".join(TOKENIZER.words[i] for i in ids)


def assert_same(one: Draft, other: Draft) -> None:
    assert one.ids == other.ids
    assert all(torch.equal(first, second) for first, second in zip(one[1:], other[1:], strict=True))


def test_vocabulary_holds_every_word_once_behind_padding() -> None:
    assert build_vocabulary(["A red bird", "a RED, red wing!"]) == ("<end>", "a", "bird", "red", "wing")


@given(seed=st.integers(0, 2**32 - 1), first=st.integers(0, 10_000), later=st.integers(0, 9), size=st.integers(1, 10))
@settings(max_examples=30, deadline=None)
def test_a_batch_depends_on_seed_and_step_alone(seed: int, first: int, later: int, size: int) -> None:
    drafts = corpus().drafts(seed, first, size)
    for _ in range(later):
        next(drafts)
    assert_same(next(drafts), draft(corpus(), seed, first + later, size))


@pytest.mark.parametrize("size", [5, 3])
def test_an_epoch_shows_no_picture_twice_and_the_next_another_order(size: int) -> None:
    drafts = corpus().drafts(7, 0, size)
    epochs = [[n for _ in range(10 // size) for n in next(drafts).pictures.tolist()] for _ in range(2)]
    assert all(len(set(epoch)) == 10 // size * size for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_every_picture_comes_with_one_of_its_own_captions() -> None:
    drafts, seen = corpus().drafts(0, 0, 5), set()
    for _ in range(20):
        batch = next(drafts)
        for number, ids in zip(batch.pictures.tolist(), batch.ids, strict=True):
            assert text(tuple(ids)) in CAPTIONS[number]
            seen.add(text(tuple(ids)))
    assert len(seen) == 20


def test_equal_captions_share_a_number_which_is_that_of_their_words() -> None:
    data = corpus([["bird w1", "Bird, w1!", "bird w2"], ["bird w2"], ["w1 bird"]])
    assert [text(ids) for ids in data.unique_captions] == ["bird w1", "bird w2", "w1 bird"]
    drafts = data.drafts(0, 0, 3)
    for _ in range(10):
        batch = next(drafts)
        assert [data.unique_captions[number] for number in batch.captions] == batch.ids


def test_corners_and_mirrorings_are_drawn_evenly_if_at_all() -> None:
    drafts = corpus(horizontal_flip=True).drafts(0, 0, 10)
    found = [next(drafts) for _ in range(20)]
    assert {tuple(corner.tolist()) for batch in found for corner in batch.corners} == {
        (y, x) for y in range(3) for x in range(3)
    }
    assert 70 < sum(int(batch.flips.sum()) for batch in found) < 130
    drafts = corpus().drafts(0, 0, 10)
    assert not any(next(drafts).flips.any() for _ in range(5))


def test_captions_without_a_known_word_are_never_drawn() -> None:
    drafts = corpus([["bird w1", "xyzzy"], ["xyzzy"], ["bird w2"], ["bird w3"]]).drafts(0, 0, 3)
    for _ in range(10):
        batch = next(drafts)
        assert sorted(batch.pictures.tolist()) == [0, 2, 3]
        assert [len(ids) for ids in batch.ids] == [2, 2, 2]


def test_pictures_of_a_group_stay_together_wherever_they_are_drawn() -> None:
    groups = np.array([0, 0, 0, 1, 2, 3, 3, 4, 5, 6])
    batch = draft(Corpus(np.zeros((10, 4, 4, 3), np.uint8), CAPTIONS, TOKENIZER, groups=groups), 0, 0, 10)
    assert batch.groups.tolist() == [groups[number] for number in batch.pictures]


def test_processes_share_the_batch_that_one_would_draw() -> None:
    whole = draft(corpus(horizontal_flip=True), 7, 3, 8)
    shares = [draft(corpus(horizontal_flip=True), 7, 3, 2, rank, 4) for rank in range(4)]
    assert [ids for share in shares for ids in share.ids] == whole.ids
    for name in Draft._fields[1:]:
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(whole, name))


def test_too_few_pictures_for_a_batch_are_an_error() -> None:
    corpus().require(10)
    with pytest.raises(DataError, match=r"10 pictures .* fewer than a batch of 11"):
        corpus().require(11)


def test_pictures_stay_on_the_host_where_a_gpu_has_no_room_unless_they_must_be_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (1_999, 8_000))
    pictures, gpu = np.zeros((10, 10, 5, 3), np.uint8), torch.device("cuda")  # 1,500 bytes
    for on_device in ("auto", False):
        kept = Corpus(pictures, CAPTIONS, TOKENIZER, on_device=on_device).pictures_on(gpu)
        assert kept.data_ptr() == pictures.ctypes.data
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (1_499, 8_000))
    with pytest.raises(DataError, match=r"--set data\.on_device=false") as caught:
        Corpus(pictures, CAPTIONS, TOKENIZER, on_device=True).pictures_on(gpu)
    assert "\n" not in caught.value.message


def test_a_hash_tells_captions_apart_and_is_the_same_everywhere() -> None:
    assert caption_hash((1, 2)) == caption_hash([1, 2])
    assert len({caption_hash(ids) for ids in [(1, 2), (2, 1), (1,), (1, 2, 0), (258,)]}) == 5
    expected = blake2b(bytes([1, *[0] * 7, 2, *[0] * 7]), digest_size=8).digest()
    assert caption_hash((1, 2)) == int.from_bytes(expected, "little") // 2
