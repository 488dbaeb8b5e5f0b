"""The part of CUDA that running an engine needs, through NVIDIA's cuda-bindings, which need only a driver."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from t2i_engine.backends.base import NO_GPU, OUT_OF_MEMORY, Array, cuda_device_count
from t2i_engine.errors import BackendError, MissingExtra


class CudaError(BackendError):
    """A CUDA call that failed."""


@dataclass(frozen=True)
class Gpu:
    """The GPU and driver that an engine is built for."""

    name: str
    architecture: str  # such as sm89
    driver: str


class CudaBindings:
    """Memory, streams and captured graphs. Addresses and handles are integers; every call may raise `CudaError`."""

    def __init__(self, extra: str) -> None:
        """Raises `MissingExtra`, naming `extra`, if cuda-bindings is missing, and `BackendError` without a GPU."""
        try:
            from cuda.bindings import runtime
        except ModuleNotFoundError:
            raise MissingExtra("running TensorRT", "cuda-bindings", extra) from None
        if cuda_device_count() == 0:
            raise BackendError(NO_GPU)
        self._runtime: Any = runtime

    def gpu(self) -> Gpu:
        """The first GPU, or the first that CUDA_VISIBLE_DEVICES names."""
        properties = self._do("cudaGetDeviceProperties", 0)
        driver = self._do("cudaDriverGetVersion")
        return Gpu(
            properties.name.decode(errors="replace").strip("\0 "),
            f"sm{properties.major}{properties.minor}",
            f"{driver // 1000}.{driver % 1000 // 10}",
        )

    def create_stream(self) -> int:
        """A new stream, whose work runs in order and does not wait for the default stream."""
        return int(self._do("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Destroys a stream."""
        self._do("cudaStreamDestroy", stream)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU."""
        return int(self._do("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Frees memory."""
        self._do("cudaFree", address)

    def upload(self, address: int, array: Array, stream: int) -> None:
        """Copies a contiguous array to the GPU; it must live until the stream is synchronised."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._do("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, array: Array, address: int, stream: int) -> None:
        """Copies from the GPU into a contiguous array, complete once the stream is synchronised."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._do("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def synchronise(self, stream: int) -> None:
        """Waits for the stream's work to finish."""
        self._do("cudaStreamSynchronize", stream)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Records as a graph, without running it, what `work` enqueues on the stream."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._do("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            with contextlib.suppress(CudaError):  # the capture is invalid as well, but the first error is the cause
                self._do("cudaGraphDestroy", self._do("cudaStreamEndCapture", stream))
            raise
        graph = self._do("cudaStreamEndCapture", stream)
        try:
            return int(self._do("cudaGraphInstantiate", graph, 0))
        finally:
            self._do("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """Replays a graph."""
        self._do("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Destroys a graph."""
        self._do("cudaGraphExecDestroy", graph)

    def _do(self, function: str, *arguments: object) -> Any:  # noqa: ANN401
        """Calls a function of CUDA's runtime. Raises `CudaError`, naming the function and how to fix it."""
        error, *results = getattr(self._runtime, function)(*arguments)
        codes = self._runtime.cudaError_t
        if error == codes.cudaSuccess:
            return results[0] if results else None
        if error == codes.cudaErrorMemoryAllocation:
            raise CudaError(f"{OUT_OF_MEMORY['cuda']} ({function})")
        raise CudaError(f"{function} failed with {error.name}; check the GPU with nvidia-smi, then start again")
