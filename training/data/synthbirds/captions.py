"""Captions from a grammar, in the style of CUB's: each says some of what can be seen, and nothing else.

No caption says which way the bird faces, so training may mirror the pictures.
"""

from collections.abc import Callable
from random import Random

from training.data.synthbirds.anatomy import Part
from training.data.synthbirds.attributes import FEATHERED, Attributes, pick, weighted
from training.data.synthbirds.colours import Colour
from training.data.synthbirds.kinds import KINDS, Plumage
from training.data.synthbirds.wording import (
    COLOUR_WORDS,
    HEAD_WORDS,
    PART_WORDS,
    PATTERN_WORDS,
    PLURAL,
    PRAISE_WORDS,
    REQUESTS,
    SCENE_WORDS,
    SETTING_WORDS,
    SIZE_WORDS,
    STANCE_WORDS,
    TYPED_SETTINGS,
    TYPED_WEATHER,
    UNDERSIDE_WORDS,
    WEATHER_WORDS,
    WINTER_WORDS,
)

CAPTIONS = 10

# The least share of the picture that a part must cover to be mentioned and judged: at 128 x 128, 82 pixels of a bill.
# Below that, the judge (attribute_accuracy.py) is wrong about its colour too often.
VISIBLE: dict[Part, float] = {
    **dict.fromkeys(FEATHERED, 0.01),
    "crown": 0.012,
    "back": 0.012,
    "bill": 0.005,
    "legs": 0.003,
}

# How often a caption that could name the main colour does.
_COLOURED = {"placed": 0.5, "with_parts": 0.7, "has_parts": 0.1, "typed": 0.75, "requested": 0.7}
# How often a bird of several colours is nevertheless said to be of one, rarely enough that most such birds are plain.
ONE_COLOUR = 0.15
_TWO_COLOURED = 0.15  # how often it is called "black and white"
# How often size is mentioned, if there is something to say about it.
_SIZED = {"small": 0.4, "large": 0.1}
# How often it is called a bird, rather than its kind or one of the other nouns true of it.
_BIRD = 0.45
# How much likelier a list mentions what catches the eye: wing bars, a crest, spots.
_STRIKING = 5.0

# How often each feature of a bird is mentioned. A belly is named in one caption of four, more often than by people
# (16 of 100 in CUB's classes 001-010), because few bellies are drawn as asked (docs/lab/birds.md).
_TOPICS = {
    "head": 1.2,
    "wings": 1.8,
    "belly": 2.8,
    "breast": 1.1,
    "underside": 0.5,
    "back": 0.6,
    "tail": 0.8,
    "bill": 1.8,
    "legs": 0.4,
    "marks": 1.3,
}
_TOPIC_PARTS: dict[str, tuple[Part, ...]] = {
    "head": ("crown", "face"),
    "wings": ("wings",),
    "breast": ("breast",),
    "belly": ("belly",),
    "underside": ("breast", "belly"),
    "back": ("back",),
    "tail": ("tail",),
}


def write_captions(seen: Attributes, rng: Random) -> tuple[str, ...]:
    """Writes ten captions. The first says in few words which main colour it has, and what it is."""
    speaker = _Speaker(seen, rng)
    forms: dict[Callable[[], str], float] = {
        speaker.kind_alone: 1.3,
        speaker.short: 1.5,
        speaker.placed: 2.2,
        speaker.with_parts: 3.6,
        speaker.has_parts: 3.2,
        speaker.says_of_part: 0.9,
        speaker.says_of_bird: 1.1,
        speaker.typed: 1.3,
        speaker.requested: 0.6,
    }
    captions = [speaker.short()]
    for _ in range(CAPTIONS - 1):
        caption = weighted(forms, rng)()
        captions.append(weighted(forms, rng)() if caption in captions else caption)
    return tuple(captions)


class _Speaker:
    """Says things about one bird; every method draws its words anew."""

    def __init__(self, seen: Attributes, rng: Random) -> None:
        self.seen = seen
        self.rng = rng
        self.kind = KINDS[seen.kind]
        self.feathered = [part for part in FEATHERED if seen.areas[part] >= VISIBLE[part]]

    def kind_alone(self) -> str:
        """Says "an owl", "penguin", "a picture of a duck", "a bird"."""
        phrase = self._bird(colour=0.0)
        if self._chance(0.12):
            return f"{self._picture()} of {_a(phrase)}"
        return phrase if self._chance(0.3) else _a(phrase)

    def short(self) -> str:
        """Says "a yellow bird", "yellow bird", "a blue owl with a red crown", "a black and white bird"."""
        main, others = self._colour(self.seen.main_colour), self._others()
        if others and self._chance(_TWO_COLOURED):
            phrase = f"{main} and {self._colour(self.seen.colours[pick(others, self.rng)])} {self._noun()}"
            return phrase if self._chance(0.3) else _a(phrase)
        phrase = self._bird()
        return self._not_of_one_colour(phrase if self._chance(0.3) else _a(phrase))

    def placed(self) -> str:
        """Says "a yellow finch on a branch", "red bird with a black bill in the snow", "an owl at night"."""
        coloured = self._chance(_COLOURED["placed"])
        phrase = self._bird(colour=coloured)
        phrase = phrase if self._chance(0.2) else _a(phrase)
        if self._chance(0.08):
            phrase = f"{self._picture()} of {_a(self._bird(colour=coloured))}"
        if self._chance(0.25):
            phrase = f"{phrase} with {self._list(pick((1, 1, 2), self.rng))}"
        elif coloured:
            phrase = self._not_of_one_colour(phrase)
        return f"{phrase} {self._where()}"

    def with_parts(self) -> str:
        """Says "this is a small yellow bird with black wings and a short pointed bill"."""
        subject = self._bird(colour=_COLOURED["with_parts"])
        opening = self._pick(_a(subject), _a(subject), f"this is {_a(subject)}", f"the {subject}", subject)
        return f"{opening} with {self._list(self._count())}"

    def has_parts(self) -> str:
        """Says "this bird has a yellow belly, black wings and a short pointed bill"."""
        subject = self._bird(colour=_COLOURED["has_parts"])
        verb = self._pick("has", "has", "has", "with")
        return f"{self._pick('this', 'this', 'the')} {subject} {verb} {self._list(self._count())}"

    def says_of_part(self) -> str:
        """Says "the crown of this bird is red", "this bird has wings that are black and has a thick bill"."""
        part = self._notable(self.feathered)
        word, colour = self._word(part), self._colour(self.seen.colours[part])
        plural = word in PLURAL
        if self._chance(0.4):
            return f"the {word} of {self._pick('this', 'the')} {self._noun()} {'are' if plural else 'is'} {colour}"
        if self._chance(0.3):
            return f"this {self._noun()}'s {word} {'are' if plural else 'is'} {colour}"
        clause = f"{word} that are {colour}" if plural else f"{_a(word)} that is {colour}"
        return f"this {self._noun()} has {clause} and has {self._bill()}"

    def says_of_bird(self) -> str:
        """Says "the bird is blue", "this owl is mostly red with a white belly", "this bird is black and white"."""
        subject = f"{self._pick('the', 'this')} {self._noun()}"
        main = self._colour(self.seen.main_colour)
        if self.seen.plain:
            return self._pick(
                f"{subject} is {self._pick('all ', 'completely ', 'entirely ', '')}{main}",
                f"{self._a_or_this()} that is {main} all over",
                f"{subject} is covered in {main} feathers",
                f"{self._a_or_this()} with {main} {self._pick('feathers', 'plumage')}",
            )
        others = self._others()
        if not others:
            return f"{subject} is {main} with {self._mark() or self._bill()}"
        other = pick(others, self.rng)
        return self._pick(
            f"{subject} is {self._pick('mostly ', 'mainly ')}{main}",
            f"{subject} is {main} and {self._colour(self.seen.colours[other])}",
            f"{subject} is {self._pick('', 'mostly ')}{main} with {self._coloured(other)}",
            f"{self._a_or_this()} that is {self._pick('', 'mostly ')}{main}, with {self._coloured(other)}",
            f"{subject} is {main} except for its {self._colour(self.seen.colours[other])} {self._word(other)}",
        )

    def typed(self) -> str:
        """Says what a user types: "red owl snow", "yellow bird, black wings", "penguin night"."""
        coloured = self._chance(_COLOURED["typed"])
        bird = self._bird(colour=coloured)
        feature = self._coloured(self._notable(self.feathered), article=False)
        if self._chance(0.5):
            words = [bird, feature] if coloured and not self._called_by_one_colour() else [bird]
            return " ".join((*words, self._typed_place()))
        return self._pick(f"{bird}, {feature}", f"{bird} {feature}", f"{bird}, {feature}, {self._where()}")

    def requested(self) -> str:
        """Says "draw a pretty yellow bird please", "show me a red owl in the snow"."""
        coloured = self._chance(_COLOURED["requested"])
        phrase = self._bird(colour=coloured)
        if self._chance(0.4):
            phrase = f"{pick(PRAISE_WORDS, self.rng)} {phrase}"
        phrase = self._not_of_one_colour(_a(phrase)) if coloured else _a(phrase)
        where = f" {self._where()}" if self._chance(0.4) else ""
        return pick(REQUESTS, self.rng).format(f"{phrase}{where}")

    def _bird(self, colour: float = 1.0) -> str:
        """The bird with its size and, with this probability, its main colour."""
        size = self._chance(_SIZED[self.seen.size])
        words = [pick(SIZE_WORDS[self.seen.size], self.rng) if size else ""]
        if self._chance(colour):
            coloured = self._pick("coloured", "colored") if self._chance(0.04) else ""
            words += [self._colour(self.seen.main_colour), coloured]
        return " ".join(word for word in (*words, self._noun()) if word)

    def _called_by_one_colour(self) -> bool:
        return self.seen.plain or self._chance(ONE_COLOUR)

    def _not_of_one_colour(self, phrase: str) -> str:
        """Adds a feature where the bird has several colours, most of the time."""
        others = self._others()
        if self._called_by_one_colour() or not (others or self.seen.wing_bars):
            return phrase
        return f"{phrase} with {self._coloured(pick(others, self.rng)) if others else self._mark()}"

    def _others(self) -> list[Part]:
        """The parts that do not have the main colour."""
        return [part for part in self.feathered if self.seen.colours[part] != self.seen.main_colour]

    def _picture(self) -> str:
        return self._pick("a picture", "a photo", "an image", "a painting", "a drawing")

    def _list(self, count: int) -> str:
        """Names `count` features, no two of the same part."""
        topics = dict(_TOPICS)
        for topic, parts in _TOPIC_PARTS.items():
            if all(self.seen.colours[part] == self.seen.main_colour for part in parts):
                topics[topic] *= 0.4  # what differs from the rest is said first
        if self.seen.wing_bars or self.seen.eye_ring:
            topics["marks"] *= _STRIKING
        if self.seen.pattern != "plain":
            topics |= {topic: _STRIKING * topics[topic] for topic in ("breast", "belly", "underside")}
        phrases: list[str] = []
        while len(phrases) < count and topics:
            topic = weighted(topics, self.rng)
            del topics[topic]
            phrase = self._feature(topic)
            if phrase:
                phrases.append(phrase)
                told = {*_TOPIC_PARTS.get(topic, ())}
                topics = {name: share for name, share in topics.items() if not told & {*_TOPIC_PARTS.get(name, ())}}
        if not phrases:
            return self._bill()
        if len(phrases) == 1:
            return phrases[0]
        comma = "," if self._chance(0.3) and len(phrases) > 2 else ""
        return f"{', '.join(phrases[:-1])}{comma} and {phrases[-1]}"

    def _feature(self, topic: str) -> str:
        """One phrase about a topic; empty where there is nothing to see of it."""
        seen = self.seen
        if topic == "bill":
            return self._bill()
        if topic == "legs":
            visible = seen.areas["legs"] >= VISIBLE["legs"]
            return self._coloured("legs", self._pick("long ", "") if self.kind.long_legs else "") if visible else ""
        if topic == "marks":
            return self._mark()
        if topic == "head":
            both = {"crown", "face"} <= {*self.feathered} and seen.colours["crown"] == seen.colours["face"]
            if both and self._chance(0.6):
                return _a(f"{self._colour(seen.colours['crown'])} {pick(HEAD_WORDS, self.rng)}")
            return self._coloured(self._visible("crown", "face"))
        if topic == "underside":
            both = {"breast", "belly"} <= {*self.feathered} and seen.colours["breast"] == seen.colours["belly"]
            if not both:
                return ""
            return f"{self._pattern()}{self._colour(seen.colours['belly'])} {pick(UNDERSIDE_WORDS, self.rng)}"
        quality = self._pattern() if topic in ("breast", "belly") else ""
        return self._coloured(self._visible(*_TOPIC_PARTS[topic]), quality)

    def _pattern(self) -> str:
        """The pattern of the underside, if it has one, most of the time."""
        patterned = self.seen.pattern != "plain" and self._chance(0.7)
        return pick(PATTERN_WORDS[self.seen.pattern], self.rng) + " " if patterned else ""

    def _visible(self, *parts: Part) -> Part | None:
        there = [part for part in parts if part in self.feathered]
        return self._notable(there) if there else None

    def _notable(self, parts: list[Part]) -> Part:
        """One of the parts, preferably one that does not have the main colour."""
        return weighted({p: 1.0 if self.seen.colours[p] == self.seen.main_colour else 3.0 for p in parts}, self.rng)

    def _coloured(self, part: Part | None, quality: str = "", article: bool = True) -> str:
        """A part with its colour: "a yellow belly", "spotted brown underparts"."""
        if part is None:
            return ""
        word = self._word(part)
        phrase = f"{quality}{self._colour(self.seen.colours[part])} {word}"
        return _a(phrase) if article and word not in PLURAL else phrase

    def _bill(self) -> str:
        word, shape = self._word("bill"), pick(self.kind.bill_words, self.rng)
        colour = self._colour(self.seen.colours["bill"])
        described = self._pick(shape, colour, colour, f"{shape} {colour}")
        return _a(f"{described if self.seen.areas['bill'] >= VISIBLE['bill'] else shape} {word}")

    def _mark(self) -> str:
        """Wing bars, eye ring or crest, if there are any."""
        seen, marks = self.seen, []
        if seen.wing_bars:
            marks.append(f"{self._colour(seen.wing_bars)} {self._pick('wing bars', 'wingbars')}")
        if seen.eye_ring:
            marks.append(_a(f"{self._colour(seen.eye_ring)} {self._pick('eye ring', 'eyering')}"))
        if seen.crest:
            tufts = seen.kind == "owl"
            marks.append(
                "ear tufts"
                if tufts
                else self._pick("a crest", _a(f"{self._colour(seen.colours['crown'])} crest"), "a crest on its head")
            )
        return pick(marks, self.rng) if marks else ""

    def _a_or_this(self) -> str:
        return self._pick(_a(self._noun()), f"this is {_a(self._noun())}")

    def _word(self, part: Part) -> str:
        return pick(PART_WORDS[part], self.rng)

    def _chance(self, share: float) -> bool:
        return self.rng.random() < share

    def _pick(self, *choices: str) -> str:
        return pick(choices, self.rng)

    def _noun(self) -> str:
        if self._chance(_BIRD):
            return "bird"
        names = [name for name, plumage in self.kind.names.items() if self._has(plumage)]
        if names and self._chance(0.5):
            return pick(names, self.rng)
        return pick(self.kind.families if self.kind.families and self._chance(0.1) else self.kind.nouns, self.rng)

    def _has(self, plumage: Plumage) -> bool:
        return all(part in self.feathered and self.seen.colours[part] == colour for part, colour in plumage.items())

    def _colour(self, colour: Colour) -> str:
        return pick(COLOUR_WORDS[colour], self.rng)

    def _where(self) -> str:
        """Place, weather, or both: "on a branch", "at night", "on a branch in the rain"."""
        setting, weather = self.seen.setting, self.seen.weather
        place = pick(STANCE_WORDS.get((setting, self.seen.stance), SETTING_WORDS[setting]), self.rng)
        if (weather == "snow" or setting == "ice") and self._chance(0.1):
            return pick(WINTER_WORDS, self.rng)
        if weather == "clear" or self._chance(0.35):
            return place
        told = pick(WEATHER_WORDS[weather], self.rng)
        both = SCENE_WORDS.get((setting, weather), (f"{place} {told}",))
        return told if self._chance(0.5) else pick(both, self.rng)

    def _typed_place(self) -> str:
        weather = TYPED_WEATHER.get(self.seen.weather)
        return weather if weather and self._chance(0.5) else pick(TYPED_SETTINGS[self.seen.setting], self.rng)

    def _count(self) -> int:
        return pick((1, 2, 2, 2, 3, 3, 3, 4), self.rng)


def _a(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
