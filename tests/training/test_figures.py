"""Figures: what stands where, and whether a model that has memorised its training pictures is found out."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from t2i_engine.cli.files import read_captions
from t2i_engine.errors import UserError
from t2i_engine.pictures import Pixels
from t2i_engine.tokenizer import Tokenizer
from tests.training.data.made import shared
from tests.training.evaluation.instruments import MeanColours, noise_pictures, painting_sampler
from training.data.corpus import build_vocabulary
from training.data.rendered import Rendered
from training.data.source import Source, open_source
from training.evaluation.draws import CaptionDraws
from training.figures import COLUMNS, Model, comparison, main, nearest
from training.progress import Progress

DOCS = Path(__file__).parents[2] / "docs"
WORDS = ("<end>", "a", "red", "blue", "bird")
TRAINING, TEST = noise_pictures(12, 0, 32), noise_pictures(9, 1, 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of noise: 12 pictures to train with, 9 to test with, in folders of their names."""
    for split, pictures in (("train", TRAINING), ("test", TEST)):
        (tmp_path / "data" / split).mkdir(parents=True)
        for number, pixels in enumerate(pictures):
            file = tmp_path / "data" / split / f"{number:02d}.png"
            Image.fromarray(pixels).save(file)
            file.with_suffix(".txt").write_text(f"a {('red', 'blue')[number % 2]} bird", encoding="utf-8")
    return tmp_path / "data"


@pytest.fixture
def source(folder: Path) -> Source:
    return open_source(f"folder:{folder}")


def painter(label: str, pictures: Pixels, words: tuple[str, ...] = WORDS) -> Model:
    """A model that draws picture k for seed k, whatever the caption."""
    return Model(
        label, painting_sampler(Tokenizer(words), 32, lambda _, seeds: pictures[np.array(seeds) % len(pictures)])
    )


def rows_of(figure: Figure) -> list[tuple[str, list[Pixels]]]:
    """The label and the pictures of each row."""
    axes = figure.axes
    lines = [axes[start : start + COLUMNS] for start in range(0, len(axes), COLUMNS)]
    return [(line[0].get_ylabel(), [np.asarray(axis.get_images()[0].get_array()) for axis in line]) for line in lines]


def test_models_stand_below_the_real_pictures_of_the_same_captions(source: Source, tmp_path: Path) -> None:
    made, other = noise_pictures(9, 2, 32), noise_pictures(9, 3, 32)
    with Progress() as progress:
        figure = comparison([painter("one", made), painter("other", other)], source, tmp_path, progress)
    (real, photos), (one, first), (last, second) = rows_of(figure)
    assert (real, one, last) == ("real", "one", "other")
    np.testing.assert_array_equal(first, made[:COLUMNS])
    np.testing.assert_array_equal(second, other[:COLUMNS])
    for axis, photo in zip(figure.axes, photos, strict=False):
        (number,) = [number for number, known in enumerate(TEST) if np.array_equal(known, photo)]
        assert axis.get_title() == f"a {('red', 'blue')[number % 2]} bird"


def test_a_model_that_does_not_know_the_captions_is_named(source: Source, tmp_path: Path) -> None:
    stranger = painter("stranger", TEST, ("<end>", "blue"))
    with Progress() as progress, pytest.raises(UserError, match="'stranger' knows no word of one of the first 8"):
        comparison([painter("one", TEST), stranger], source, tmp_path, progress)


def test_memorised_pictures_are_at_no_distance(source: Source, tmp_path: Path) -> None:
    with Progress() as progress:
        figure, summary = nearest(painter("thief", TRAINING), source, 9, MeanColours(), tmp_path, progress)
        _, honest = nearest(painter("painter", TEST[::-1]), source, 9, MeanColours(), tmp_path, progress)
    assert "nearest of 12 training pictures: thief 0.0 (median of 9; smallest 0.0)" in summary
    (label, drawn), (_, first), (_, second), _ = rows_of(figure)
    assert label == "thief"
    np.testing.assert_array_equal(first, drawn)
    assert not np.array_equal(second, drawn)
    notes = [[float(axis.get_xlabel()) for axis in figure.axes[row * COLUMNS :][:COLUMNS]] for row in (1, 2, 3)]
    assert set(notes[0]) == {0.0}
    assert np.all(np.diff(notes, axis=0) >= 0)
    distances = honest.partition("painter ")[2]
    drawn_as, _, tested = distances.partition(", test pictures ")
    assert tested.startswith(drawn_as)  # it draws the test pictures
    assert not tested.startswith("0.0")
    assert "training pictures from each other" in tested


def test_features_of_real_pictures_are_computed_once(source: Source, tmp_path: Path) -> None:
    network = MeanColours()
    with Progress() as progress:
        for expected in (12 + 9 + 8, 12 + 9 + 8 + 8):
            nearest(painter("one", TEST), source, 8, network, tmp_path, progress)
            assert network.pictures == expected


def test_the_captions_in_docs_are_every_183rd_that_evaluate_draws() -> None:
    items = open_source(f"cub:{shared('cub')}").listing("test").items
    captions = [item.captions for item in items]
    words = build_vocabulary(caption for texts in captions for caption in texts)
    nothing = np.zeros((len(items), 1, 1, 3), np.uint8)
    rendered = Rendered(nothing, captions, [item.key for item in items], np.arange(len(items)), ())
    sampler = painting_sampler(Tokenizer(words), 32, lambda _, seeds: nothing[: len(seeds)])
    batches = CaptionDraws(sampler, rendered, len(items)).batches()
    drawn = [caption for batch in batches for caption in batch.captions]
    assert drawn[: 16 * 183 : 183] == read_captions(DOCS / "cub-captions.txt")


def test_commands_write_figures_of_bundles_and_checkpoints(
    folder: Path, tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("training.figures.Inception", lambda device: MeanColours())
    one, other = tmp_path / "one.png", tmp_path / "other.jpg"
    models = ("--model", f"the bundle={tiny_bundle}", "--model", str(tiny_checkpoint))
    main(["comparison", "--data", str(folder), *models, "--out", str(one)])
    main(["nearest", "--data", str(folder), "--model", str(tiny_bundle), "--count", "9", "--out", str(other)])
    said = capsys.readouterr().out.splitlines()
    assert (said[0], said[2]) == (str(one), str(other))
    assert "tiny" in said[1]
    for file in (one, other):
        with Image.open(file) as picture:
            assert picture.width > picture.height > 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--data", "nowhere"), "unknown data source 'nowhere'"),
        (("--model", "birdz"), "unknown bundle 'birdz'"),
        (("--out", "figure.bmp2"), "choose another --out"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    folder: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = {"--data": str(folder), "--model": str(tiny_bundle), "--out": "figure.png"} | dict([arguments])
    with pytest.raises(SystemExit) as exit_:
        main(["comparison", *(part for pair in given.items() for part in pair)])
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "figure.png").exists()
