"""Variants draw what PyTorch draws, from the bundles that a run makes for them; and `paper`."""

from pathlib import Path

import pytest

from benchmarks.fixtures import WORDS, Fixtures, make_captions, prepare
from benchmarks.targets import find_target, paper_name
from benchmarks.worker import OpenCase
from t2i_engine.bundle import Bundle
from t2i_engine.engine import Engine
from t2i_engine.tokenizer import split

RESOLUTION = 32


@pytest.fixture(scope="module")
def bundle(plain_bundle: Path) -> Bundle:
    return Bundle.open(plain_bundle)


@pytest.fixture(scope="module")
def fixtures(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Fixtures:
    return prepare(bundle, ["unfolded"], [RESOLUTION], 3, tmp_path_factory.mktemp("fixtures"))


@pytest.mark.parametrize("target", ["pytorch", "onnx", "onnx-unfolded", "onnx-plain"])
def test_targets_in_fp32_draw_pytorchs_pictures(bundle: Bundle, fixtures: Fixtures, target: str) -> None:
    case = OpenCase(str(fixtures.folder(bundle.name, find_target(target))), target, "cpu", 1)
    found = case.differences(str(fixtures.expected(bundle.name)), batch=3)
    assert found["pixels"] is not None
    assert found["pixels"] <= 1
    assert found["psnr"] is not None
    assert found["psnr"] > 80


def test_bf16_is_near_pytorch_but_not_the_same(bundle: Bundle, fixtures: Fixtures) -> None:
    case = OpenCase(str(bundle.folder), "pytorch-bf16", "cpu", 1)
    found = case.differences(str(fixtures.expected(bundle.name)), batch=1)
    assert found["psnr"] is not None
    assert 25 < found["psnr"] < 80


def test_the_papers_network_is_made_at_another_resolution(fixtures: Fixtures) -> None:
    name = paper_name(RESOLUTION)
    case = OpenCase(str(fixtures.folder(name, find_target("onnx"))), "onnx", "cpu", 1)
    found = case.differences(str(fixtures.expected(name)), batch=2)
    assert found["psnr"] is not None
    assert found["psnr"] > 80
    assert case.bundle.sizes.resolution == RESOLUTION
    assert len(case.call(fixtures.captions)) == 3


def test_captions_have_only_known_words(bundle: Bundle) -> None:
    captions = make_captions(bundle.tokenizer(), 5)
    words = [word for caption in captions for word in split(caption)]
    assert len(words) == 5 * WORDS
    assert set(words) <= set(bundle.tokenizer().words)
    assert captions == make_captions(bundle.tokenizer(), 5)


def test_a_request_ends_in_the_file_that_is_saved(bundle: Bundle, tmp_path: Path) -> None:
    picture = Engine.open(bundle.folder, "onnxruntime").generate("a red bird")
    assert picture.save(tmp_path / "bird.png").read_bytes() == picture.to_png()
