"""Runs an engine: buffers that stay, one stream, and what was asked for copied back."""

import math
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from t2i_engine.backends.base import Array, check_feeds
from t2i_engine.bundle import Graph, TensorSpec
from t2i_engine.errors import BackendError
from t2i_engine.tensorrt.cuda import Cuda
from t2i_engine.tensorrt.profile import Profile

MOST_CONTEXTS = 4  # sizes that stay ready at once: each holds memory of its own for what happens between the layers


class Context(Protocol):
    """The part of TensorRT's IExecutionContext that a runner uses; False means that it failed."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...  # noqa: D102
    def set_tensor_address(self, name: str, memory: int) -> bool: ...  # noqa: D102
    def execute_async_v3(self, stream_handle: int) -> bool: ...  # noqa: D102


class Engine(Protocol):
    """A deserialised engine."""

    captures: bool
    """True where a CUDA graph of its work can be made, one for each size, each with a context of its own."""

    def create_context(self) -> Context:
        """A new context."""

    def save_cache(self) -> None:
        """Keeps on disk what was compiled while running, where the engine compiles then."""


@dataclass
class _Prepared:
    """A context, the sizes that it was last used with, and the graph of its work."""

    context: Context
    sizes: Mapping[str, int] | None = None
    graph: int | None = None


class TensorRtRunner:
    """An engine for one graph on one GPU."""

    def __init__(self, engine: Engine, graph: Graph, profile: Profile, cuda: Cuda) -> None:
        self._engine, self._graph, self._profile, self._cuda = engine, graph, profile, cuda
        self._memory = _Memory(cuda)
        self.close = weakref.finalize(self, self._memory.release)
        """Gives everything on the GPU back; also done when the runner is no longer used."""

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs; only they are copied back.

        Raises `ShapeError` where a feed does not fit the declared shape, and `BackendError` where it is outside of what
        the engine was built for, or where the GPU fails.
        """
        check_feeds(self._graph, feeds, outputs)
        sizes = _sizes(self._graph, feeds)
        self._profile.check(sizes)
        cuda, stream = self._cuda, self._memory.stream
        shapes = {tensor.name: _shape(tensor, sizes) for tensor in (*self._graph.inputs, *self._graph.outputs)}
        dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in (*self._graph.inputs, *self._graph.outputs)}
        addresses = {
            name: self._memory.buffer(name, math.prod(shape) * dtypes[name].itemsize) for name, shape in shapes.items()
        }
        sent = {name: np.ascontiguousarray(feed) for name, feed in feeds.items()}
        received = {name: np.empty(shapes[name], dtypes[name]) for name in outputs}
        try:
            for name, array in sent.items():
                cuda.upload(addresses[name], array, stream)
            self._compute(sizes, shapes, addresses)
            for name, array in received.items():
                cuda.download(array, addresses[name], stream)
        finally:
            cuda.synchronise(stream)  # also after a failure: until then the GPU may use the arrays
        return received

    def _compute(
        self, sizes: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]
    ) -> None:
        prepared = self._memory.prepared(self._engine, sizes)
        stream = self._memory.stream
        if prepared.graph is not None:
            self._cuda.launch(prepared.graph, stream)
            return
        work = _Work(prepared.context, stream)
        seen = prepared.sizes == sizes
        if not seen:
            for tensor in self._graph.inputs:
                work.check(prepared.context.set_input_shape(tensor.name, shapes[tensor.name]), "an input's shape")
        for name, address in addresses.items():
            work.check(prepared.context.set_tensor_address(name, address), "an address")
        if seen and self._engine.captures:  # the first time is the warm-up: what is set up then cannot be captured
            prepared.graph = self._cuda.capture(stream, work)
            self._cuda.launch(prepared.graph, stream)
            return
        work()
        if not seen:
            prepared.sizes = sizes
            self._cuda.synchronise(stream)
            self._engine.save_cache()


@dataclass(frozen=True)
class _Work:
    """One pass through an engine."""

    context: Context
    stream: int

    def __call__(self) -> None:
        self.check(self.context.execute_async_v3(self.stream), "to start")

    @staticmethod
    def check(done: bool, what: str) -> None:
        if not done:
            raise BackendError(f"TensorRT refused {what}; delete its cached engines and build them again")


class _Memory:
    """What a runner holds on the GPU. Buffers grow to the largest size seen; graphs and contexts of old ones go."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.stream = cuda.create_stream()
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> address, size
        self._prepared: OrderedDict[tuple[tuple[str, int], ...], _Prepared] = OrderedDict()

    def buffer(self, name: str, size: int) -> int:
        """The address of at least `size` bytes, the same until more are needed."""
        address, there = self._buffers.get(name, (0, 0))
        if there < size:
            self._forget_graphs()  # they write where the old buffer was
            if there:
                del self._buffers[name]
                self._cuda.free(address)
            address = self._cuda.allocate(size)
            self._buffers[name] = address, size
        return address

    def prepared(self, engine: Engine, sizes: Mapping[str, int]) -> _Prepared:
        """The context for these sizes: one of their own where graphs are captured, else the same for all."""
        key = tuple(sorted(sizes.items())) if engine.captures else ()
        if key not in self._prepared:
            if len(self._prepared) >= MOST_CONTEXTS:
                self._destroy(self._prepared.popitem(last=False)[1])
            self._prepared[key] = _Prepared(engine.create_context())
        self._prepared.move_to_end(key)
        return self._prepared[key]

    def release(self) -> None:
        """Gives everything back."""
        self._forget_graphs()
        self._prepared.clear()
        for address, _ in self._buffers.values():
            self._cuda.free(address)
        self._buffers.clear()
        self._cuda.destroy_stream(self.stream)

    def _forget_graphs(self) -> None:
        for prepared in self._prepared.values():
            self._destroy(prepared)

    def _destroy(self, prepared: _Prepared) -> None:
        if prepared.graph is not None:
            self._cuda.destroy_graph(prepared.graph)
            prepared.graph = None


def _sizes(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, int]:
    return {
        size: found
        for tensor in graph.inputs
        for size, found in zip(tensor.shape, feeds[tensor.name].shape, strict=True)
        if isinstance(size, str)
    }


def _shape(tensor: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes[size] if isinstance(size, str) else size for size in tensor.shape)
