"""The grammar as training uses it: no picture's negative is a caption that may be true of it."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_engine.tokenizer import Tokenizer
from training.data.corpus import Corpus, build_vocabulary
from training.data.synthbirds import SynthBirds
from training.data.synthbirds.caption_attributes import COLOURED_PARTS, caption_attributes, fits
from training.data.synthbirds.grammar import BirdGrammar, agree, masks
from training.losses import fitting_pairs

BIRDS = SynthBirds("train", 400, 32)
NUMBERS = st.integers(0, len(BIRDS) - 1)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(build_vocabulary(caption for index in range(len(BIRDS)) for caption in BIRDS.captions(index)))


@cache
def grammar() -> BirdGrammar:
    return BirdGrammar(tokenizer())


def truth(index: int) -> dict[str, str]:
    """Everything about a bird, including what is too small to be mentioned."""
    bird = BIRDS.attributes(index)
    whole = {"kind": bird.kind, "setting": bird.setting, "weather": bird.weather, "size": bird.size}
    return {**whole, "main colour": bird.main_colour, **{part: bird.colours[part] for part in COLOURED_PARTS}}


def ids(caption: str) -> tuple[int, ...]:
    return tokenizer().encode(caption).ids


@cache
def known(index: int) -> tuple[int, ...]:
    """What the captions of a picture say together."""
    asked = [grammar().asks(ids(caption)) for caption in BIRDS.captions(index)]
    return tuple(np.bitwise_and.reduce(np.array(asked)).tolist())


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a red owl", "an owl", False),
        ("a red owl", "a penguin", True),
        ("a red bird", "a bird with red wings", False),
        ("a bird in a tree", "a bird on a branch", False),
        ("a bird in a tree", "a bird on the beach", True),
        ("a black and white bird", "a white bird", False),
        ("a robin", "a bird with a blue breast", True),
    ],
)
def test_captions_contradict_each_other_if_no_picture_fits_both(first: str, second: str, expected: bool) -> None:
    asked = [masks(caption_attributes(caption)) for caption in (first, second)]
    assert agree(*asked) == agree(*reversed(asked)) != expected


@given(first=NUMBERS, second=NUMBERS, number=st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_a_caption_that_is_true_of_another_picture_is_not_its_negative(first: int, second: int, number: int) -> None:
    caption = BIRDS.captions(first)[number]
    if fits(caption_attributes(caption), truth(second)):
        assert agree(grammar().asks(ids(caption)), known(second)), caption


def test_most_captions_of_other_pictures_are_negatives() -> None:
    pairs = [(BIRDS.captions(index)[index % 10], (7 * index + 1) % len(BIRDS)) for index in range(len(BIRDS))]
    assert np.mean([agree(grammar().asks(ids(caption)), known(other)) for caption, other in pairs]) < 0.2


@given(index=NUMBERS, number=st.integers(0, 9), seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_hard_negatives_are_never_true_of_their_picture_and_differ(index: int, number: int, seed: int) -> None:
    own = ids(BIRDS.captions(index)[number])
    made = grammar().hard_negatives(own, known(index), 4, np.random.default_rng(seed))
    assert len(made) == 4
    false = [tuple(version) for version in made if version != own]
    assert len(set(false)) == len(false)
    for version in made:
        text = " ".join(tokenizer().words[i] for i in version)
        assert version == own or not fits(caption_attributes(text), truth(index)), text


def test_captions_with_a_colour_have_hard_negatives() -> None:
    rng = np.random.default_rng(0)
    made = []
    for index in range(40):
        own = ids(BIRDS.captions(index)[0])
        made += [version != own for version in grammar().hard_negatives(own, known(index), 4, rng)]
    assert np.mean(made) > 0.9


def test_batches_bring_along_what_captions_ask_and_pictures_show() -> None:
    captions = [BIRDS.captions(index) for index in range(24)]
    data = Corpus(np.zeros((24, 4, 4, 3), np.uint8), captions, tokenizer(), grammar=grammar())
    draft = next(data.drafts(0, 0, 24))
    may_fit = fitting_pairs(draft.known, draft.asked)
    texts = [" ".join(tokenizer().words[i] for i in tokens) for tokens in draft.ids]
    for row, picture in enumerate(draft.pictures.tolist()):
        assert tuple(draft.known[row].tolist()) == known(picture)
        for column, text in enumerate(texts):
            assert bool(may_fit[row, column]) or not fits(caption_attributes(text), truth(picture)), text
    assert may_fit.diagonal().all()
    assert torch.equal(may_fit.T, fitting_pairs(draft.asked, draft.known))
