"""An ONNX Runtime session whose inputs and outputs are bound to memory on a device, allocated once per size.

Only the requested outputs are copied back, and addresses stay the same between runs, as a CUDA graph requires.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from t2i_engine.backends.base import OUT_OF_MEMORY, Array
from t2i_engine.bundle import Graph
from t2i_engine.errors import BackendError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding, OrtValue, RunOptions

MAX_CAPTURED = 8  # sizes that are captured: ONNX Runtime keeps their graphs until the session ends
MAX_CACHED = 8  # other sizes whose buffers are kept: those of every batch size would fill the GPU

_NO_CAPTURE = "-1"  # the gpu_graph_id of a run that neither captures nor replays


@dataclass(frozen=True)
class _Bound:
    """The buffers for feeds of one size."""

    inputs: "Mapping[str, OrtValue]"
    outputs: "Mapping[str, OrtValue]"
    binding: "IOBinding"
    options: "RunOptions"
    captured: bool


class BoundSession:
    """Runs a session on `device` ("cuda" or "cpu"). Several threads may use it; they take turns.

    With `captures`, the first `MAX_CAPTURED` sizes are recorded as CUDA graphs and replayed, and any other size runs
    without one: ONNX Runtime cannot free a graph on CUDA, so recording every new size would fill the GPU. It also
    records anew for every thread, so all runs then happen on one.
    """

    def __init__(self, session: "InferenceSession", graph: Graph, device: str, captures: bool) -> None:
        self._graph, self._device = graph, device
        self._session: InferenceSession | None = session
        self._bound: dict[tuple[object, ...], _Bound] = {}
        self._captured = 0
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1) if captures else None

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs of feeds that fit the graph. Raises `BackendError` if the device fails."""
        with self._lock:
            if self._session is None:
                raise BackendError("this runner is closed; open the engine again")
            try:
                if self._worker:
                    return self._worker.submit(self._run, self._session, feeds, outputs).result()
                return self._run(self._session, feeds, outputs)
            except Exception as error:  # ONNX Runtime's exceptions have no other class in common
                reason = " ".join(str(error).split())
                if any(sign in reason.lower() for sign in ("out of memory", "failed to allocate")):
                    raise BackendError(f"{OUT_OF_MEMORY} (ONNX Runtime)") from error
                raise BackendError(f"ONNX Runtime failed on {self._device}: {reason}") from error

    def close(self) -> None:
        """Frees the buffers and the session. May be called twice."""
        with self._lock:
            self._bound.clear()
            self._session = None
            if self._worker:
                self._worker.shutdown()

    def _run(self, session: "InferenceSession", feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        key = (*outputs, *(feeds[tensor.name].shape for tensor in self._graph.inputs))
        bound = self._bound.pop(key, None) or self._bind(session, feeds, outputs)
        self._bound[key] = bound  # most recently used last
        evictable = [key for key, other in self._bound.items() if not other.captured]
        if len(evictable) > MAX_CACHED:
            del self._bound[evictable[0]]
        for name, feed in feeds.items():
            bound.inputs[name].update_inplace(np.ascontiguousarray(feed))
        session.run_with_iobinding(bound.binding, bound.options)
        return {name: np.array(value.numpy()) for name, value in bound.outputs.items()}

    def _bind(self, session: "InferenceSession", feeds: Mapping[str, Array], outputs: Sequence[str]) -> _Bound:
        import onnxruntime

        sizes = {
            letter: size
            for tensor in self._graph.inputs
            for letter, size in zip(tensor.shape, feeds[tensor.name].shape, strict=True)
        }

        def allocate(name: str) -> "OrtValue":
            tensor = declared[name]
            shape = [sizes[size] if isinstance(size, str) else size for size in tensor.shape]
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(tensor.dtype), self._device, 0)

        declared = {tensor.name: tensor for tensor in (*self._graph.inputs, *self._graph.outputs)}
        inputs, results = ({name: allocate(name) for name in names} for names in (feeds, outputs))
        options = onnxruntime.RunOptions()
        captured = self._worker is not None and self._captured < MAX_CAPTURED
        if captured:  # a graph writes to the buffers it was captured with: each set of buffers has its own
            self._captured += 1
        if self._worker:
            options.add_run_config_entry("gpu_graph_id", str(self._captured) if captured else _NO_CAPTURE)
        bound = _Bound(inputs, results, session.io_binding(), options, captured)
        for name, value in inputs.items():
            bound.binding.bind_ortvalue_input(name, value)
        for name, value in results.items():
            bound.binding.bind_ortvalue_output(name, value)
        return bound
