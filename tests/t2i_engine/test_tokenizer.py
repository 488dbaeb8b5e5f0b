import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_engine.errors import BundleError, CaptionError
from t2i_engine.tokenizer import LONGEST_CAPTION, PADDING, Tokenizer, pad, split

WORDS = ("<end>", "a", "yellow", "bird", "with", "caf")
tokenizer = Tokenizer(WORDS)


def test_words_become_their_places_in_the_vocabulary() -> None:
    assert tokenizer.encode("A Yellow bird!") == ((1, 2, 3), ())


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
    "content", [b"", b"{}", b"[]", b'["a"]', b'["<end>", 1]', b'["<end>", "a", "a"]', b"\xff", b"[" * 100_000]
)
def test_broken_vocabulary_is_a_bundle_error(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"words\.json is not a vocabulary"):
        Tokenizer.from_json(content, "words.json")
