"""Runs an engine: one stream, buffers that are reused, CUDA graphs, and only the requested outputs copied back."""

import contextlib
import logging
import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2i_engine.backends.base import Array, check_feeds
from t2i_engine.errors import BackendError, OutputError
from t2i_engine.files import write_atomically
from t2i_engine.manifest import Graph
from t2i_engine.tensorrt.builder import Profile
from t2i_engine.tensorrt.cuda import CudaBindings, CudaError
from t2i_engine.tensorrt.variant import Variant

MAX_CONTEXTS = 4  # sizes that are ready at once: each context has GPU memory of its own for intermediate results

CACHE_CURE = "set XDG_CACHE_HOME to a folder that can be written"

_log = logging.getLogger(__name__)

_Sizes = Mapping[str, int]


class LoadedEngine:
    """A deserialised engine. TensorRT for RTX compiles kernels at run time, which the file `compiled` caches."""

    def __init__(self, variant: Variant, content: bytes, capturable: bool, compiled: Path) -> None:
        """`capturable`: the graph has no loop that depends on its inputs, so CUDA graphs can replay it."""
        self._variant, self._capturable, self._compiled = variant, capturable, compiled
        self.captures = capturable and not variant.is_rtx  # TensorRT for RTX captures by itself, if told to
        self._runtime = variant.start("Runtime")
        self._engine: Any = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise BackendError(f"{variant} cannot load its engine: {self.reason()}")
        self._cache: Any = None
        self._cached = 0  # bytes on disk; a cache only ever grows

    def reason(self) -> str:
        """Why the last call failed."""
        return self._variant.log.reason()

    def create_context(self) -> Any:  # noqa: ANN401
        """A new context, TensorRT's IExecutionContext. Raises `BackendError`."""
        arguments = [self._configured()] if self._variant.is_rtx else []
        context = self._engine.create_execution_context(*arguments)
        if context is None:
            raise BackendError(f"{self._variant} cannot run its engine: {self.reason()}; free memory on the GPU")
        return context

    def save_compiled(self) -> None:
        """Writes the kernels that were compiled at run time to disk, if there are new ones."""
        if self._cache is None:
            return
        content = bytes(self._cache.serialize() or b"")
        if len(content) > self._cached:
            self._cached = len(content)
            try:
                write_atomically(self._compiled, content, CACHE_CURE)
            except OutputError as error:  # costs the next process time, and this one nothing
                _log.warning("compiled kernels are not cached: %s", error)

    def _configured(self) -> Any:  # noqa: ANN401
        config = self._engine.create_runtime_config()
        if self._capturable:
            config.cuda_graph_strategy = self._variant.api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = config.create_runtime_cache()
        if os.access(self._compiled, os.R_OK):
            content = self._compiled.read_bytes()
            if self._cache.deserialize(content):  # refused if GPU, driver or version changed
                self._cached = len(content)
        config.set_runtime_cache(self._cache)
        return config


@dataclass
class _Prepared:
    """A context, the sizes it last ran with, and the graph of its work once that is captured."""

    context: Any
    sizes: _Sizes | None = None
    graph: int | None = None


class TensorRtRunner:
    """An engine for one graph on one GPU. Several threads may use it; they take turns."""

    def __init__(self, engine: LoadedEngine, graph: Graph, profile: Profile, cuda: CudaBindings) -> None:
        self._graph, self._profile, self._cuda = graph, profile, cuda
        self._memory = _Memory(engine, cuda)
        self._release = weakref.finalize(self, self._memory.release)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs; only these are copied back.

        Raises `ShapeError` if a feed does not fit the declared shape, and `BackendError` if it is outside the engine's
        range, the runner is closed, or the GPU fails.
        """
        sizes = check_feeds(self._graph, feeds, outputs)
        self._profile.check(sizes)
        tensors = (*self._graph.inputs, *self._graph.outputs)
        shapes = {tensor.name: tensor.sized(sizes) for tensor in tensors}
        dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in tensors}
        sent = {name: np.ascontiguousarray(feed) for name, feed in feeds.items()}
        received = {name: np.empty(shapes[name], dtypes[name]) for name in outputs}
        with self._memory.lock:
            engine = self._memory.engine
            if engine is None:
                raise BackendError("this runner is closed; open the engine again")
            addresses = {
                name: self._memory.buffer(name, math.prod(shape) * dtypes[name].itemsize)
                for name, shape in shapes.items()
            }
            with self._synchronised() as stream:
                for name, array in sent.items():
                    self._cuda.upload(addresses[name], array, stream)
                self._compute(engine, sizes, shapes, addresses)
                for name, array in received.items():
                    self._cuda.download(array, addresses[name], stream)
        return received

    def close(self) -> None:
        """Frees everything on the GPU, as does losing the last reference to the runner. May be called twice."""
        self._release()

    @contextlib.contextmanager
    def _synchronised(self) -> Iterator[int]:
        """The stream, waited for at the end: until then the GPU may use the arrays, also after a failure."""
        stream = self._memory.stream
        try:
            yield stream
        except BaseException:
            with contextlib.suppress(CudaError):  # the first error is the cause
                self._cuda.synchronise(stream)
            raise
        self._cuda.synchronise(stream)

    def _compute(
        self, engine: LoadedEngine, sizes: _Sizes, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]
    ) -> None:
        def check(done: bool, what: str) -> None:
            if not done:
                raise BackendError(
                    f"TensorRT refused {what}: {engine.reason()}; delete its cached engines and build them again"
                )

        stream, prepared = self._memory.stream, self._memory.prepared(engine, sizes)
        if prepared.graph is not None:
            self._cuda.launch(prepared.graph, stream)
            return
        context, repeated = prepared.context, prepared.sizes == sizes
        if not repeated:
            for tensor in self._graph.inputs:
                check(context.set_input_shape(tensor.name, shapes[tensor.name]), "an input's shape")
        for name, address in addresses.items():
            check(context.set_tensor_address(name, address), "an address")

        def work() -> None:
            check(context.execute_async_v3(stream), "to start")

        if repeated and engine.captures:  # the first run is the warm-up: its set-up cannot be captured
            prepared.graph = self._cuda.capture(stream, work)
            self._cuda.launch(prepared.graph, stream)
            return
        work()
        prepared.sizes = sizes
        if self._memory.is_new(sizes):
            self._cuda.synchronise(stream)
            engine.save_compiled()


class _Memory:
    """What a runner holds on the GPU. Buffers grow to the largest size; old contexts and stale graphs are freed."""

    def __init__(self, engine: LoadedEngine, cuda: CudaBindings) -> None:
        self.engine: LoadedEngine | None = engine  # None once everything is freed
        self._cuda = cuda
        self.lock = threading.Lock()
        self.stream = cuda.create_stream()
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> address, size
        self._prepared: OrderedDict[frozenset[tuple[str, int]], _Prepared] = OrderedDict()
        self._seen: set[frozenset[tuple[str, int]]] = set()

    def buffer(self, name: str, size: int) -> int:
        """The address of at least `size` bytes, the same until more are needed."""
        address, available = self._buffers.get(name, (0, 0))
        if available < size:
            for prepared in self._prepared.values():  # their graphs use the old buffer
                self._destroy_graph(prepared)
            if available:
                del self._buffers[name]
                self._cuda.free(address)
            address = self._cuda.allocate(size)
            self._buffers[name] = address, size
        return address

    def prepared(self, engine: LoadedEngine, sizes: _Sizes) -> _Prepared:
        """The context for these sizes: one per size where graphs are captured, else one for all."""
        key = frozenset(sizes.items() if engine.captures else ())
        if key not in self._prepared:
            if len(self._prepared) >= MAX_CONTEXTS:
                self._destroy_graph(self._prepared.popitem(last=False)[1])
            self._prepared[key] = _Prepared(engine.create_context())
        self._prepared.move_to_end(key)
        return self._prepared[key]

    def is_new(self, sizes: _Sizes) -> bool:
        """True the first time that it is asked about these sizes."""
        known = len(self._seen)
        self._seen.add(frozenset(sizes.items()))
        return len(self._seen) > known

    def release(self) -> None:
        with self.lock:
            engine, self.engine = self.engine, None
            try:
                if engine:
                    engine.save_compiled()  # TensorRT for RTX keeps compiling in the background after a first run
            finally:
                while self._prepared:
                    self._destroy_graph(self._prepared.popitem()[1])
                while self._buffers:
                    self._cuda.free(self._buffers.popitem()[1][0])
                self._cuda.destroy_stream(self.stream)

    def _destroy_graph(self, prepared: _Prepared) -> None:
        if prepared.graph is not None:
            self._cuda.destroy_graph(prepared.graph)
            prepared.graph = None
