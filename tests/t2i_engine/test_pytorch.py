"""PyTorch's runner: cuDNN's settings, which belong to the process. No GPU is needed: they can be set without one."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from t2i_engine.backends import pytorch
from t2i_engine.backends.pytorch import exact_cudnn, open_runner
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError
from t2i_engine.formats import GENERATOR, find
from tests.t2i_engine.test_onnxruntime import feeds


def settings() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32


def test_cudnn_stays_on_with_deterministic_kernels_and_without_tf32() -> None:
    before = settings()
    with exact_cudnn(torch.device("cuda")):
        assert settings() == (True, False, True, False)
    assert settings() == before


def test_runs_of_several_threads_do_not_change_each_others_settings() -> None:
    def run(number: int) -> tuple[bool, ...]:
        time.sleep(0.001 * (number % 3))
        with exact_cudnn(torch.device("cuda")):
            time.sleep(0.002)
            return settings()

    before = settings()
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(run, range(32))) == {(True, False, True, False)}
    assert settings() == before


def test_a_run_leaves_cudnn_on(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    runner = open_runner(Bundle.open(tiny_bundle), find("pytorch"), GENERATOR, "cpu", None)
    forward = torch.nn.Conv2d.forward

    def watched(module: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        found.append(torch.backends.cudnn.enabled)
        return forward(module, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    runner.run(feeds(), ["pixels"])
    assert found
    assert all(found)


def test_too_little_memory_on_a_gpu_is_a_users_error() -> None:
    with (
        pytest.raises(BackendError, match="out of GPU memory: use a smaller --batch-size"),
        exact_cudnn(torch.device("cuda")),
    ):
        raise torch.OutOfMemoryError


def test_too_little_memory_on_a_cpu_is_a_users_error(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = open_runner(Bundle.open(tiny_bundle), find("pytorch"), GENERATOR, "cpu", None)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda *_: torch.empty(1 << 60))
    with pytest.raises(BackendError, match=r"^out of memory: use a smaller --batch-size"):
        runner.run(feeds(), ["pixels"])


def test_a_damaged_pytorch_is_reported_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str | None:
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(pytorch, "_cuda_lacks", fail)
    assert "is damaged (libtorch.so" in str(pytorch.status().lacks)
    assert "pip install --force-reinstall torch" in str(pytorch.status().lacks)
