"""CUDA through NVIDIA's bindings: what a failed call becomes. The calls are faked: no GPU is needed, and none used."""

from collections.abc import Callable
from typing import Any

import pytest

from t2i_engine.errors import BackendError
from t2i_engine.tensorrt.cuda import CudaBindings, CudaError

runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
OK = runtime.cudaError_t.cudaSuccess
STREAM, GRAPH, EXECUTABLE = 1, 2, 3


class Calls:
    """CUDA's runtime: every call succeeds, except for those that are told to fail."""

    def __init__(self, **failures: object) -> None:
        self.cudaError_t = runtime.cudaError_t
        self.cudaStreamCaptureMode = runtime.cudaStreamCaptureMode
        self.failures = failures
        self.made: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., tuple[object, ...]]:
        results = {"cudaStreamEndCapture": (GRAPH,), "cudaGraphInstantiate": (EXECUTABLE,), "cudaMalloc": (1,)}

        def call(*_: object) -> tuple[object, ...]:
            self.made.append(name)
            return (self.failures.get(name, OK), *results.get(name, ()))

        return call


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[CudaBindings, Calls]]:
    monkeypatch.setattr("t2i_engine.tensorrt.cuda.cuda_device_count", lambda: 1)

    def make(**failures: object) -> tuple[CudaBindings, Calls]:
        bindings, calls = CudaBindings("tensorrt"), Calls(**failures)
        bindings._runtime = calls
        return bindings, calls

    return make


def test_too_little_memory_is_a_users_error_with_the_cure(cuda: Any) -> None:  # noqa: ANN401
    bindings, _ = cuda(cudaMalloc=runtime.cudaError_t.cudaErrorMemoryAllocation)
    with pytest.raises(BackendError, match="out of GPU memory: use a smaller --batch-size"):
        bindings.allocate(1)


def test_any_other_failure_is_a_users_error_with_its_name(cuda: Any) -> None:  # noqa: ANN401
    bindings, _ = cuda(cudaStreamSynchronize=runtime.cudaError_t.cudaErrorIllegalAddress)
    with pytest.raises(BackendError, match=r"cudaStreamSynchronize failed with cudaErrorIllegalAddress; .*nvidia-smi"):
        bindings.synchronise(STREAM)


def test_a_capture_becomes_a_graph(cuda: Any) -> None:  # noqa: ANN401
    bindings, calls = cuda()
    assert bindings.capture(STREAM, lambda: None) == EXECUTABLE
    assert calls.made == ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy"]


@pytest.mark.parametrize("end", [OK, runtime.cudaError_t.cudaErrorStreamCaptureInvalidated])
def test_an_error_inside_a_capture_is_the_one_that_is_reported(cuda: Any, end: object) -> None:  # noqa: ANN401
    bindings, calls = cuda(cudaStreamEndCapture=end)

    def work() -> None:
        raise CudaError("the cause")

    with pytest.raises(CudaError, match="the cause"):
        bindings.capture(STREAM, work)
    assert calls.made[:2] == ["cudaStreamBeginCapture", "cudaStreamEndCapture"]
    assert ("cudaGraphDestroy" in calls.made) == (end == OK)  # a graph that was begun is not leaked
