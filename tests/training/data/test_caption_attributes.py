import re

import pytest

from training.data.synthbirds import SynthBirds
from training.data.synthbirds.caption_attributes import (
    ATTRIBUTES,
    COLOURED_PARTS,
    caption_attributes,
    fits,
    visible_attributes,
)
from training.data.synthbirds.kinds import KINDS
from training.data.synthbirds.wording import COLOUR_WORDS

BIRDS = SynthBirds("test", 200, 32)


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("a yellow bird", {"main colour": "yellow"}),
        ("THE BIRD IS BLUE!", {"main colour": "blue"}),
        ("a scarlet egret wading in a pond", {"main colour": "red", "kind": "heron", "setting": "water"}),
        ("red owl snow", {"main colour": "red", "kind": "owl", "weather": "snow"}),
        ("penguin ice", {"kind": "penguin", "setting": "ice"}),
        ("the crown of this bird is jet black", {"crown": "black"}),
        ("this warbler's cap is gray", {"kind": "songbird", "crown": "grey"}),
        ("this bird has wings that are black and has a thick bill", {"wings": "black"}),
        ("this bird is black and white", {"main colour": "black white"}),
        ("a black and white bird", {"main colour": "black white"}),
        ("a duck with spotted brown underparts", {"kind": "duck", "breast": "brown", "belly": "brown"}),
        ("a bird with white wing bars and a red crest", {}),
        ("a bird in winter", {}),
        ("a bird on a branch", {"setting": "branch nest"}),
        ("a bird on a snowy branch", {"setting": "branch", "weather": "snow"}),
        ("a white gull with open wings", {"main colour": "white", "kind": "gull", "setting": "sky"}),
        ("golden coloured bird in a field", {"main colour": "yellow", "setting": "grass meadow"}),
        ("draw me a pretty emerald parrot please", {"main colour": "green", "kind": "parrot"}),
        ("a sparrow among the clouds", {"kind": "finch", "setting": "sky"}),
        ("this is a bird with pink plumage", {"main colour": "pink"}),
        ("a little songbird at night", {"kind": "songbird finch", "size": "small", "weather": "night"}),
        ("an eagle with a large hooked bill", {"kind": "eagle"}),
        ("a huge black raptor", {"kind": "owl hawk eagle", "size": "large", "main colour": "black"}),
        ("a robin", {"kind": "songbird", "breast": "orange"}),
        ("", {}),
    ],
)
def test_a_caption_asks_for_what_it_says(caption: str, wanted: dict[str, str]) -> None:
    assert caption_attributes(caption) == {name: frozenset(values.split()) for name, values in wanted.items()}


def test_what_a_caption_of_the_grammar_asks_for_is_seen_in_its_picture() -> None:
    for index in range(len(BIRDS)):
        shown = visible_attributes(BIRDS.attributes(index))
        for caption in BIRDS.captions(index):
            assert fits(caption_attributes(caption), shown), caption


def test_no_colour_of_the_grammar_is_overlooked() -> None:
    words = sorted((word for words in COLOUR_WORDS.values() for word in words), key=len, reverse=True)
    colour = re.compile(rf"\b(?:{'|'.join(words)})\b")
    marks = r"(?:wing bars|wingbars|eye ring|eyering|crest|legs|feet)"
    passed_over = re.compile(rf"{colour.pattern} {marks}|and {colour.pattern}$")
    for index in range(len(BIRDS)):
        for caption in BIRDS.captions(index):
            text = re.sub(r"\bgreen grass\b", "", passed_over.sub("", caption))
            said = len(colour.findall(text)) - len(re.findall(rf"{colour.pattern} and {colour.pattern} \w+$", text))
            if any(name in caption for kind in KINDS.values() for name in kind.names):
                continue  # a robin has an orange breast
            wanted = [name for name in caption_attributes(caption) if name in ("main colour", *COLOURED_PARTS)]
            both = ("underparts" in caption) + ("head" in caption and "crown" in wanted and "face" in wanted)
            assert len(wanted) - both in (said, said + both), caption


def test_a_picture_shows_its_kind_setting_and_colours() -> None:
    for index in range(20):
        seen = visible_attributes(BIRDS.attributes(index))
        assert {"kind", "setting", "main colour"} <= seen.keys()
        assert all(value in ATTRIBUTES[name] for name, value in seen.items())


def test_parts_that_cannot_be_seen_have_no_colour() -> None:
    birds = [BIRDS.attributes(index) for index in range(100)]
    hidden = [(seen, part) for seen in birds for part in COLOURED_PARTS if seen.areas[part] == 0]
    assert hidden
    assert all(part not in visible_attributes(seen) for seen, part in hidden)
