"""CUDA and TensorRT without a GPU, and an engine that copies its input, which runs on a real GPU as well."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np

from t2i_engine.backends.base import Array
from t2i_engine.manifest import Graph, TensorSpec
from t2i_engine.tensorrt.builder import Profile
from t2i_engine.tensorrt.cuda import CudaBindings, Gpu
from t2i_engine.tensorrt.runner import MAX_CONTEXTS, LoadedEngine, TensorRtRunner

Compute = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Copy = Callable[[int, int, int, int], bool]  # destination, source, bytes, stream


class FakeCuda(CudaBindings):
    """Memory with bounds, streams that work when they are synchronised, and graphs.

    Refuses what a GPU would silently do wrong: writing past a buffer, reading one that was freed.
    """

    def __init__(self) -> None:
        self._addresses = count(1 << 20, 1 << 20)
        self._handles = count(1)
        self.memory: dict[int, bytearray] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.allocations = 0
        self.launches = 0
        self.downloaded = 0
        self._recording: list[Callable[[], None]] | None = None

    @property
    def held(self) -> int:
        """How many things were not given back."""
        return len(self.memory) + len(self.streams) + len(self.graphs)

    def gpu(self) -> Gpu:
        return Gpu("Fake GPU", "sm89", "13.0")

    def create_stream(self) -> int:
        stream = next(self._handles)
        self.streams[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        del self.streams[stream]

    def allocate(self, size: int) -> int:
        assert size > 0
        assert self._recording is None, "memory cannot be allocated while a graph is captured"
        address = next(self._addresses)
        self.memory[address] = bytearray(b"\xff" * size)
        self.allocations += 1
        return address

    def free(self, address: int) -> None:
        assert not any(self.streams.values()), "memory is given back while work is waiting"
        del self.memory[address]

    def upload(self, address: int, array: Array, stream: int) -> None:
        assert array.flags.c_contiguous
        self.do(stream, lambda: self.write(address, array))

    def download(self, array: Array, address: int, stream: int) -> None:
        assert array.flags.c_contiguous

        def copy() -> None:
            array[...] = self.read(address, array.shape, array.dtype)
            self.downloaded += array.nbytes

        self.do(stream, copy)

    def synchronise(self, stream: int) -> None:
        work, self.streams[stream] = self.streams[stream], []
        for step in work:
            step()

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        assert stream in self.streams
        recorded: list[Callable[[], None]] = []
        self._recording = recorded
        try:
            work()
        finally:
            self._recording = None
        graph = next(self._handles)
        self.graphs[graph] = recorded
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self.launches += 1
        self.streams[stream] += self.graphs[graph]

    def destroy_graph(self, graph: int) -> None:
        del self.graphs[graph]

    def copy(self, destination: int, source: int, size: int, stream: int) -> bool:
        self.do(stream, lambda: self.write(destination, self.read(source, (size,), np.dtype(np.uint8))))
        return True

    def do(self, stream: int, step: Callable[[], None]) -> None:
        (self.streams[stream] if self._recording is None else self._recording).append(step)

    def write(self, address: int, array: Array) -> None:
        content, buffer = array.tobytes(), self.memory[address]
        assert len(content) <= len(buffer), f"{len(content)} bytes written to a buffer of {len(buffer)}"
        buffer[: len(content)] = content

    def read(self, address: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        size, buffer = math.prod(shape) * dtype.itemsize, self.memory[address]
        assert size <= len(buffer), f"{size} bytes read from a buffer of {len(buffer)}"
        return np.frombuffer(bytes(buffer[:size]), dtype).reshape(shape)


@dataclass
class FakeContext:
    """Computes with the shapes and addresses that were set."""

    cuda: FakeCuda
    graph: Graph
    compute: Compute
    fails: bool = False
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def step() -> None:
            feeds = {
                tensor.name: self.cuda.read(addresses[tensor.name], shapes[tensor.name], np.dtype(tensor.dtype))
                for tensor in self.graph.inputs
            }
            for name, array in self.compute(feeds).items():
                self.cuda.write(addresses[name], array)

        self.cuda.do(stream_handle, step)
        return not self.fails


class FakeEngine(LoadedEngine):
    """An engine that computes with NumPy."""

    def __init__(self, cuda: FakeCuda, graph: Graph, compute: Compute, captures: bool = True) -> None:
        self.captures = captures
        self._cuda, self._graph, self._compute = cuda, graph, compute
        self.contexts: list[FakeContext] = []
        self.saved = 0
        self.fails = False

    def create_context(self) -> FakeContext:
        self.contexts.append(FakeContext(self._cuda, self._graph, self._compute, self.fails))
        return self.contexts[-1]

    def save_compiled(self) -> None:
        self.saved += 1

    def reason(self) -> str:
        return "the fake was told to fail"


COPYING = Graph((TensorSpec("x", "float32", ("B", 1024)),), (TensorSpec("y", "float32", ("B", 1024)),))


@dataclass
class CopyingContext:
    """Copies x to y."""

    copy: Copy
    shape: tuple[int, ...] = ()
    addresses: dict[str, int] = field(default_factory=dict)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "x"
        self.shape = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        return self.copy(self.addresses["y"], self.addresses["x"], 4 * math.prod(self.shape), stream_handle)


@dataclass
class CopyingEngine(LoadedEngine):
    """An engine for `COPYING`, wherever `copy` works: everything around it is the real runner."""

    copy: Copy
    captures: bool = True
    contexts: int = 0

    def create_context(self) -> CopyingContext:
        self.contexts += 1
        return CopyingContext(self.copy)

    def save_compiled(self) -> None: ...

    def reason(self) -> str:
        return "the copy failed"


def exercise(cuda: CudaBindings, copy: Copy) -> None:
    """Runs sizes that make buffers grow, graphs be captured and replayed, and contexts be evicted; checks each copy."""
    engine, random = CopyingEngine(copy), np.random.default_rng(0)
    runner = TensorRtRunner(engine, COPYING, Profile(), cuda)
    for batch in (1, 1, 1, 16, 16, 16, 4, 4, 1, 1, 2, 2, 3, 3, 5, 5, 16, 16, 1, 1) * 3:
        x = random.standard_normal((batch, 1024)).astype(np.float32)
        np.testing.assert_array_equal(runner.run({"x": x}, ["y"])["y"], x)
    assert engine.contexts > MAX_CONTEXTS
    runner.close()


class Severity(Enum):
    INTERNAL_ERROR, ERROR, WARNING, VERBOSE = range(4)


class ILogger:
    """As TensorRT's, which Python subclasses."""

    Severity = Severity


class Unusable:
    """What plain TensorRT gives for a builder or runtime that failed: an object, and using it ends the process."""

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401
        raise AssertionError(f"the process crashes in {name}")


def fake_api(**members: object) -> Any:  # noqa: ANN401
    """TensorRT's Python module, as far as a test needs it."""
    return SimpleNamespace(ILogger=ILogger, **members)


def failing(logger: Any) -> Unusable:  # noqa: ANN401
    """A `Builder` or `Runtime` that fails as plain TensorRT's do without a GPU."""
    logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
    return Unusable()
