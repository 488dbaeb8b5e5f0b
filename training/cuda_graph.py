"""Replays training steps as CUDA graphs: one launch instead of thousands, so that the GPU never waits for Python."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from training.config import RunConfig
from training.distributed import world
from training.phase import StepLosses

WARM_UP = 3
"""Eager steps before a capture, in which libraries choose their kernels and optimizers create their state."""

Parts = Sequence[tuple[Tensor, ...]]
"""What a step reads."""


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    parts: Parts
    """What it reads at every replay."""
    losses: StepLosses
    """What it writes."""


def can_capture(device: torch.device, config: RunConfig) -> bool:
    """Whether steps can be captured: on a GPU, without other processes to talk to, and without float16's loss scaling.

    The scaler decides on the host whether to skip an update.
    """
    return device.type == "cuda" and world() == 1 and config.precision != "fp16"


class CapturedSteps:
    """Captures each kind of step once its kernels are warm, and replays it from then on."""

    def __init__(self, step: Callable[..., StepLosses]) -> None:
        """`step` takes what it reads and its kind, and may do nothing else on the host that changes between calls."""
        self._step = step
        self._runs: Counter[tuple[bool, ...]] = Counter()
        self._graphs: dict[tuple[bool, ...], _Graph] = {}
        self._stream = torch.cuda.Stream()

    def __call__(self, parts: Parts, *kind: bool) -> StepLosses:
        """Runs a step; eagerly if it is of a new kind, or if the shapes have changed since the capture."""
        self._runs[kind] += 1
        if self._runs[kind] <= WARM_UP:
            return self._warm_up(parts, kind)
        if kind not in self._graphs:
            self._graphs[kind] = self._capture(parts, kind)
        captured = self._graphs[kind]
        pairs = [pair for old, new in zip(captured.parts, parts, strict=True) for pair in zip(old, new, strict=True)]
        if any(old.shape != new.shape for old, new in pairs):
            return self._step(parts, *kind)
        for old, new in pairs:
            old.copy_(new)
        captured.graph.replay()
        return captured.losses._replace(values=captured.losses.values.clone())

    def _warm_up(self, parts: Parts, kind: tuple[bool, ...]) -> StepLosses:
        """A step on a stream of its own, as captures need (PyTorch's notes on CUDA graphs)."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            losses = self._step(parts, *kind)
        torch.cuda.current_stream().wait_stream(self._stream)
        return losses

    def _capture(self, parts: Parts, kind: tuple[bool, ...]) -> _Graph:
        graph, pool = torch.cuda.CUDAGraph(), None
        for other in self._graphs.values():  # graphs never run at the same time: they share their memory
            pool = other.graph.pool()
        static = [type(part)(*(tensor.clone() for tensor in part)) for part in parts]
        # The thread that makes batches may allocate pinned memory meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            losses = self._step(static, *kind)
        return _Graph(graph, static, losses)
