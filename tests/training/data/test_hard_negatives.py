"""Altered captions: the words of a caption, put together so that they do not fit its picture."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_engine.tokenizer import Tokenizer
from training.data.corpus import Corpus, build_vocabulary
from training.data.feed import Feed
from training.data.synthbirds.grammar import BirdGrammar
from training.data.synthbirds.hard_negatives import COLOURS, REGIONS, HardNegativeCaptions

WORDS = (
    "a",
    "an",
    "bird",
    "with",
    "and",
    "bright",
    "wings",
    "belly",
    "bill",
    "reddish",
    "red",
    "grey",
    "gray",
    "orange",
)
TOKENIZER = Tokenizer(build_vocabulary([" ".join(WORDS)]))
COLOUR_WORDS = {word for spellings in COLOURS for word in spellings}
PART_WORDS = {word for names in REGIONS for word in names}


def versions(caption: str, tokenizer: Tokenizer = TOKENIZER, draws: int = 200) -> set[str]:
    """All that many draws make of a caption."""
    rng, alterations = np.random.default_rng(0), HardNegativeCaptions(tokenizer)
    drawn = islice(alterations.versions(tokenizer.encode(caption).ids, rng), draws)
    return {" ".join(tokenizer.words[i] for i in version) for version in drawn}


@given(words=st.lists(st.sampled_from(WORDS), min_size=1), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_colours_parts_and_articles_change_and_nothing_else(words: list[str], seed: int) -> None:
    ids = TOKENIZER.encode(" ".join(words)).ids
    found = list(islice(HardNegativeCaptions(TOKENIZER).versions(ids, np.random.default_rng(seed)), 3))
    assert len(found) == (3 if any(word in COLOUR_WORDS for word in words) else 0)
    may_change = COLOUR_WORDS | PART_WORDS | {"a", "an"}
    for version in found:
        assert tuple(version) != ids
        altered = [TOKENIZER.words[i] for i in version]
        assert [word for word in altered if word not in may_change] == [
            word for word in words if word not in may_change
        ]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (
            "a red bird",
            {"a grey bird", "an orange bird"},
        ),
        (
            "a red bird with a grey belly",
            {
                *{"a grey bird with a grey belly", "an orange bird with a grey belly"},  # one colour is another
                *{"a red bird with a red belly", "a red bird with an orange belly"},
                "a grey bird with a red belly",  # two change places
                *{"a red bird with grey wings", "a red bird with a grey bill"},  # one moves to another part
            },
        ),
        (
            "a red bird with bright orange wings and a bill",
            {
                *{
                    "a grey bird with bright orange wings and a bill",
                    "an orange bird with bright orange wings and a bill",
                },
                *{"a red bird with bright red wings and a bill", "a red bird with bright grey wings and a bill"},
                "an orange bird with bright red wings and a bill",
                "a red bird with a bright orange belly and a bill",
            },
        ),
        # A second thing of the same colour: a bird with red wings may well have a red belly, too.
        (
            "a red bird with red wings",
            {
                *{"a grey bird with red wings", "an orange bird with red wings"},
                *{"a red bird with grey wings", "a red bird with orange wings"},
            },
        ),
        ("a bird with a belly", set()),
    ],
)
def test_every_way_is_drawn(caption: str, expected: set[str]) -> None:
    assert versions(caption) == expected


def test_there_is_no_version_where_no_other_colour_is_known() -> None:
    assert not versions("a gray bird", Tokenizer(build_vocabulary(["a gray or grey bird"])))


def test_a_batch_brings_them_along() -> None:
    captions = [["a red bird with a grey belly"], ["a bird"], ["orange bird"]]
    corpus = Corpus(np.zeros((3, 4, 4, 3), np.uint8), captions, TOKENIZER, grammar=BirdGrammar(TOKENIZER))
    batch = Feed(corpus, 0, 3, torch.device("cpu"), max_words=18, hard_negatives=4).batch(0)
    assert batch.hard_negatives.shape[:2] == batch.hard_negative_lengths.shape == (3, 4)
    rows = (batch.tokens, batch.lengths, batch.hard_negatives, batch.hard_negative_lengths, batch.hard_negatives_valid)
    for row, length, altered, lengths, differs in zip(*rows, strict=True):
        caption = " ".join(TOKENIZER.words[i] for i in row[:length])
        for version, count, differ in zip(altered, lengths, differs, strict=True):
            text = " ".join(TOKENIZER.words[i] for i in version[:count])
            assert not version[count:].any()
            assert text in versions(caption) | {caption}
            assert bool(differ) == (text != caption)
    assert batch.hard_negatives_valid.any()
