"""CUDA without a GPU: memory with borders, a stream whose work is done when it is waited for, and graphs of it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from t2i_engine.backends.base import Array
from t2i_engine.bundle import Graph
from t2i_engine.tensorrt.cuda import Gpu

Compute = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class FakeCuda:
    """Refuses what a GPU would silently do wrong: writing past a buffer, reading one that was given back."""

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
        self._recording = []
        work()
        graph = next(self._handles)
        self.graphs[graph], self._recording = self._recording, None
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self.launches += 1
        self.streams[stream] += self.graphs[graph]

    def destroy_graph(self, graph: int) -> None:
        del self.graphs[graph]

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


class FakeEngine:
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

    def save_cache(self) -> None:
        self.saved += 1
