"""`paper`, the random network of the paper's size, and its bundle in the cache."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import fixtures
from benchmarks.fixtures import make_paper_model, open_paper, paper_words
from t2i_engine.backends.pytorch import exact_runners
from t2i_engine.formats import GENERATOR, TEXT_ENCODER
from t2i_engine.sampler import generator_feeds, text_encoder_feeds
from t2i_engine.tokenizer import Tokenizer


def test_paper_has_the_papers_sizes_and_the_contrast_of_pictures() -> None:
    tokenizer = Tokenizer(paper_words())
    model = make_paper_model(len(tokenizer.words))
    sizes = model.sizes
    assert (sizes.resolution, sizes.base_channels, sizes.noise_width, sizes.sentence_width) == (256, 32, 100, 256)
    runners = exact_runners(model)
    ids = [tokenizer.encode("a small yellow bird").ids]
    sentence = runners[TEXT_ENCODER].run(text_encoder_feeds(ids), ["sentence"])["sentence"]
    image = runners[GENERATOR].run(generator_feeds(sizes, sentence, [0]), ["image"])["image"]
    assert 0.45 < np.std(image) < 0.75


def test_its_bundle_is_made_once_for_each_version_of_the_exporter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lines: list[str] = []
    bundle = open_paper("pytorch,torch-compile", lines.append)
    assert [row.name for row in bundle.formats] == ["pytorch"]
    assert bundle.folder.is_relative_to(tmp_path)
    assert sum(line.startswith("creating 'paper'") for line in lines) == 1
    made = (bundle.folder / "bundle.json").stat().st_mtime_ns
    assert (open_paper("pytorch", lines.append).folder / "bundle.json").stat().st_mtime_ns == made
    monkeypatch.setattr(fixtures, "_exporter_version", lambda: "another")
    open_paper("pytorch", lines.append)
    assert sum(line.startswith("creating 'paper'") for line in lines) == 2
