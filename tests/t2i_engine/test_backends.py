import shutil
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from t2i_engine.backend_selection import backend_status
from t2i_engine.backends import base, find_backend, onnxruntime, pytorch
from t2i_engine.backends.base import Array, Runner, ShapeError
from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.errors import BackendError, BundleError, MissingExtra
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Format, find
from t2i_engine.latents import draw
from t2i_engine.manifest import FileEntry, Manifest
from tests.tiny_model import RUNS_HERE, SIZES

every_format = pytest.mark.parametrize("row", RUNS_HERE, ids=lambda row: row.name)


def _open(folder: Path, row: Format, graph: str, device: str = "cpu", threads: int | None = 1) -> Runner:
    return find_backend(row.backend).open_runner(Bundle.open(folder), row, graph, device, threads)


def _generator_feeds(folder: Path, batch: int) -> dict[str, Array]:
    sizes = Bundle.open(folder).sizes
    latents = draw(range(batch), sizes.noise_width, sizes.sentence_width)
    sentence = np.tanh(draw(range(100, 100 + batch), 0, sizes.sentence_width).condition_noise)
    return {"noise": latents.noise, "sentence": sentence, "condition_noise": latents.condition_noise}


@every_format
def test_sentence_does_not_depend_on_the_padding_behind_it(tiny_bundle: Path, row: Format) -> None:
    runner = _open(tiny_bundle, row, TEXT_ENCODER)
    alone = runner.run({"tokens": np.array([[3, 5, 2]]), "lengths": np.array([3])}, ["sentence"])["sentence"]
    tokens = np.array([[4, 4, 4, 4, 4], [3, 5, 2, 0, 0], [3, 5, 2, 7, 7]])
    together = runner.run({"tokens": tokens, "lengths": np.array([5, 3, 3])}, ["sentence"])["sentence"]
    np.testing.assert_allclose(together[1], alone[0], atol=1e-6)
    np.testing.assert_allclose(together[2], alone[0], atol=1e-6)
    assert np.abs(together[0] - alone[0]).max() > 1e-3


@every_format
def test_pixels_are_the_image_in_256_levels(tiny_bundle: Path, row: Format) -> None:
    found = _open(tiny_bundle, row, GENERATOR).run(_generator_feeds(tiny_bundle, 3), ["image", "pixels"])
    image, pixels = found["image"], found["pixels"]
    assert (image.shape, image.dtype.name) == ((3, 3, 32, 32), "float32")
    assert (pixels.shape, pixels.dtype.name) == ((3, 32, 32, 3), "uint8")
    expected = np.round((np.clip(image, -1, 1) + 1) * 127.5).transpose(0, 2, 3, 1)
    assert np.abs(pixels - expected).max() <= 1
    assert pixels.std() > 5


@every_format
def test_only_the_outputs_asked_for_are_given(tiny_bundle: Path, row: Format) -> None:
    found = _open(tiny_bundle, row, GENERATOR).run(_generator_feeds(tiny_bundle, 1), ["pixels"])
    assert found.keys() == {"pixels"}


def test_backends_agree(tiny_bundle: Path) -> None:
    feeds = _generator_feeds(tiny_bundle, 4)
    exact = _open(tiny_bundle, find("pytorch"), GENERATOR).run(feeds, ["image"])["image"]
    for row in RUNS_HERE:
        image = _open(tiny_bundle, row, GENERATOR).run(feeds, ["image"])["image"]
        if row.tolerance.image is not None:
            np.testing.assert_allclose(image, exact, atol=row.tolerance.image)
        assert 10 * np.log10(4 / max(np.mean((image - exact) ** 2), 1e-20)) >= (row.tolerance.psnr or 0)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"got inputs \[\]"),
        ({"tokens": np.zeros((1, 2), np.int32), "lengths": np.ones(1, np.int64)}, r"'tokens' is int32 \(1, 2\)"),
        (
            {"tokens": np.zeros((2, 2), np.int64), "lengths": np.ones(1, np.int64)},
            r"'lengths' is int64 \(1,\); .*\(2,\)",
        ),
        ({"tokens": np.zeros((1, 0), np.int64), "lengths": np.ones(1, np.int64)}, r"'tokens' is int64 \(1, 0\)"),
        ({"tokens": np.zeros(2, np.int64), "lengths": np.ones(2, np.int64)}, r"'tokens' is int64 \(2,\)"),
    ],
)
@every_format
def test_feeds_that_do_not_fit_are_shape_errors(
    tiny_bundle: Path, row: Format, feeds: Mapping[str, Array], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        _open(tiny_bundle, row, TEXT_ENCODER).run(feeds, ["sentence"])


@every_format
def test_outputs_that_do_not_exist_are_shape_errors(tiny_bundle: Path, row: Format) -> None:
    with pytest.raises(ShapeError, match="outputs"):
        _open(tiny_bundle, row, GENERATOR).run(_generator_feeds(tiny_bundle, 1), ["colours"])


@every_format
def test_file_that_the_manifest_vouches_for_but_no_runtime_can_read_is_named(
    tiny_bundle: Path, tmp_path: Path, row: Format
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "broken")
    manifest = Bundle.open(folder).manifest
    contents: dict[str, bytes | Path] = {name: tiny_bundle / name for name in manifest.files}
    contents[row.files[GENERATOR]] = b"nonsense"
    files = {**manifest.files, row.files[GENERATOR]: FileEntry.of(b"nonsense")}
    write_bundle(folder, type(manifest)(manifest.name, manifest.model, files), contents)
    with pytest.raises(BundleError, match=row.files[GENERATOR]):
        _open(folder, row, GENERATOR)


def test_graph_of_another_model_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    vocabulary, graph = (tiny_bundle / name for name in ("vocabulary.json", "text_encoder.onnx"))
    contents = {"vocabulary.json": vocabulary, "text_encoder.onnx": graph, "generator.onnx": graph}
    files = {name: FileEntry.of(path) for name, path in contents.items()}
    folder = write_bundle(tmp_path / "mixed", Manifest("mixed", SIZES, files), contents)
    with pytest.raises(BundleError, match=r"generator\.onnx does not have the inputs and outputs in the manifest"):
        _open(folder, find("onnx"), GENERATOR)


def test_both_wheels_of_onnx_runtime_are_an_error_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wheel in onnxruntime.WHEELS:
        record = tmp_path / f"{wheel.replace('-', '_')}-9.9.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {wheel}\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(tmp_path)
    lacks = onnxruntime.status().lacks or ""
    assert "onnxruntime 9.9 and onnxruntime-gpu 9.9 are both installed" in lacks
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in lacks


def test_damaged_onnx_runtime_says_how_to_repair_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    assert "is damaged: pip install --force-reinstall --no-deps onnxruntime" in (onnxruntime.status().lacks or "")


@pytest.mark.parametrize(
    ("providers", "gpus", "lacks"),
    [
        (["CPUExecutionProvider"], 1, "this ONNX Runtime is for the CPU"),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], 0, "no NVIDIA GPU with a driver was found"),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], 1, None),
    ],
)
def test_cuda_needs_the_wheel_for_it_and_a_gpu(
    monkeypatch: pytest.MonkeyPatch, providers: list[str], gpus: int, lacks: str | None
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime, "cuda_device_count", lambda: gpus)
    found = onnxruntime.status().devices["cuda"]
    assert found is None if lacks is None else lacks in (found or "")


def test_missing_onnx_runtime_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "WHEELS", ())
    assert onnxruntime.status().lacks == (
        'ONNX Runtime is not installed: pip install "t2i-engine[cpu]", or "t2i-engine[gpu]"'
    )


def test_missing_pytorch_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    for module in ("torch", "safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, module, None)
    assert pytorch.status().lacks == 'torch and safetensors not installed: pip install "t2i-engine[export]"'
    with pytest.raises(MissingExtra, match=r'pip install "t2i-engine\[export\]"'):
        _open(tiny_bundle, find("pytorch"), GENERATOR)


@pytest.mark.parametrize("name", ["onnxruntime", "pytorch"])
def test_cuda_is_offered_or_said_to_be_lacking(name: str) -> None:
    lacks = backend_status(name).devices["cuda"]
    assert lacks is None or "--device cpu" in lacks or "pip install" in lacks


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_silent_fallback_of_onnx_runtime_is_an_error(tiny_bundle: Path) -> None:
    if backend_status("onnxruntime").devices["cuda"] is None:
        pytest.skip("CUDA can be used here")
    row = find("onnx")
    with pytest.raises(BackendError, match="'cuda' was requested, but ONNX Runtime offers only CPUExecutionProvider"):
        _open(tiny_bundle, row, GENERATOR, device="cuda")


def test_no_gpu_is_counted_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", no_library)
    assert base.cuda_device_count() == 0


@pytest.mark.gpu
def test_pictures_on_the_gpu_are_those_of_the_cpu(tiny_bundle: Path) -> None:
    row = find("onnx")
    lacks = backend_status("onnxruntime").devices["cuda"]
    if lacks:
        pytest.skip(lacks)
    feeds = _generator_feeds(tiny_bundle, 16)
    on_cpu, on_cuda = (_open(tiny_bundle, row, GENERATOR, device).run(feeds, ["image"]) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_cuda["image"], on_cpu["image"], atol=1e-4)
