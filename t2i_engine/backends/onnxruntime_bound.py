"""An ONNX Runtime session whose inputs and outputs are bound to memory of a device, allocated once and used again.

Only what is asked for is copied back, and a CUDA graph can be captured, because no address changes between two runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from t2i_engine.backends.base import Array
from t2i_engine.bundle import Graph

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding, OrtValue, RunOptions

MOST_KEPT = 8  # sizes whose buffers are kept: a batch of every size would fill the GPU


@dataclass(frozen=True)
class _Bound:
    """The buffers for feeds of one size."""

    inputs: "Mapping[str, OrtValue]"
    outputs: "Mapping[str, OrtValue]"
    binding: "IOBinding"
    options: "RunOptions"


class BoundSession:
    """Runs a session on `device` ("cuda" or "cpu"); with `captures` its work is recorded once per size and replayed."""

    def __init__(self, session: "InferenceSession", graph: Graph, device: str, captures: bool) -> None:
        self._session, self._graph, self._device, self._captures = session, graph, device, captures
        self._bound: dict[tuple[object, ...], _Bound] = {}
        self._made = 0

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs of feeds that fit the graph."""
        key = (*outputs, *(feeds[tensor.name].shape for tensor in self._graph.inputs))
        bound = self._bound.pop(key, None) or self._bind(feeds, outputs)
        self._bound[key] = bound  # the last is the one that was used last
        if len(self._bound) > MOST_KEPT:
            del self._bound[next(iter(self._bound))]
        for name, feed in feeds.items():
            bound.inputs[name].update_inplace(np.ascontiguousarray(feed))
        self._session.run_with_iobinding(bound.binding, bound.options)
        return {name: np.array(value.numpy()) for name, value in bound.outputs.items()}

    def _bind(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> _Bound:
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
        self._made += 1
        options = onnxruntime.RunOptions()
        if self._captures:  # a number of its own for each set of buffers: a graph writes where it was captured
            options.add_run_config_entry("gpu_graph_id", str(self._made))
        bound = _Bound(
            {name: allocate(name) for name in feeds},
            {name: allocate(name) for name in outputs},
            self._session.io_binding(),
            options,
        )
        for name, value in bound.inputs.items():
            bound.binding.bind_ortvalue_input(name, value)
        for name, value in bound.outputs.items():
            bound.binding.bind_ortvalue_output(name, value)
        return bound
