"""The attributes of a synthbird that its picture shows, and those that a caption asks for, in the same words."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import get_args

from t2i_engine.tokenizer import split
from training.data.synthbirds.anatomy import Part
from training.data.synthbirds.attributes import FEATHERED, Attributes, Size, Weather
from training.data.synthbirds.captions import VISIBLE
from training.data.synthbirds.colours import COLOURS
from training.data.synthbirds.kinds import KINDS, Setting
from training.data.synthbirds.wording import (
    COLOUR_WORDS,
    HEAD_WORDS,
    PART_WORDS,
    SCENE_WORDS,
    SETTING_WORDS,
    SIZE_WORDS,
    STANCE_WORDS,
    TYPED_SETTINGS,
    TYPED_WEATHER,
    UNDERSIDE_WORDS,
    WEATHER_WORDS,
)

Asked = Mapping[str, frozenset[str]]

COLOURED_PARTS: tuple[Part, ...] = (*FEATHERED, "bill")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": tuple(KINDS),
    "setting": get_args(Setting),
    "weather": get_args(Weather),
    "size": get_args(Size),
    "main colour": COLOURS,
    **dict.fromkeys(COLOURED_PARTS, COLOURS),
}
"""Every attribute and its possible values; the value of a part is its colour."""


def visible_attributes(bird: Attributes) -> dict[str, str]:
    """The attributes that a picture shows, without parts too small for captions to mention."""
    parts: dict[str, str] = {part: bird.colours[part] for part in COLOURED_PARTS if bird.areas[part] >= VISIBLE[part]}
    whole = {"kind": bird.kind, "setting": bird.setting, "weather": bird.weather, "size": bird.size}
    return {**whole, "main colour": bird.main_colour, **parts}


def fits(asked: Asked, shown: Mapping[str, str]) -> bool:
    """Whether a picture shows all that is asked for."""
    return all(shown.get(name) in values for name, values in asked.items())


def caption_attributes(caption: str) -> dict[str, frozenset[str]]:
    """The attributes that a caption asks for, each with the values that fit; exact for the captions of the grammar.

    A word that is true of several values asks for one of them: a songbird may be a finch, and "a black and white bird"
    either colour above all. Marks (wing bars, eye rings, crests, patterns), the bill's shape and the legs are ignored.
    """
    text = " ".join(split(caption))
    found: defaultdict[str, list[frozenset[str]]] = defaultdict(list)

    def take_part(match: re.Match[str]) -> str:
        for part in _PARTS[match["part"]]:
            found[part].append(frozenset({_COLOURS[match["colour"]]}))
        return "|"

    def take_phrase(match: re.Match[str]) -> str:
        for name, values in _PHRASES[match["phrase"]].items():
            found[name].append(values)
        return "|"

    for pattern in (_PART_IS, _COLOURED_PART):
        text = pattern.sub(take_part, text)
    if main := _COLOURED_BIRD.search(text) or _BIRD_IS.search(text) or _ALL_OVER.search(text):
        found["main colour"].append(frozenset(_COLOURS[word] for word in main.group("colour", "other") if word))
    text = _PHRASE.sub(take_phrase, text)
    for match in _NOUN.finditer(text):
        for name, values in _NOUNS[match["noun"]].items():
            found[name].append(values)
    if size := _SIZE.search(text):
        found["size"].append(frozenset({_SIZES[size["size"]]}))
    for match in _TYPED.finditer(text):
        for name, values in _TYPED_WORDS[match["typed"]].items():
            found[name].append(values)
    return {name: frozenset.intersection(*values) for name, values in found.items()}


def _any_of(name: str, words: Iterable[str]) -> str:
    """A named group that matches the longest of the words, as a whole word."""
    return rf"\b(?P<{name}>{'|'.join(sorted(words, key=len, reverse=True))})\b"


def _said_of() -> Iterator[tuple[str, str, str]]:
    """Every phrase of place and weather with an attribute and a value that it is said of."""
    for setting, phrases in chain(SETTING_WORDS.items(), ((key[0], words) for key, words in STANCE_WORDS.items())):
        yield from ((phrase, "setting", setting) for phrase in phrases)
    for weather, phrases in WEATHER_WORDS.items():
        yield from ((phrase, "weather", weather) for phrase in phrases)
    for (setting, weather), phrases in SCENE_WORDS.items():
        yield from ((phrase, *value) for phrase in phrases for value in (("setting", setting), ("weather", weather)))


def _typed_of() -> Iterator[tuple[str, str, str]]:
    for weather, word in TYPED_WEATHER.items():
        yield word, "weather", weather
    for setting, words in TYPED_SETTINGS.items():
        yield from ((word, "setting", setting) for word in words if word not in TYPED_WEATHER.values())


def _said_of_kinds() -> Iterator[tuple[str, str, str]]:
    for name, kind in KINDS.items():
        yield from ((noun, "kind", name) for noun in (*kind.nouns, *kind.families, *kind.names))
        for noun, plumage in kind.names.items():
            yield from ((noun, part, colour) for part, colour in plumage.items())


def _inverted(said: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, frozenset[str]]]:
    """What each phrase asks for: of each attribute, all values that it is said of."""
    found: dict[str, dict[str, frozenset[str]]] = {}
    for phrase, name, value in said:
        asked = found.setdefault(" ".join(split(phrase)), {})
        asked[name] = asked.get(name, frozenset()) | {value}
    return found


_COLOURS = {word: colour for colour, words in COLOUR_WORDS.items() for word in words}
_PARTS: dict[str, tuple[Part, ...]] = {
    **{word: (part,) for part, words in PART_WORDS.items() if part in COLOURED_PARTS for word in words},
    **dict.fromkeys(HEAD_WORDS, ("crown", "face")),
    **dict.fromkeys(UNDERSIDE_WORDS, ("breast", "belly")),
}
_PHRASES, _NOUNS, _TYPED_WORDS = map(_inverted, (_said_of(), _said_of_kinds(), _typed_of()))
_SIZES = {word: size for size, words in SIZE_WORDS.items() for word in words}

_COLOUR = _any_of("colour", _COLOURS)
_MAIN = rf"{_COLOUR}(?: and {_any_of('other', _COLOURS)})?"
_PART = _any_of("part", _PARTS)
_BIRD = rf"\b(?:{'|'.join(sorted(('bird', *_NOUNS), key=len, reverse=True))})\b"
_NOUN = re.compile(_any_of("noun", _NOUNS))
_PART_IS = re.compile(rf"{_PART}(?: of (?:this|the) {_BIRD}| that)? (?:is|are) {_COLOUR}")
_COLOURED_PART = re.compile(rf"{_COLOUR} {_PART}")
_COLOURED_BIRD = re.compile(rf"{_MAIN}(?: coloured| colored)? {_BIRD}")
_BIRD_IS = re.compile(rf"{_BIRD} (?:that )?is (?:(?:all|completely|entirely|mostly|mainly) )?{_MAIN}")
_ALL_OVER = re.compile(rf"\b(?:covered in|with) {_MAIN} (?:feathers|plumage)")
_SIZE = re.compile(rf"{_any_of('size', _SIZES)} (?:{_MAIN} )?(?:coloured |colored )?{_BIRD}")
_PHRASE = re.compile(_any_of("phrase", _PHRASES))
_TYPED = re.compile(rf"(?:{_BIRD}|\|) {_any_of('typed', _TYPED_WORDS)}$")
