"""Altered captions: one colour word is another, everything else stays."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_engine.tokenizer import Tokenizer, pad
from training.data.altered import ALTERATIONS, COLOURS, ColourSwaps
from training.data.corpus import Corpus, build_vocabulary

WORDS = ("a", "bird", "with", "wings", "reddish", "red", "grey", "gray", "yellow")
TOKENIZER = Tokenizer(build_vocabulary([" ".join(WORDS)]))
COLOUR_OF = {word: colour for colour, spellings in enumerate(COLOURS) for word in spellings}


@given(captions=st.lists(st.lists(st.sampled_from(WORDS), min_size=1), min_size=1), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_one_colour_becomes_another_that_the_vocabulary_has(captions: list[list[str]], seed: int) -> None:
    tokens, _ = pad([TOKENIZER.encode(" ".join(words)).ids for words in captions])
    before = tokens.copy()
    altered = ColourSwaps(TOKENIZER).altered(tokens, np.random.default_rng(seed))
    assert np.array_equal(tokens, before)
    assert altered.shape == (len(captions), ALTERATIONS, tokens.shape[1])
    for words, left, versions in zip(captions, tokens, altered, strict=True):
        for right in versions:
            changed = np.flatnonzero(left != right)
            assert len(changed) == any(word in COLOUR_OF for word in words)
            for place in changed:
                old, new = TOKENIZER.words[left[place]], TOKENIZER.words[right[place]]
                assert COLOUR_OF[old] != COLOUR_OF[new]


def test_every_colour_word_and_every_other_colour_is_drawn() -> None:
    caption = TOKENIZER.encode("a red bird with grey wings").ids
    tokens = np.array([caption] * 50, dtype=np.int64)
    altered = ColourSwaps(TOKENIZER).altered(tokens, np.random.default_rng(0))
    found = {" ".join(TOKENIZER.words[i] for i in row) for row in altered.reshape(-1, len(caption))}
    assert found == {
        "a grey bird with grey wings",
        "a yellow bird with grey wings",
        "a red bird with red wings",
        "a red bird with yellow wings",
    }


def test_a_caption_stays_where_no_other_colour_is_known() -> None:
    tokenizer = Tokenizer(build_vocabulary(["a gray or grey bird"]))
    tokens = np.array([tokenizer.encode("a gray bird").ids], dtype=np.int64)
    altered = ColourSwaps(tokenizer).altered(tokens, np.random.default_rng(0))
    assert np.array_equal(altered, np.repeat(tokens[:, None], ALTERATIONS, axis=1))


def test_a_batch_brings_them_along() -> None:
    captions = [["a red bird"], ["a yellow bird"], ["a bird"]]
    corpus = Corpus(np.zeros((3, 4, 4, 3), np.uint8), captions, TOKENIZER, 18, mirror=False)
    batch = corpus.batch(0, 0, 3)
    differ = (batch.tokens[:, None] != batch.altered).sum(2)
    coloured = [TOKENIZER.words.index(word) for word in ("red", "yellow")]
    assert differ.tolist() == [[int(any(i in coloured for i in row))] * ALTERATIONS for row in batch.tokens.tolist()]
