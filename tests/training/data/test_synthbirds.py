"""The embedded data set: what its pictures show, what its captions say, and that both agree."""

import pickle
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from training.data.synthbirds import Attributes, SynthBirds
from training.data.synthbirds.__main__ import main
from training.data.synthbirds.attributes import FEATHERED, Part
from training.data.synthbirds.colours import COLOURS, Colour
from training.data.synthbirds.drawing import design, draw
from training.data.synthbirds.kinds import KINDS

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
NOUNS = {noun + ending: name for name, kind in KINDS.items() for noun in kind.nouns for ending in ("", "s", "es")}
SETTING_SIGNS = {
    "snow": ("snow", "snowy", "winter"),
    "water": ("water", "lake", "pond", "river", "sea", "swimming", "swims", "wading", "floating"),
    "sky": ("sky", "flight", "flying", "flies", "soaring", "air", "clouds", "open"),
    "grass": ("grass", "meadow", "field", "lawn"),
    "rock": ("rock", "stone", "boulder"),
    "flower": ("flower", "blossom"),
    "trunk": ("trunk", "clinging", "climbing", "climbs", "bark"),
}


@cache
def many_attributes() -> list[Attributes]:
    return [TRAIN.attributes(index) for index in range(MANY)]


@cache
def many_captions() -> list[str]:
    return [caption for index in range(MANY) for caption in TRAIN.captions(index)]


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
    with pytest.raises(ValueError, match="at least 32"):
        SynthBirds("train", 1, 16)


def test_every_kind_setting_facing_and_mark_occurs() -> None:
    seen = many_attributes()
    assert {bird.kind for bird in seen} == set(KINDS)
    assert {bird.setting for bird in seen} == {"branch", "trunk", "grass", "water", "snow", "sky", "rock", "flower"}
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
    assert 0.05 < sum(bird.areas.values()) < 0.6


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
        middle = image[16:48, 16:48].reshape(-1, 3)
        distance = np.linalg.norm(middle[:, None] - np.median(rim, axis=0), axis=2)
        assert (distance > 40).mean() > 0.2, TRAIN.key(index)


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
        assert NOUNS.get(word, bird.kind) == bird.kind, caption
    for setting, signs in SETTING_SIGNS.items():
        assert bird.setting == setting or not set(words) & set(signs), caption
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
    nouns = "|".join(("bird", "birds", *NOUNS))
    for match in re.finditer(rf"(\w+)(?: coloured| colored)? (?:{nouns})\b", caption):
        assert COLOUR_OF.get(match[1], bird.main_colour) == bird.main_colour, caption


def coloured_parts(caption: str) -> list[tuple[str, str]]:
    """Pairs of a colour word and the part it is said of."""
    colours, parts = "|".join(COLOUR_OF), "|".join(sorted(PARTS_OF, key=len, reverse=True))
    said_after = rf"\b({parts}) (?:that |of (?:this|the) \w+ )?(?:is|are) (?:bright |jet |pure )?({colours})\b"
    before = re.findall(rf"\b({colours}) ({parts})\b", caption)
    return before + [(colour, part) for part, colour in re.findall(said_after, caption)]


def test_most_captions_are_understood_by_the_truth_test() -> None:
    told = sum(bool(coloured_parts(caption)) for caption in many_captions())
    assert told > 0.4 * len(many_captions())


def test_each_picture_has_a_short_caption_with_its_main_colour() -> None:
    for index, bird in enumerate(many_attributes()):
        first = TRAIN.captions(index)[0]
        assert len(words_of(first)) <= 6
        assert any(COLOUR_OF.get(word) == bird.main_colour for word in words_of(first)), first


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
