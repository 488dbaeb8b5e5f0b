"""OpenVINO: compiled once per machine, in the precision that was asked for, a picture at a time."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from t2i_engine.backends import openvino
from t2i_engine.backends.base import Array, Status
from t2i_engine.backends.openvino import OpenVinoRunner, kept_signal_stack, open_runner, quantize, rewrite
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, find
from t2i_engine.latents import draw
from tests.tiny_model import SIZES
from training.models.generator import channel_widths

if openvino.status().lacks:
    pytest.skip(openvino.status().lacks or "", allow_module_level=True)

from openvino import Core, Model, opset8

FEEDS = {
    "noise": draw(range(3), SIZES.noise_width, SIZES.sentence_width).noise,
    "sentence": np.tanh(draw(range(3), SIZES.noise_width, SIZES.sentence_width).condition_noise),
    "condition_noise": draw(range(3, 6), SIZES.noise_width, SIZES.sentence_width).condition_noise,
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "t2i-engine" / "openvino"


def opened(folder: Path, name: str = "openvino") -> OpenVinoRunner:
    return open_runner(Bundle.open(folder), find(name), GENERATOR, "cpu", 1)


def test_a_compiled_graph_is_kept_and_a_damaged_one_made_again(tiny_bundle: Path, cache: Path) -> None:
    first = opened(tiny_bundle).run(FEEDS, ["pixels"])["pixels"]
    (kept,) = cache.iterdir()
    size = kept.stat().st_size
    np.testing.assert_array_equal(opened(tiny_bundle).run(FEEDS, ["pixels"])["pixels"], first)
    kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(opened(tiny_bundle).run(FEEDS, ["pixels"])["pixels"], first)
    assert kept.stat().st_size == size


def test_a_cache_that_cannot_be_written_is_not_an_error(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a-file"))
    assert opened(tiny_bundle).run(FEEDS, ["pixels"])["pixels"].std() > 5


@pytest.mark.parametrize("name", ["openvino", "openvino-bf16", "openvino-int8"])
def test_a_picture_is_the_same_alone_and_in_a_batch(tiny_bundle: Path, name: str) -> None:
    if openvino.status().precisions.get(find(name).precision):
        pytest.skip("this CPU does not have the precision")
    runner = opened(tiny_bundle, name)
    together = runner.run(FEEDS, ["image"])["image"]
    alone = runner.run({name: feed[1:2] for name, feed in FEEDS.items()}, ["image"])["image"]
    np.testing.assert_array_equal(together[1:2], alone)


@kept_signal_stack()
def kinds_and_image(file: Path, *changes: Callable[[Model], None]) -> tuple[Counter[str], Array]:
    core = Core()
    model = core.read_model(file)
    for change in changes:
        change(model)
    kinds = Counter(node.get_type_name() for node in model.get_ordered_ops())
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    return kinds, compiled(FEEDS)["image"]


def test_phases_are_transposed_without_changing_the_picture(tiny_bundle: Path) -> None:
    before, image = kinds_and_image(tiny_bundle / "generator.onnx")
    after, rewritten = kinds_and_image(tiny_bundle / "generator.onnx", rewrite)
    blocks = len(channel_widths(SIZES.resolution, SIZES.base_channels)) - 1
    assert (before["ConvolutionBackpropData"], after["ConvolutionBackpropData"]) == (0, blocks)
    assert before["Convolution"] - after["Convolution"] == 4 * blocks
    np.testing.assert_allclose(rewritten, image, atol=1e-5)


def test_int8_rounds_what_fills_a_vector(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "_SMALLEST_SIDE", 4)  # in so small a model, only small maps are wide
    before, exact = kinds_and_image(tiny_bundle / "generator.onnx", rewrite)
    after, image = kinds_and_image(tiny_bundle / "generator.onnx", quantize, rewrite)
    wide = [width for width in channel_widths(SIZES.resolution, SIZES.base_channels)[1:] if width >= 16]
    maps = 2 * len(wide)  # of a block's two convolutions; the first has a kernel for each of four phases
    assert after["ReduceMax"] - before["ReduceMax"] == maps
    assert after["FakeQuantize"] == maps + 5 * len(wide)
    assert after["DepthToSpace"] == len(wide)
    assert 0 < np.square(image - exact).mean(axis=(1, 2, 3)).max() < 1e-4


@kept_signal_stack()
def test_int8_is_as_precise_for_faint_maps_and_takes_a_map_of_zeros() -> None:
    random = np.random.default_rng(0)
    given = opset8.parameter([1, 4, 16, 16], np.float32)
    kernel = opset8.constant(random.standard_normal((16, 4, 3, 3), dtype=np.float32))
    model = Model([opset8.convolution(given, kernel, [1, 1], [0, 0], [0, 0], [1, 1])], [given])
    exact = Core().compile_model(model.clone(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    quantize(model)
    rounded = Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    features = np.abs(random.standard_normal((1, 4, 16, 16), dtype=np.float32))
    for scale in map(np.float32, (1e-3, 1, 1e3)):
        difference = np.abs(rounded(scale * features)[0] - exact(scale * features)[0]).max()
        assert 0 < difference < 0.2 * scale
    assert not np.any(rounded(0 * features)[0])


def test_bf16_on_a_cpu_without_it_is_an_error_with_the_cure(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Status("openvino 1.0", devices={"cpu": None}, precisions={"bf16": "no bf16: use --precision fp32"})
    monkeypatch.setattr(openvino, "status", lambda: found)
    with pytest.raises(BackendError, match="use --precision fp32"):
        opened(tiny_bundle, "openvino-bf16")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "out of memory: use a smaller --batch-size"),
        (RuntimeError("std::bad_alloc"), "out of memory: use a smaller --batch-size"),
        (RuntimeError("a node\nfailed"), "OpenVINO failed: a node failed"),
    ],
)
def test_a_failure_while_drawing_is_a_users_error(tiny_bundle: Path, error: Exception, message: str) -> None:
    def fail() -> None:
        raise error

    bundle = Bundle.open(tiny_bundle)
    runner = open_runner(bundle, find("openvino"), TEXT_ENCODER, "cpu", 1)
    runner._model = SimpleNamespace(create_infer_request=fail)
    with pytest.raises(BackendError, match=message):
        runner.run({"tokens": np.ones((1, 2), np.int64), "lengths": np.full(1, 2)}, ["sentence"])


def test_a_device_that_it_does_not_use_is_an_error(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="--device cpu"):
        open_runner(Bundle.open(tiny_bundle), find("openvino"), GENERATOR, "cuda", 1)


def test_missing_openvino_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert openvino.status().lacks == 'OpenVINO is not installed: pip install "t2i-engine[openvino]"'
