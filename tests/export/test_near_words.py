"""Which words a bundle reads as others: judged on 300 words that were labelled by hand, and by rules that must hold."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from export.near_words import TABLE, add_near_words, main, near_words, thesaurus, word_vectors
from t2i_engine.bundle import Bundle, embedded_names
from t2i_engine.engine import Engine
from t2i_engine.manifest import MANIFEST, NEAR_WORDS
from t2i_engine.tokenizer import PADDING, Tokenizer, split
from t2i_engine.verify import verify
from tests.tiny_model import SMALL_GATE
from training.data.synthbirds import wording
from training.data.synthbirds.kinds import KINDS
from training.evaluation.evaluate import open_model

LABELS = Path(__file__).with_name("labelled_words.txt")
LARGEST_FILE, LARGEST_TABLE = 200_000, 2_000_000


def labelled_words() -> dict[str, list[str]]:
    """Each word with the known ones that a person would accept instead, in any vocabulary."""
    lines = LABELS.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(":") for line in lines if line and not line.startswith("#"))
    return {word: accepted.split() for word, _, accepted in pairs}


def synthbirds_words() -> list[str]:
    """The words of synthbirds' captions, without those of the sentences around them."""
    spoken = (wording.COLOUR_WORDS, wording.PART_WORDS, wording.SETTING_WORDS, wording.SIZE_WORDS)
    scenes = (wording.PATTERN_WORDS, wording.STANCE_WORDS, wording.WEATHER_WORDS, wording.SCENE_WORDS)
    phrases = [phrase for words in (*spoken, *scenes) for values in words.values() for phrase in values]
    phrases += [*wording.PRAISE_WORDS, *wording.WINTER_WORDS, "bird a this is has with all except picture photo crest"]
    for kind in KINDS.values():
        phrases += [*kind.nouns, *kind.families, *kind.names, *kind.bill_words]
    return sorted({word for phrase in phrases for word in split(phrase)})


def vocabularies() -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in embedded_names():
        yield name, Bundle.open(name).tokenizer(exact_words=True).words
    yield "synthbirds", (PADDING, *synthbirds_words())


VOCABULARIES = dict(vocabularies())


@pytest.fixture(scope="module", params=VOCABULARIES)
def vocabulary(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def near(vocabulary: str) -> dict[str, str | None]:
    return near_words(VOCABULARIES[vocabulary])


def shares(known: Sequence[str], near: Mapping[str, str | None]) -> tuple[float, float]:
    """Of the labelled words that are read as others, the share read as a person would; and of those that can be."""
    labelled = {word: accepted for word, accepted in labelled_words().items() if word not in known}
    mapped = {word: near[word] for word in labelled if near.get(word)}
    right = sum(known_word in labelled[word] for word, known_word in mapped.items())
    possible = sum(any(word in known for word in accepted) for accepted in labelled.values())
    return right / len(mapped), right / possible


def test_300_words_are_labelled() -> None:
    assert len(labelled_words()) == 300


def test_a_word_is_in_one_group_of_the_thesaurus() -> None:
    words = [word for group in thesaurus().values() for word in group]
    assert len(words) == len(set(words))


def test_most_words_that_can_be_are_read_as_a_person_would_read_them(
    vocabulary: str, near: dict[str, str | None]
) -> None:
    precision, recall = shares(VOCABULARIES[vocabulary], near)
    print(f"{vocabulary}: {precision:.1%} of what is read otherwise is acceptable, {recall:.1%} of what could be is")
    assert precision >= 0.95
    assert recall >= 0.6


def test_known_words_are_not_keys_and_all_values_are_known(vocabulary: str, near: dict[str, str | None]) -> None:
    known = set(VOCABULARIES[vocabulary])
    assert known.isdisjoint(near)
    assert known.issuperset(filter(None, near.values()))


def test_a_colour_is_read_as_a_colour_and_a_bird_as_a_bird(
    near: dict[str, str | None],
) -> None:
    group = {word: name.partition("/")[0] for name, words in thesaurus().items() for word in words}
    for word, known in near.items():
        if known is not None and {group.get(word), group.get(known)} & {"colour", "bird", "birds"}:
            assert group[word].rstrip("s") == group[known].rstrip("s"), (word, known)


def test_english_words_are_never_taken_for_misspellings(vocabulary: str, near: dict[str, str | None]) -> None:
    tokenizer = Tokenizer(VOCABULARIES[vocabulary], near=near)
    plain = [word for word in word_vectors().words[::20] if word not in tokenizer.words]
    assert {word: known for word in plain if (known := tokenizer.read_as(word)) != near.get(word)} == {}


@pytest.mark.parametrize("word", ["two", "three", "pair", "horse", "plane", "happy", "president"])
def test_what_has_no_counterpart_is_left_out(word: str, near: dict[str, str | None], vocabulary: str) -> None:
    assert word in VOCABULARIES[vocabulary] or near.get(word) is None


@pytest.mark.parametrize(
    ("known", "readings"),
    [
        ("a owl owls bird birds", {"owlets": "owls", "geese": "birds", "finches": "birds", "flock": "birds"}),
        ("a duck finch bird", {"ducks": "duck", "geese": "duck", "finches": "finch", "owls": "bird", "flock": None}),
        ("a tree", {"owls": None, "birds": None}),
    ],
)
def test_several_birds_are_read_as_several_where_there_is_a_word_for_it(
    known: str, readings: dict[str, str | None]
) -> None:
    words = (PADDING, *known.split())
    tokenizer = Tokenizer(words, near=near_words(words))
    assert {word: tokenizer.read_as(word) for word in readings} == readings


def test_files_are_small(near: dict[str, str | None]) -> None:
    assert len(json.dumps(near, indent=0)) < LARGEST_FILE
    assert TABLE.stat().st_size < LARGEST_TABLE


def test_an_exported_bundle_has_near_words(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.manifest.tokenizer.near_words == NEAR_WORDS
    assert bundle.tokenizer().encode("a crimson owl").read_as == (("crimson", "red"), ("owl", "bird"))
    assert bundle.tokenizer(exact_words=True).near is None


@pytest.fixture
def old_bundle(plain_bundle: Path, tmp_path: Path) -> Path:
    """A bundle as it was exported before there were near words."""
    folder = Path(shutil.copytree(plain_bundle, tmp_path / "old"))
    manifest = json.loads((folder / MANIFEST).read_bytes())
    del manifest["tokenizer"]["near_words"], manifest["files"][NEAR_WORDS]
    (folder / NEAR_WORDS).unlink()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_a_bundle_without_near_words_reads_exactly(old_bundle: Path) -> None:
    with Engine.open(old_bundle, "onnxruntime") as engine:
        assert engine.generate("a crimson bird").unknown == ("crimson",)


def test_an_evaluation_reads_exactly(plain_bundle: Path) -> None:
    model = open_model(str(plain_bundle), "onnxruntime", "fp32", "cpu")
    assert model.sampler.tokenizer.near is None


def test_near_words_are_added_to_a_bundle_and_nothing_else_of_it_changes(old_bundle: Path, plain_bundle: Path) -> None:
    add_near_words(Bundle.open(old_bundle))
    for file in plain_bundle.iterdir():
        assert (old_bundle / file.name).read_bytes() == file.read_bytes()
    assert verify(Bundle.open(old_bundle), lambda _: None, SMALL_GATE).passed


def test_the_command_adds_them_or_says_why_not(old_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(old_bundle)])
    assert Bundle.open(old_bundle).tokenizer().near
    for arguments in ([], ["nope"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "nope" in capsys.readouterr().err


@pytest.mark.parametrize("name", embedded_names())
def test_embedded_bundles_come_with_near_words(name: str) -> None:
    tokenizer = Bundle.open(name).tokenizer()
    precision, recall = shares(tokenizer.words, tokenizer.near or {})
    assert precision >= 0.95
    assert recall >= 0.6
