"""ONNX Runtime and PyTorch on a GPU: parity with the bundle's reference, whatever the batch. Passed on an H200."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from t2i_engine.backends.base import Array
from t2i_engine.backends.onnxruntime import CUDA_GRAPHS, MAX_CACHED, MAX_CAPTURED
from t2i_engine.bundle import Bundle
from t2i_engine.formats import FORMATS, GENERATOR, Format, find
from tests.gpu.helpers import CUDA, NEEDS_GPU, assert_parity, open_runners, reference_cases

pytestmark = NEEDS_GPU
ROWS = [row for row in FORMATS if CUDA in row.devices and not row.backend.startswith("tensorrt")]


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_format_is_within_its_tolerance(bundle: Bundle, row: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUDA_GRAPHS, raising=False)
    assert_parity(bundle, row, open_runners(bundle, row))


@pytest.mark.parametrize("name", ["onnx", "onnx-fp16"])
def test_onnx_runtime_is_within_its_tolerance_with_cuda_graphs(
    bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CUDA_GRAPHS, "1")
    assert_parity(bundle, find(name), open_runners(bundle, find(name)))


def drawing_feeds(bundle: Bundle, batch: int) -> dict[str, Array]:
    case = next(case for case in reference_cases(bundle) if case.graph == GENERATOR)
    return {name: np.resize(array, (batch, *array.shape[1:])) for name, array in case.feeds.items()}


def test_more_sizes_than_are_captured_are_right(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUDA_GRAPHS, "1")
    runner = open_runners(bundle, find("onnx"))[GENERATOR]
    first = runner.run(drawing_feeds(bundle, 1), ["pixels"])["pixels"][0]
    for _ in range(3):
        for batch in range(1, MAX_CAPTURED + MAX_CACHED + 3):
            found = runner.run(drawing_feeds(bundle, batch), ["pixels"])["pixels"][0]
            assert np.abs(found.astype(int) - first).max() <= 1


@pytest.mark.parametrize("graphs", ["0", "1"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_eight_threads_get_the_pictures_of_one(
    bundle: Bundle, row: Format, graphs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CUDA_GRAPHS, graphs)
    runner = open_runners(bundle, row)[GENERATOR]
    requests = [drawing_feeds(bundle, batch) for batch in (1, 2, 4) * 8]
    expected = [runner.run(request, ["pixels"])["pixels"] for request in requests]
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda request: runner.run(request, ["pixels"])["pixels"], requests)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_pytorch_uses_cudnn(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    found: list[tuple[bool, ...]] = []
    forward = torch.nn.Conv2d.forward

    def watched(module: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        cudnn = torch.backends.cudnn
        found.append((x.is_cuda, cudnn.is_acceptable(x), cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32))
        return forward(module, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    open_runners(bundle, find("pytorch"))[GENERATOR].run(drawing_feeds(bundle, 2), ["pixels"])
    assert set(found) == {(True, True, True, True, False)}
