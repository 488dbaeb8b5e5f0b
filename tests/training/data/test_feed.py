"""Batches as training reads them: crops as NumPy cuts them, alike in every order and number of processes."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_engine.backends.base import NO_GPU
from t2i_engine.tokenizer import Tokenizer
from training.config import DataConfig
from training.data.corpus import Corpus, Draft, build_vocabulary
from training.data.feed import Batch, Feed, seen
from training.data.loading import load_training_data
from training.data.source import DataError
from training.data.synthbirds.grammar import BirdGrammar

CPU = torch.device("cpu")
COLOURS = ("red", "grey", "orange", "black", "white", "blue")
CAPTIONS = [
    [f"a {one} bird with {other} wings and a bill", f"a bird w{number}"]
    for number, (one, other) in enumerate((one, other) for one in COLOURS for other in COLOURS)
]
TOKENIZER = Tokenizer(build_vocabulary(caption for captions in CAPTIONS for caption in captions))


def corpus() -> Corpus:
    """36 pictures of noise, 6², cropped to 4²."""
    pictures = np.random.default_rng(0).integers(256, size=(len(CAPTIONS), 6, 6, 3), dtype=np.uint8)
    grammar = BirdGrammar(TOKENIZER)
    return Corpus(pictures, CAPTIONS, TOKENIZER, resolution=4, horizontal_flip=True, grammar=grammar)


def feed(size: int = 4, seed: int = 0, max_words: int | None = 5, hard_negatives: int = 2) -> Feed:
    return Feed(corpus(), seed, size, CPU, max_words=max_words, hard_negatives=hard_negatives)


def assert_same(one: Batch, other: Batch) -> None:
    assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


@given(side=st.integers(1, 5), margin=st.integers(0, 3), count=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_pictures_are_seen_exactly_as_numpy_cuts_and_mirrors_them(
    side: int, margin: int, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pictures = rng.integers(256, size=(count, side + margin, side + margin, 3), dtype=np.uint8)
    corners, flips = rng.integers(margin + 1, size=(count, 2)), rng.random(count) < 0.5
    expected = []
    for picture, (y, x), flip in zip(pictures, corners, flips, strict=True):
        part = picture[y : y + side, x : x + side]
        expected.append((part[:, ::-1] if flip else part).transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - 1)
    image = seen(torch.from_numpy(pictures), torch.from_numpy(corners), torch.from_numpy(flips), side)
    assert image.dtype == torch.float32
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(image.numpy(), np.stack(expected))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_feeds_with_one_seed_agree_at_any_number_in_any_order(numbers: list[int], seed: int) -> None:
    used, straight = feed(seed=seed), feed(seed=seed)
    expected = [straight.batch(number) for number in range(max(numbers) + 1)]
    for number in numbers:
        assert_same(used.batch(number), expected[number])


def test_processes_together_are_fed_what_one_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = feed(size=8)
    monkeypatch.setattr("training.data.feed.world", lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr("training.data.feed.rank", lambda rank=rank: rank)
        shares.append(feed(size=2))
    for number in range(6):
        expected, parts = whole.batch(number), [share.batch(number) for share in shares]
        for name in (
            "image",
            "tokens",
            "lengths",
            "captions",
            "groups",
            "hard_negative_lengths",
            "hard_negatives_valid",
        ):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(expected, name)), name
        altered = [ids[:length] for part in parts for ids, length in versions(part)]
        assert [ids.tolist() for ids in altered] == [ids[:length].tolist() for ids, length in versions(expected)]


def versions(batch: Batch) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every hard negative of a batch and its length."""
    return zip(batch.hard_negatives.flatten(0, 1), batch.hard_negative_lengths.flatten(), strict=True)


def test_long_captions_keep_some_words_in_order_if_a_longest_is_given() -> None:
    data, cut, whole = corpus(), feed(size=36, hard_negatives=0), feed(size=36, max_words=None, hard_negatives=0)
    for number in range(2):
        short, long = cut.batch(number), whole.batch(number)
        assert short.tokens.shape == (36, 5)
        assert torch.equal(short.captions, long.captions)
        kept = 0
        for tokens, length, caption, ids, full in zip(
            short.tokens, short.lengths, short.captions, long.tokens, long.lengths, strict=True
        ):
            words = data.unique_captions[caption]
            assert tuple(ids[:full].tolist()) == words
            assert int(length) == min(5, len(words))
            assert not tokens[length:].any()
            rest = iter(words)
            assert all(word in rest for word in tokens[:length].tolist())
            kept += tokens[:length].tolist() == list(words[:5])
        assert kept < 30


def test_hard_negatives_are_made_if_asked_for_and_only_where_they_can_be() -> None:
    assert feed(hard_negatives=3).batch(0).hard_negatives.shape[:2] == (4, 3)
    without = feed(hard_negatives=0).batch(0)
    assert without.hard_negatives.shape[:2] == without.hard_negatives_valid.shape == (4, 0)
    data = Corpus(np.zeros((36, 4, 4, 3), np.uint8), CAPTIONS, TOKENIZER)
    Feed(data, 0, 2, CPU, max_words=5, hard_negatives=0)
    with pytest.raises(DataError, match="only synthbirds can make hard negatives") as caught:
        Feed(data, 0, 2, CPU, max_words=5, hard_negatives=1)
    assert "\n" not in caught.value.message


def test_synthbirds_bring_hard_negatives_along() -> None:
    birds = load_training_data(DataConfig(source="synthbirds", synthbirds_count=4, resolution=32))
    batch = Feed(birds.batches(Tokenizer(birds.words)), 0, 4, CPU, max_words=None, hard_negatives=4).batch(0)
    assert batch.hard_negatives_valid.any()


class Failing(Corpus):
    """Cannot be read at step 2."""

    def drafts(self, seed: int, first: int, size: int, rank: int = 0, world: int = 1) -> Iterator[Draft]:
        for step in count(first):
            if step == 2:
                raise DataError("the disk is gone")
            yield next(super().drafts(seed, step, size, rank, world))


def test_an_error_comes_with_the_batch_that_it_concerns() -> None:
    data = Failing(np.zeros((36, 4, 4, 3), np.uint8), CAPTIONS, TOKENIZER)
    used = Feed(data, 0, 4, CPU, max_words=None, hard_negatives=0)
    first = used.batch(0)
    for number in (1, 2, 2, 0, 3):
        if number == 2:
            with pytest.raises(DataError, match="the disk is gone"):
                used.batch(number)
        else:
            used.batch(number)
    assert_same(used.batch(0), first)


def test_a_closed_feed_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    used = feed()
    used.batch(0)
    own = set(threading.enumerate()) - before
    assert own
    used.close()
    assert not own & set(threading.enumerate())


WITHOUT_PACKAGES = """
import sys
sys.modules.update(webdataset=None, braceexpand=None)
import torch
from t2i_engine.errors import MissingExtra
from t2i_engine.tokenizer import Tokenizer
from training.config import DataConfig
from training.data.feed import Feed
from training.data.loading import load_training_data
data = load_training_data(DataConfig(source="synthbirds", synthbirds_count=4, resolution=32))
used = Feed(data.batches(Tokenizer(data.words)), 0, 2, torch.device("cpu"), max_words=None, hard_negatives=0)
used.batch(0)
try:
    load_training_data(DataConfig(source="webdataset:a.tar"))
except MissingExtra as error:
    print(error.message)
"""
"""And the feed is not closed."""


def test_a_source_needs_its_package_only_where_it_is_used_and_an_open_feed_does_not_keep_python_from_ending() -> None:
    ended = subprocess.run([sys.executable, "-c", WITHOUT_PACKAGES], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == 'a webdataset needs the package braceexpand: pip install "t2i-engine[train]"\n'
    assert not ended.stderr


ON_DEVICE = {"image", "captions", "groups", "asked", "known", "hard_negatives_valid"}


def test_what_a_step_computes_with_is_on_the_device_and_what_the_text_encoder_reads_on_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # which needs a GPU
    data = corpus()
    data.on_device = False
    used = Feed(data, 0, 4, torch.device("meta"), max_words=5, hard_negatives=2)
    found = used.batch(0)
    used.close()  # before memory is pinned again
    assert {name for name in Batch._fields if getattr(found, name).is_meta} == ON_DEVICE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
@pytest.mark.parametrize("on_device", [True, False])
def test_a_gpu_is_fed_what_a_cpu_is(on_device: bool) -> None:
    data, gpu = corpus(), torch.device("cuda")
    data.on_device = on_device
    used, expected = Feed(data, 0, 4, gpu, max_words=5, hard_negatives=2), feed()
    assert data.pictures_on(gpu).is_cuda == on_device
    for number in (0, 1, 2, 12, 1):
        found, wanted = used.batch(number), expected.batch(number)
        assert {name for name in Batch._fields if getattr(found, name).is_cuda} == ON_DEVICE
        torch.testing.assert_close(found.image.cpu(), wanted.image)
        assert all(torch.equal(one.cpu(), other) for one, other in zip(found[1:], wanted[1:], strict=True))
