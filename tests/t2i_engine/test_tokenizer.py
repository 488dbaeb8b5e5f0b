import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_engine.errors import BundleError, CaptionError
from t2i_engine.tokenizer import LONGEST_CAPTION, PADDING, Tokenizer, Tokens, misspelling, pad, split

WORDS = ("<end>", "a", "yellow", "bird", "with", "caf")
tokenizer = Tokenizer(WORDS)


def test_words_become_their_places_in_the_vocabulary() -> None:
    assert tokenizer.encode("A Yellow bird!") == Tokens((1, 2, 3))


def test_punctuation_separates_words_and_letters_beyond_ascii_are_dropped() -> None:
    assert split("A bird\ufffd\ufffdwith a café-au-lait belly; 2_3 鳥") == [
        *("a", "bird", "with", "a", "caf", "au", "lait", "belly", "2_3")
    ]


def test_unknown_words_are_left_out_and_named_once_as_written() -> None:
    tokens = tokenizer.encode("a yello bird, yello 鳥 crest")
    assert tokens.ids == (1, 3)
    assert tokens.unknown == ("yello", "鳥", "crest")


@pytest.mark.parametrize("caption", ["", "  \n"])
def test_empty_caption_is_an_error(caption: str) -> None:
    with pytest.raises(CaptionError, match="caption is empty"):
        tokenizer.encode(caption)


@pytest.mark.parametrize(
    ("caption", "advice"), [("yelow brid", "nearest known words are: yellow, bird"), ("鳥 !", "such as: a, yellow")]
)
def test_caption_of_unknown_words_only_is_an_error_with_advice(caption: str, advice: str) -> None:
    with pytest.raises(CaptionError, match=advice):
        tokenizer.encode(caption)


def test_caption_of_unknown_words_only_gets_the_two_shortest_examples_that_can_be_drawn() -> None:
    examples = ("a yellow bird with a bird", "a penguin", "a yellow bird", "Bird with yellow!")
    with pytest.raises(CaptionError, match=r"try 'a yellow bird' or 'Bird with yellow!'$"):
        Tokenizer(WORDS, examples).encode("penguin")


MORE_WORDS = (*WORDS, "wings", "red", "owl", "tree", "sea", "black", "beak")
NEAR_WORDS = {"ocean": "sea", "robin": "bird", "three": None}
reading = Tokenizer(MORE_WORDS, near=NEAR_WORDS)


def test_near_words_are_read_as_known_ones_and_named_once() -> None:
    tokens = reading.encode("A robin with a blue ocean, a ROBIN")
    assert [MORE_WORDS[index] for index in tokens.ids] == ["a", "bird", "with", "a", "sea", "a", "bird"]
    assert tokens.unknown == ("blue",)
    assert tokens.read_as == (("robin", "bird"), ("ocean", "sea"))


MISSPELT = {
    "brid": "bird", "yelow": "yellow", "yelllow": "yellow", "yallow": "yellow", "wigns": "wings", "blakc": "black",
    "robni": "bird", "oceann": "sea",
}  # fmt: skip


@pytest.mark.parametrize(("word", "meant"), MISSPELT.items())
def test_a_word_with_one_slip_is_read_as_what_was_meant(word: str, meant: str) -> None:
    assert reading.read_as(word) == meant


@pytest.mark.parametrize("word", ["ylelwo", "rde", "birds", "owll", "three", "ocaens", "kirb", "bérd", "bir2d", "鳥"])
def test_other_words_are_left_out(word: str) -> None:
    assert reading.read_as(word) is None


@pytest.mark.parametrize("word", MORE_WORDS[1:])
def test_a_known_word_is_never_read_as_another(word: str) -> None:
    assert reading.encode(word) == Tokenizer(MORE_WORDS).encode(word)


def test_without_near_words_every_word_is_read_exactly() -> None:
    assert Tokenizer(MORE_WORDS).encode("a yelow bird").unknown == ("yelow",)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"ocean": "lake"}', b'{"sea": "sea"}', b'{"ocean": 3}', b'{"ocean": ["sea"]}', b'{"x": "<end>"}'],
)
def test_near_words_that_do_not_fit_the_vocabulary_are_a_bundle_error(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"near\.json has no near words"):
        Tokenizer(MORE_WORDS).with_near_words(content, "near.json")


def test_near_words_come_from_a_file() -> None:
    assert Tokenizer(MORE_WORDS).with_near_words(json.dumps(NEAR_WORDS).encode()).near == NEAR_WORDS


BIRDS = "a an air all at back belly bird birds black blue boat branch broad brown cap duck flying gull gulls heron \
hummingbird long painting parrot pointed red ring sits spotted standing striped tail tree white wide wing wings yellow"
NEAR = {
    "yelow": "yellow", "yello": "yellow", "yellwo": "yellow", "brids": "birds", "brid": "bird", "redd": "red",
    "wite": "white", "whtie": "white", "blck": "black", "bluee": "blue", "spoted": "spotted", "wigns": "wings",
    "hummingbrid": "hummingbird", "flyng": "flying", "parrots": "parrot", "bellies": "belly", "branches": "branch",
    "boats": "boat", "caps": "cap", "paintings": "painting", "brawn": "brown",
}  # fmt: skip
FAR = (
    "penguin elephant horse house car cat dog goat tiger astronaut dragon crab plane sunset lion wolf rabbit chair "
    "mountain ocean king queen banana hen hot man boy street flamingo castle woman city red-hot 鳥 x"
)


@pytest.mark.parametrize(("word", "meant"), NEAR.items())
def test_misspelt_word_and_plural_get_the_word_that_was_meant(word: str, meant: str) -> None:
    assert Tokenizer([PADDING, *BIRDS.split()]).nearest(word)[0] == meant


@pytest.mark.parametrize("word", FAR.split())
def test_another_word_gets_none(word: str) -> None:
    assert Tokenizer([PADDING, *BIRDS.split()]).nearest(word) == []


words = st.text("abirs", min_size=1, max_size=9)


@given(st.sets(words), st.lists(words))
def test_the_nearest_words_are_the_same_whatever_was_asked_before(known: set[str], asked: list[str]) -> None:
    remembering = Tokenizer([PADDING, *known])
    for word in [*asked, *asked]:
        near = [(distance, other) for other in known if (distance := misspelling(word, other)) < math.inf]
        expected = [other for _, other in sorted(near, key=lambda one: one[0])]
        assert remembering.nearest(word, len(known)) == expected
        assert remembering.nearest(word, 1) == expected[:1]


def test_a_word_is_compared_once_however_many_captions_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def counted(word: str, known: str) -> float:
        compared.append(known)
        return misspelling(word, known)

    monkeypatch.setattr("t2i_engine.tokenizer.misspelling", counted)
    fresh = Tokenizer(WORDS)
    assert [fresh.nearest(word) for _ in range(50) for word in fresh.encode("a yelow bird").unknown] == 50 * [
        ["yellow"]
    ]
    assert compared == [*WORDS[1:]]


def test_caption_of_the_greatest_length_works_and_a_longer_one_does_not() -> None:
    caption = ("bird " * LONGEST_CAPTION)[:LONGEST_CAPTION]
    assert len(tokenizer.encode(caption).ids) == LONGEST_CAPTION // 5
    with pytest.raises(CaptionError, match="10,001 characters"):
        tokenizer.encode(caption + " ")


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_any_text_gives_known_ids_or_a_caption_error(caption: str) -> None:
    try:
        tokens = tokenizer.encode(caption)
    except CaptionError:
        assert not set(split(caption)) & set(WORDS)
    else:
        assert [WORDS[index] for index in tokens.ids] == [word for word in split(caption) if word in WORDS]


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=5))
def test_padding_keeps_every_sequence_and_its_length(sequences: list[list[int]]) -> None:
    tokens, lengths = pad(sequences)
    assert tokens.dtype == lengths.dtype == np.int64
    assert [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)] == sequences
    assert all(not row[length:].any() for row, length in zip(tokens, lengths, strict=True))


def test_vocabulary_file_round_trip() -> None:
    assert Tokenizer.from_json(tokenizer.to_json()).words == WORDS


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}", b"[]", b'["a"]', b'["<end>", 1]', b'["<end>", "a", "a"]', b"\xff", b"[" * 100_000),
        rb'["<end>", "\u001b[2J\u001b]0;title\u0007"]',  # would clear the terminal that an error suggests it to
    ],
)
def test_broken_vocabulary_is_a_bundle_error(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"words\.json is not a vocabulary"):
        Tokenizer.from_json(content, "words.json")
