"""The attributes of a synthbird that its picture shows, and those that a caption asks for, in the same words."""

import re
from collections.abc import Iterable
from typing import get_args

from t2i_engine.tokenizer import split
from training.data.synthbirds.attributes import FEATHERED, Attributes, Part
from training.data.synthbirds.captions import VISIBLE_BARE, VISIBLE_FEATHERS
from training.data.synthbirds.colours import COLOURS
from training.data.synthbirds.kinds import KINDS, Setting
from training.data.synthbirds.wording import (
    COLOUR_WORDS,
    HEAD_WORDS,
    PART_WORDS,
    SETTING_WORDS,
    STANCE_WORDS,
    UNDERSIDE_WORDS,
    plural,
)

COLOURED_PARTS: tuple[Part, ...] = (*FEATHERED, "bill")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": tuple(KINDS),
    "setting": get_args(Setting),
    "main colour": COLOURS,
    **dict.fromkeys(COLOURED_PARTS, COLOURS),
}
"""Every attribute and its possible values; the value of a part is its colour."""


def visible_attributes(bird: Attributes) -> dict[str, str]:
    """The attributes that a picture shows, without parts too small for captions to mention."""
    smallest = {part: VISIBLE_BARE if part == "bill" else VISIBLE_FEATHERS for part in COLOURED_PARTS}
    parts: dict[str, str] = {part: bird.colours[part] for part in COLOURED_PARTS if bird.areas[part] >= smallest[part]}
    return {"kind": bird.kind, "setting": bird.setting, "main colour": bird.main_colour, **parts}


def caption_attributes(caption: str) -> dict[str, str]:
    """The attributes that a caption asks for; exact for the captions of the grammar.

    Ignored are marks (wing bars, eye rings, crests, patterns), sizes, the bill's shape, the legs, and the second colour
    of "a black and white bird", which may belong to any part.
    """
    text = " ".join(split(caption))
    found: dict[str, str] = {}

    def take_part(match: re.Match[str]) -> str:
        for part in _PARTS[match["part"]]:
            found[part] = _COLOURS[match["colour"]]
        return "|"

    for pattern in (_PART_IS, _COLOURED_PART):
        text = pattern.sub(take_part, text)
    if main := _COLOURED_BIRD.search(text) or _BIRD_IS.search(text) or _ALL_OVER.search(text):
        found["main colour"] = _COLOURS[main["colour"]]
    if setting := _SETTING.search(text) or _BARE_SETTING.search(text):
        found["setting"] = _SETTINGS[setting["setting"]]
    kinds = [_KINDS[noun] for noun in _NOUN.findall(text) if noun in _KINDS]
    return found | ({"kind": kinds[0]} if kinds else {})


def _any_of(name: str, words: Iterable[str]) -> str:
    """A named group that matches the longest of the words, as a whole word."""
    return rf"\b(?P<{name}>{'|'.join(sorted(words, key=len, reverse=True))})\b"


def _plain(phrase: str) -> str:
    return " ".join(split(phrase))


_COLOURS = {word: colour for colour, words in COLOUR_WORDS.items() for word in words}
_PARTS: dict[str, tuple[Part, ...]] = {
    **{word: (part,) for part, words in PART_WORDS.items() if part in COLOURED_PARTS for word in words},
    **dict.fromkeys(HEAD_WORDS, ("crown", "face")),
    **dict.fromkeys(UNDERSIDE_WORDS, ("breast", "belly")),
}
_KINDS = {word: name for name, kind in KINDS.items() for noun in kind.nouns for word in (noun, plural(noun))}
_SETTINGS: dict[str, str] = {
    **{setting: setting for setting in SETTING_WORDS},
    **{_plain(phrase): setting for setting, phrases in SETTING_WORDS.items() for phrase in phrases},
    **{_plain(phrase): setting for (setting, _), phrases in STANCE_WORDS.items() for phrase in phrases},
}

_COLOUR = _any_of("colour", _COLOURS)
_PART = _any_of("part", _PARTS)
_BIRD = rf"\b(?:{'|'.join(sorted(('bird', 'birds', *_KINDS), key=len, reverse=True))})\b"
_NOUN = re.compile(_BIRD)
_PART_IS = re.compile(rf"{_PART}(?: of (?:this|the) {_BIRD}| that)? (?:is|are) {_COLOUR}")
_COLOURED_PART = re.compile(rf"{_COLOUR} {_PART}")
_COLOURED_BIRD = re.compile(rf"{_COLOUR}(?: coloured| colored)? {_BIRD}")
_BIRD_IS = re.compile(rf"{_BIRD} (?:that )?is (?:(?:all|completely|entirely|mostly|mainly) )?{_COLOUR}")
_ALL_OVER = re.compile(rf"\b(?:covered in|with) {_COLOUR} (?:feathers|plumage)")
_SETTING = re.compile(_any_of("setting", (phrase for phrase in _SETTINGS if phrase not in SETTING_WORDS)))
_BARE_SETTING = re.compile(rf"{_BIRD} {_any_of('setting', SETTING_WORDS)}$")
