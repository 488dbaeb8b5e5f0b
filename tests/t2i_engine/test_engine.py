import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import t2i_engine
from t2i_engine.backends import pytorch
from t2i_engine.backends.base import Runner
from t2i_engine.engine import Engine
from t2i_engine.errors import CaptionError, OptionError
from t2i_engine.formats import Format
from t2i_engine.pictures import Picture
from tests.tiny_model import CAPTIONS, RUNS_HERE


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.open(tiny_bundle)


@pytest.fixture(autouse=True)
def _log_reaches_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("t2i_engine"), "propagate", True)  # the command line turns it off


def _levels_apart(one: Picture, other: Picture) -> int:
    return int(np.abs(one.pixels.astype(int) - other.pixels).max())


def test_picture_has_the_pixels_of_its_bundle_and_says_where_it_comes_from(engine: Engine) -> None:
    picture = engine.generate("a yellow bird", seed=3)
    assert picture.pixels.shape == (32, 32, 3)
    assert picture.pixels.dtype == np.uint8
    assert (picture.caption, picture.seed, picture.bundle, picture.unknown) == ("a yellow bird", 3, "tiny", ())
    assert picture.milliseconds > 0


def test_caption_seed_and_truncation_all_change_the_picture(engine: Engine) -> None:
    picture = engine.generate("a yellow bird", seed=0)
    assert _levels_apart(picture, engine.generate("a red bird", seed=0)) > 1
    assert _levels_apart(picture, engine.generate("a yellow bird", seed=1)) > 1
    assert _levels_apart(picture, engine.generate("a yellow bird", seed=0, truncation=0.5)) > 1


def test_same_seed_gives_same_picture_in_any_batch(engine: Engine) -> None:
    captions = ["a yellow bird", "this red bird has black wings and a short yellow belly"]
    together = list(engine.generate_all(captions, range(16), batch_size=16))
    for picture in (together[0], together[13], together[-1]):
        assert _levels_apart(picture, engine.generate(picture.caption, picture.seed)) <= 1


def test_same_seed_gives_same_picture_with_any_number_of_threads(tiny_bundle: Path, engine: Engine) -> None:
    chosen = engine.selection.format
    for threads in (1, 2):
        picture = Engine.open(tiny_bundle, chosen.backend, chosen.precision, threads=threads).generate("a red bird", 5)
        assert _levels_apart(picture, engine.generate("a red bird", seed=5)) <= 1


@pytest.mark.parametrize("row", RUNS_HERE, ids=lambda row: row.name)
def test_eight_threads_get_the_pictures_of_one(tiny_bundle: Path, row: Format) -> None:
    engine = Engine.open(tiny_bundle, row.backend, row.precision, "cpu")

    def draw(number: int) -> list[Picture]:
        captions = [CAPTIONS[(number + i) % len(CAPTIONS)] for i in range(3)]
        return list(engine.generate_all(captions, range(number, number + 4), batch_size=1 + number % 5))

    alone = [draw(number) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            together = list(threads.map(draw, range(8)))
            for one, other in zip(alone, together, strict=True):
                assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("row", RUNS_HERE, ids=lambda row: row.name)
def test_sentences_encoded_together_are_those_encoded_alone(tiny_bundle: Path, row: Format) -> None:
    engine = Engine.open(tiny_bundle, row.backend, row.precision, "cpu")
    together = engine.encode(CAPTIONS)
    assert together.shape == (len(CAPTIONS), engine.sizes.sentence_width)
    alone = np.concatenate([engine.encode([caption]) for caption in CAPTIONS])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert np.array_equal(engine.draw(alone[:1], [3])[0], engine.generate(CAPTIONS[0], seed=3).pixels)


def test_an_engine_closes_its_runners_once(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    opened = pytorch.open_runner

    def open_runner(*arguments: Any) -> Runner:  # noqa: ANN401
        runner = opened(*arguments)
        runner.close = lambda: closed.append(runner)  # type: ignore[attr-defined]
        return runner

    monkeypatch.setattr(pytorch, "open_runner", open_runner)
    with Engine.open(tiny_bundle, "pytorch") as engine:
        assert closed == []
    assert closed == [engine.generator, engine.text_encoder]
    engine.close()
    assert len(closed) == 2


def test_a_caption_without_a_known_word_is_skipped_if_asked_for(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    captions = ["a red bird", "xyzzy", "a blue bird"]
    drawn = engine.generate_all(captions, [0], skip_unknown=True)
    assert [picture.caption for picture in drawn] == ["a red bird", "a blue bird"]
    assert "skipped: no word in the caption 'xyzzy' is known" in caplog.text
    with pytest.raises(CaptionError, match="xyzzy"):
        engine.generate_all(captions, [0])
    with pytest.raises(CaptionError, match="xyzzy"):
        engine.generate_all(["xyzzy"], [0], skip_unknown=True)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
def test_all_captions_are_drawn_with_all_seeds_in_order(engine: Engine, batch_size: int) -> None:
    captions, seeds = ["a red bird", "a blue bird"], [5, 0, 7]
    pictures = list(engine.generate_all(captions, seeds, batch_size=batch_size))
    assert [(picture.caption, picture.seed) for picture in pictures] == [
        (caption, seed) for caption in captions for seed in seeds
    ]


def test_pictures_are_drawn_lazily(engine: Engine) -> None:
    pictures = engine.generate_all(["a bird"] * 1000, range(1000), batch_size=2)
    assert [picture.seed for picture in islice(pictures, 3)] == [0, 1, 2]


def test_one_caption_may_be_given_as_it_is(engine: Engine) -> None:
    assert [picture.caption for picture in engine.generate_all("a bird", [0])] == ["a bird"]


def test_every_caption_is_checked_before_the_first_picture(engine: Engine) -> None:
    with pytest.raises(CaptionError, match="'zzz'"):
        engine.generate_all(["a bird", "zzz"], [0])


def test_unknown_words_are_logged_and_kept_with_the_picture(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    picture = engine.generate("a shirt bird with a crest")
    assert picture.unknown == ("shirt", "with", "crest")
    assert "left out unknown words: 'shirt' (nearest known: short), 'with', 'crest'" in caplog.text
    assert _levels_apart(picture, engine.generate("a bird a")) == 0


def test_many_unknown_words_make_a_short_warning(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    engine.generate("bird " + " ".join(f"w{index}" * 500 for index in range(9)))
    assert "and 4 more" in caplog.text
    assert len(caplog.messages[0]) < 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"captions": []}, "at least one caption"),
        ({"seeds": []}, "at least one caption and one seed"),
        ({"seeds": [-1]}, "seed -1 is out of range"),
        ({"truncation": 1.5}, "truncation 1.5 is out of range"),
        ({"batch_size": 0}, "batch size 0 is out of range"),
        ({"batch_size": 100_000}, "batch size 100000 is out of range"),
    ],
)
def test_arguments_out_of_range_are_errors_at_once(engine: Engine, arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"captions": ["a bird"], "seeds": [0], **arguments}
    with pytest.raises(OptionError, match=message):
        engine.generate_all(**given)


@pytest.mark.parametrize("threads", [0, -1, 10**6])
def test_threads_out_of_range_are_an_error(tiny_bundle: Path, threads: int) -> None:
    with pytest.raises(OptionError, match="threads are out of range"):
        Engine.open(tiny_bundle, threads=threads)


def test_module_draws_with_the_embedded_bundle_opened_once(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, engine: Engine
) -> None:
    opened = []

    def open_tiny(_: type[Engine]) -> Engine:
        opened.append(tiny_bundle)
        return engine

    monkeypatch.setattr(Engine, "open", classmethod(open_tiny))
    t2i_engine._default_engine.cache_clear()
    pictures = [t2i_engine.generate("a red bird", seed=seed) for seed in (0, 4)]
    t2i_engine._default_engine.cache_clear()
    assert len(opened) == 1
    assert _levels_apart(pictures[1], engine.generate("a red bird", seed=4)) == 0
