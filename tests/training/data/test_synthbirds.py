"""The embedded data set: what its pictures show, what its captions say, and that both agree."""

import pickle
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from training.data.source import DataError
from training.data.synthbirds import Attributes, SynthBirds
from training.data.synthbirds.__main__ import main
from training.data.synthbirds.anatomy import Part
from training.data.synthbirds.attributes import FEATHERED, LEAD, Weather
from training.data.synthbirds.colours import COLOURS, Colour
from training.data.synthbirds.drawing import design, draw
from training.data.synthbirds.kinds import KINDS, Setting

MANY = 1200
TRAIN = SynthBirds("train", 1_000_000, 64)
INDICES = st.integers(0, len(TRAIN) - 1)

COLOUR_OF: dict[str, Colour] = {
    **{colour: colour for colour in COLOURS},
    "gray": "grey",
    "violet": "purple",
    "scarlet": "red",
    "crimson": "red",
    "golden": "yellow",
    "chestnut": "brown",
    "emerald": "green",
}
PARTS_OF: dict[str, tuple[Part, ...]] = {
    "crown": ("crown",),
    "cap": ("crown",),
    "forehead": ("crown",),
    "throat": ("face",),
    "cheeks": ("face",),
    "head": ("crown", "face"),
    "back": ("back",),
    "wings": ("wings",),
    "wing feathers": ("wings",),
    "breast": ("breast",),
    "chest": ("breast",),
    "belly": ("belly",),
    "abdomen": ("belly",),
    "stomach": ("belly",),
    "underparts": ("breast", "belly"),
    "tail": ("tail",),
    "tail feathers": ("tail",),
    "bill": ("bill",),
    "beak": ("bill",),
    "legs": ("legs",),
    "feet": ("legs",),
}
NOUNS = {
    noun: {name for name, kind in KINDS.items() if noun in (*kind.nouns, *kind.families, *kind.names)}
    for kind in KINDS.values()
    for noun in (*kind.nouns, *kind.families, *kind.names)
}
SETTING_SIGNS: tuple[tuple[set[str], str], ...] = (
    ({"branch", "nest"}, "branch twig"),
    ({"branch", "nest", "trunk"}, "tree"),
    ({"trunk"}, "trunk clinging climbing climbs bark"),
    ({"fence"}, "fence post wooden"),
    ({"nest"}, "nest"),
    ({"grass", "meadow"}, "grass meadow field lawn"),
    ({"meadow", "flower"}, "flower flowers"),
    ({"flower"}, "blossom drinking hovers"),
    ({"beach"}, "beach sand sea shore"),
    ({"rock"}, "rock stone boulder"),
    ({"ice"}, "ice iceberg frozen arctic"),
    ({"water"}, "water pond river swimming swims wading floating shallow"),
    ({"water", "ice"}, "lake"),
    ({"sky", "flower"}, "flight flying flies"),
    ({"sky"}, "sky soaring air clouds open starry"),
)
WEATHER_SIGNS = {
    "rain": "rain rains rainy",
    "snow": "snow snowy snows",
    "sunset": "sunset dawn evening",
    "night": "night moon moonlight stars starry",
}
SIZE_OF = {**dict.fromkeys(("small", "little", "tiny"), "small"), **dict.fromkeys(("big", "large", "huge"), "large")}


@cache
def many_attributes() -> list[Attributes]:
    return [TRAIN.attributes(index) for index in range(MANY)]


def many_captions() -> list[str]:
    return [caption for captions in captions_of_many() for caption in captions]


@cache
def captions_of_many() -> list[tuple[str, ...]]:
    return [TRAIN.captions(index) for index in range(MANY)]


def words_of(caption: str) -> list[str]:
    return re.findall(r"[a-z]+", caption)


def test_the_same_key_gives_the_same_bytes_and_captions() -> None:
    first, second = SynthBirds("train", 10, 64)[7], SynthBirds("train", 9999, 64)[7]
    assert first.key == second.key == "synthbirds/train/000007"
    assert first.image.tobytes() == second.image.tobytes()
    assert first.captions == second.captions


def test_a_worker_process_can_be_handed_the_data_set() -> None:
    copy = pickle.loads(pickle.dumps(TRAIN))
    assert copy[3].image.tobytes() == TRAIN[3].image.tobytes()


def test_train_and_test_share_no_key_and_no_picture() -> None:
    train, test = SynthBirds("train", 25, 32), SynthBirds("test", 25, 32)
    assert not {train.key(i) for i in range(25)} & {test.key(i) for i in range(25)}
    assert not {train[i].image.tobytes() for i in range(25)} & {test[i].image.tobytes() for i in range(25)}


@pytest.mark.parametrize("side", [32, 48, 64, 128, 256])
def test_every_side_shows_the_same_bird(side: int) -> None:
    birds, others = SynthBirds("test", 200, side), SynthBirds("test", 200, 96)
    patterned = next(i for i in range(200) if birds.attributes(i).pattern == "spotted")
    for index in (0, 1, patterned):
        image = birds[index].image
        assert image.shape == (side, side, 3)
        assert image.dtype == np.uint8
        assert birds.attributes(index) == others.attributes(index)
        assert np.abs(miniature(image) - miniature(others[index].image)).mean() < 6


def miniature(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BOX), dtype=np.float64)


def test_the_length_is_the_count_and_pictures_end_there() -> None:
    birds = SynthBirds("train", 3, 32)
    assert len(birds) == len([birds[number] for number in range(3)]) == 3
    with pytest.raises(IndexError):
        birds[3]


def test_impossible_data_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="train, test"):
        SynthBirds("validation", 1, 64)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="32 × 32 pixels or more, not at 16 × 16"):
        SynthBirds("train", 1, 16)


def test_every_kind_setting_facing_and_mark_occurs() -> None:
    seen = many_attributes()
    assert {bird.kind for bird in seen} == set(KINDS)
    assert {bird.setting for bird in seen} == set(get_args(Setting))
    assert {bird.weather for bird in seen} == set(get_args(Weather))
    assert {bird.size for bird in seen} == {"small", "large"}
    assert {bird.facing for bird in seen} == {"left", "right"}
    assert {bird.pattern for bird in seen} == {"plain", "streaked", "spotted"}
    assert {bird.crest for bird in seen} == {True, False}
    assert any(bird.wing_bars for bird in seen)
    assert any(bird.eye_ring for bird in seen)


def test_every_colour_is_the_main_colour_of_enough_birds_and_occurs_on_every_part() -> None:
    seen = many_attributes()
    mains = Counter(bird.main_colour for bird in seen)
    assert all(mains[colour] > MANY / 11 * 0.6 for colour in COLOURS)
    for part in (*FEATHERED, "bill"):
        assert {bird.colours[part] for bird in seen} == set(COLOURS), part


@settings(max_examples=60, deadline=None)
@given(INDICES)
def test_the_main_colour_covers_the_largest_area(index: int) -> None:
    bird = TRAIN.attributes(index)
    assert bird.main_colour == max(COLOURS, key=bird.area_of)
    second = sorted(bird.area_of(colour) for colour in set(bird.colours.values()))[-2:][0]
    assert bird.area_of(bird.main_colour) >= LEAD * second or len(set(bird.colours.values())) == 1
    assert 0.03 < sum(bird.areas.values()) < 0.7


def painted_pixels(index: int, colour: Colour) -> int:
    """Counts pixels of the drawn picture that have a saturated colour's hue."""
    pixels: NDArray[np.uint8] = np.asarray(Image.fromarray(TRAIN[index].image).convert("HSV"))
    low, high = {"red": (245, 8), "yellow": (28, 42), "blue": (140, 165), "purple": (180, 205)}[colour]
    hue, strong = pixels[..., 0], pixels[..., 1] > 90
    inside = (hue >= low) | (hue <= high) if low > high else (hue >= low) & (hue <= high)
    return int((inside & strong).sum())


@pytest.mark.parametrize("colour", ["red", "yellow", "purple"])
def test_the_main_colour_can_be_counted_in_the_picture(colour: Colour) -> None:
    """A vivid main colour is found in about as many pixels as the part map says."""
    indices = [i for i in range(MANY) if many_attributes()[i].main_colour == colour][:6]
    for index in indices:
        expected = many_attributes()[index].area_of(colour) * 64 * 64
        assert painted_pixels(index, colour) > 0.5 * expected, TRAIN.key(index)


def test_facing_left_and_right_put_the_bill_on_that_side() -> None:
    for index in range(40):
        plan = design(TRAIN.key(index))
        bill = plan.pose.place((plan.silhouette.bill.upper[2],))[0, 0]
        middle = plan.pose.place(plan.silhouette.body)[:, 0].mean()
        assert (bill > middle) == (plan.attributes.facing == "right")


def test_the_bird_stands_out_from_its_ground() -> None:
    """Within the part map's bird, colours differ from those at the picture's rim."""
    for index in range(12):
        image = TRAIN[index].image.astype(float)
        rim = np.concatenate([image[:4].reshape(-1, 3), image[:, :4].reshape(-1, 3), image[:, -4:].reshape(-1, 3)])
        distance = np.linalg.norm(image - np.median(rim, axis=0), axis=2)
        assert (distance > 40).mean() > 0.8 * sum(TRAIN.attributes(index).areas.values()), TRAIN.key(index)


@settings(max_examples=80, deadline=None)
@given(INDICES)
def test_captions_say_only_what_is_true(index: int) -> None:
    bird, captions = TRAIN.attributes(index), TRAIN.captions(index)
    assert len(captions) == 10
    for caption in captions:
        assert_true(bird, caption)


def assert_true(bird: Attributes, caption: str) -> None:
    words = words_of(caption)
    for word in words:
        assert bird.kind in NOUNS.get(word, {bird.kind}), caption
        assert KINDS[bird.kind].names.get(word, {}).items() <= bird.colours.items(), caption
    for places, signs in SETTING_SIGNS:
        assert bird.setting in places or not set(words) & set(signs.split()), caption
    for weather, signs in WEATHER_SIGNS.items():
        assert bird.weather == weather or not set(words) & set(signs.split()), caption
    assert not set(words) & {"winter", "cold"} or bird.weather == "snow" or bird.setting == "ice", caption
    for match in re.finditer(r"(\w+) (wing ?bars|eye ?ring|crest\b(?! on))", caption):
        colour = COLOUR_OF.get(match[1])
        truth = {"w": bird.wing_bars, "e": bird.eye_ring, "c": bird.colours["crown"]}[match[2][0]]
        assert colour is None or colour == truth, caption
    assert bird.crest or not {"crest", "tufts"} & set(words), caption
    for colour_word, part_word in coloured_parts(caption):
        for part in PARTS_OF[part_word]:
            assert bird.colours[part] == COLOUR_OF[colour_word], caption
            assert bird.areas[part] > 0, caption
    if bird.pattern != "streaked":
        assert not {"streaked", "striped"} & set(words), caption
    if bird.pattern != "spotted":
        assert not {"spotted", "speckled"} & set(words), caption
    nouns, colours = "|".join(("bird", *NOUNS)), "|".join((*COLOUR_OF, "bright", "jet", "pure", "and", "colou?red"))
    for match in re.finditer(rf"((?:(?:{colours}) )*)(?:{nouns})\b", caption):
        said = [COLOUR_OF[word] for word in match[1].split() if word in COLOUR_OF]
        assert set(said) <= set(bird.colours.values()), caption
        assert said[:1] in ([], [bird.main_colour]), caption
    for match in re.finditer(rf"\b({'|'.join(SIZE_OF)}) (?:(?:{colours}) )*(?:{nouns})\b", caption):
        assert SIZE_OF[match[1]] == bird.size, caption


def coloured_parts(caption: str) -> list[tuple[str, str]]:
    """Pairs of a colour word and the part it is said of."""
    colours, parts = "|".join(COLOUR_OF), "|".join(sorted(PARTS_OF, key=len, reverse=True))
    said_after = rf"\b({parts}) (?:that |of (?:this|the) \w+ )?(?:is|are) (?:bright |jet |pure )?({colours})\b"
    before = re.findall(rf"\b({colours}) ({parts})\b", caption)
    return before + [(colour, part) for part, colour in re.findall(said_after, caption)]


def test_most_captions_are_understood_by_the_truth_test() -> None:
    told = sum(bool(coloured_parts(caption)) for caption in many_captions())
    assert told > 0.4 * len(many_captions())


def test_the_first_caption_is_short_and_names_the_main_colour() -> None:
    for index, bird in enumerate(many_attributes()):
        first = TRAIN.captions(index)[0]
        assert len(words_of(first)) <= 11
        assert any(COLOUR_OF.get(word) == bird.main_colour for word in words_of(first)), first


def share(chosen: Iterable[bool]) -> float:
    return float(np.mean(list(chosen)))


def test_a_bird_that_is_called_by_one_colour_is_mostly_plain() -> None:
    called = re.compile(rf"(?:a |an )?(?:bright |jet |pure )?(?:{'|'.join(COLOUR_OF)}) (?:bird|{'|'.join(NOUNS)})")
    plain = [bird.plain for bird, texts in zip(many_attributes(), captions_of_many(), strict=True)
             for text in texts if called.fullmatch(text)]  # fmt: skip
    assert len(plain) > 100
    assert share(plain) > 0.65


def test_bars_and_patterns_are_rare_where_nobody_names_them() -> None:
    told = [(bird, set(words_of(text))) for bird, texts in zip(many_attributes(), captions_of_many(), strict=True)
            for text in texts]  # fmt: skip
    assert share(bird.wing_bars is not None for bird, words in told if not words & {"bars", "wingbars"}) < 0.08
    patterns = {"streaked", "striped", "spotted", "speckled"}
    assert share(bird.pattern != "plain" for bird, words in told if not words & patterns) < 0.05


def test_parts_mostly_have_the_main_colour() -> None:
    alike = [bird.colours[part] == bird.main_colour for bird in many_attributes() for part in FEATHERED]
    assert share(alike) > 0.75


def test_captions_without_a_colour_are_usual_and_say_nothing_about_it() -> None:
    without = [bird for bird, texts in zip(many_attributes(), captions_of_many(), strict=True)
               for text in texts if not set(words_of(text)) & set(COLOUR_OF)]  # fmt: skip
    assert len(without) > 0.12 * len(many_captions())
    said, all_ = (Counter(bird.main_colour for bird in birds) for birds in (without, many_attributes()))
    assert sum(abs(said[colour] / len(without) - all_[colour] / MANY) for colour in COLOURS) / 2 < 0.08


def test_one_bird_is_drawn_and_none_is_spoken_of_as_several() -> None:
    """So "two", "flock" and plurals are unknown to a model, which says so, rather than words for one bird."""
    spoken = {word for caption in many_captions() for word in words_of(caption)}
    assert not spoken & {"two", "three", "flock", "birds", "pair", "many", *(f"{noun}s" for noun in NOUNS)}


def test_captions_vary_and_use_a_small_vocabulary() -> None:
    captions = many_captions()
    assert len(set(captions)) > 0.5 * len(captions)
    vocabulary = {word for caption in captions for word in words_of(caption)}
    assert 100 <= len(vocabulary) <= 350
    assert all(" an " not in f" {caption} " or re.search(r"\ban [aeiou]", caption) for caption in captions)
    assert not any(re.search(r"\ba [aeiou]", caption) for caption in captions)
    assert not any("  " in caption or caption != caption.strip() for caption in captions)


def test_the_command_writes_a_sheet(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    result = CliRunner().invoke(
        main, ["--out", str(out), "--side", "32", "--columns", "3", "--rows", "2", "--captions"]
    )
    assert result.exit_code == 0
    assert Image.open(out).size == (96, 64)
    assert "synthbirds/train/000005" in result.stdout


def test_a_picture_is_fully_decided_by_its_key() -> None:
    key = "synthbirds/test/000042"
    assert np.array_equal(draw(design(key), key, 64), SynthBirds("test", 43, 64)[42].image)
