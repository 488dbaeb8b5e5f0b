"""The few things that running an engine needs of CUDA, behind a protocol, so that the rest can be tested without it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from t2i_engine.backends.base import Array, cuda_device_count
from t2i_engine.errors import BackendError, MissingExtra
from t2i_engine.tensorrt.flavour import NO_GPU


class CudaError(RuntimeError):
    """A call that CUDA answered with an error."""


@dataclass(frozen=True)
class Gpu:
    """What an engine depends on: the GPU and its driver."""

    name: str
    architecture: str  # such as sm89
    driver: str


class Cuda(Protocol):
    """Memory, one stream's work, and graphs of it. Addresses and handles are integers."""

    def gpu(self) -> Gpu:
        """The GPU that is used."""

    def create_stream(self) -> int:
        """A stream, whose work is done in order."""

    def destroy_stream(self, stream: int) -> None:
        """Gives a stream back."""

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU."""

    def free(self, address: int) -> None:
        """Gives memory back."""

    def upload(self, address: int, array: Array, stream: int) -> None:
        """Copies a contiguous array to the GPU; it must live until the stream is done."""

    def download(self, array: Array, address: int, stream: int) -> None:
        """Copies from the GPU into a contiguous array, filled when the stream is done."""

    def synchronise(self, stream: int) -> None:
        """Waits until the stream's work is done."""

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Records what `work` gives the stream, without doing it, as a graph."""

    def launch(self, graph: int, stream: int) -> None:
        """Does a graph's work again."""

    def destroy_graph(self, graph: int) -> None:
        """Gives a graph back."""


class CudaBindings:
    """`Cuda` through NVIDIA's cuda-bindings, which need nothing but a driver."""

    def __init__(self, extra: str) -> None:
        """Raises `MissingExtra`, naming `extra`, where the package is missing, and `BackendError` without a GPU."""
        try:
            from cuda.bindings import runtime
        except ImportError:
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
        """A stream that does not wait for the default one."""
        return int(self._do("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Gives a stream back."""
        self._do("cudaStreamDestroy", stream)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU."""
        return int(self._do("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Gives memory back."""
        self._do("cudaFree", address)

    def upload(self, address: int, array: Array, stream: int) -> None:
        """Copies a contiguous array to the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._do("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, array: Array, address: int, stream: int) -> None:
        """Copies from the GPU into a contiguous array."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._do("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def synchronise(self, stream: int) -> None:
        """Waits until the stream's work is done."""
        self._do("cudaStreamSynchronize", stream)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Records what `work` gives the stream, without doing it, as a graph."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._do("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        finally:
            graph = self._do("cudaStreamEndCapture", stream)
        try:
            return int(self._do("cudaGraphInstantiate", graph, 0))
        finally:
            self._do("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """Does a graph's work again."""
        self._do("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Gives a graph back."""
        self._do("cudaGraphExecDestroy", graph)

    def _do(self, function: str, *arguments: object) -> Any:  # noqa: ANN401
        """Calls a function of CUDA's runtime. Raises `CudaError` with its name where it fails."""
        error, *results = getattr(self._runtime, function)(*arguments)
        if error != self._runtime.cudaError_t.cudaSuccess:
            raise CudaError(f"{function} failed: {error.name}")
        return results[0] if results else None
