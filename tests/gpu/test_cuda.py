"""TensorRT's runner on real CUDA, around an engine that copies its input; TensorRT is not needed. Passed on an H200."""

import pytest

from t2i_engine.tensorrt.cuda import CudaBindings, CudaError
from tests.gpu.helpers import NEEDS_GPU
from tests.t2i_engine.tensorrt.fakes import exercise

pytestmark = NEEDS_GPU
MIB = 1 << 20


@pytest.fixture
def cuda() -> CudaBindings:
    return CudaBindings("tensorrt")


def copy(destination: int, source: int, size: int, stream: int) -> bool:
    from cuda.bindings import runtime

    kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
    return bool(runtime.cudaMemcpyAsync(destination, source, size, kind, stream)[0] == runtime.cudaError_t.cudaSuccess)


def free_memory() -> int:
    from cuda.bindings import runtime

    error, free, _ = runtime.cudaMemGetInfo()
    assert error == runtime.cudaError_t.cudaSuccess
    return int(free)


def test_the_gpu_has_a_name_an_architecture_and_a_driver(cuda: CudaBindings) -> None:
    gpu = cuda.gpu()
    assert gpu.name
    assert gpu.architecture.removeprefix("sm").isdigit()
    assert float(gpu.driver) >= 12


def test_buffers_grow_graphs_are_captured_and_evicted_and_memory_is_given_back(cuda: CudaBindings) -> None:
    exercise(cuda, copy)  # what CUDA itself allocates at first use stays
    before = free_memory()
    for _ in range(3):
        exercise(cuda, copy)
    assert free_memory() >= before - MIB


def test_too_little_memory_is_an_error_and_not_the_end(cuda: CudaBindings) -> None:
    with pytest.raises(CudaError, match="out of GPU memory"):
        cuda.allocate(1 << 50)
    exercise(cuda, copy)


def test_an_error_inside_a_capture_is_the_one_reported_and_the_stream_lives_on(cuda: CudaBindings) -> None:
    stream = cuda.create_stream()

    def fail() -> None:
        raise CudaError("the cause")

    with pytest.raises(CudaError, match="the cause"):
        cuda.capture(stream, fail)
    cuda.synchronise(stream)
    cuda.destroy_stream(stream)
