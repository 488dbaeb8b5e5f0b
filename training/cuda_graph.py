"""Replays training steps as CUDA graphs: one launch instead of thousands, so that the GPU never waits for Python."""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from t2i_engine.errors import UserError
from training.config import RunConfig
from training.distributed import world
from training.phase import StepLosses

WARM_UP = 3
"""Eager steps before a capture, in which libraries choose their kernels and optimizers create their state."""

Part = TypeVar("Part", bound=tuple[Tensor, ...])
"""A named tuple."""
Kind = TypeVar("Kind", bound=Hashable)


class CaptureError(UserError):
    """A step that cannot be captured."""


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    parts: Sequence[tuple[Tensor, ...]]
    """What it reads at every replay."""
    losses: StepLosses
    """What it writes."""


def can_capture(device: torch.device, config: RunConfig) -> bool:
    """Whether steps are captured: on a GPU, by a single process, and not in fp16.

    Gradients that several processes average, and loss scaling, need more care in a capture than has been taken here.
    """
    return device.type == "cuda" and world() == 1 and config.precision != "fp16"


class CapturedSteps(Generic[Part, Kind]):
    """Captures each kind of step once its kernels are warm, and replays it from then on."""

    def __init__(self, step: Callable[[Sequence[Part], Kind], StepLosses]) -> None:
        """`step` takes the tensors it reads and its kind, and depends on nothing else that changes between calls."""
        self._step = step
        self._runs: Counter[Kind] = Counter()
        self._graphs: dict[Kind, _Graph] = {}
        self._stream = torch.cuda.Stream()

    def __call__(self, parts: Sequence[Part], kind: Kind) -> StepLosses:
        """Runs a step; eagerly the first `WARM_UP` times of each kind, and, with a warning, if shapes have changed.

        Raises `CaptureError`.
        """
        self._runs[kind] += 1
        if self._runs[kind] <= WARM_UP:
            return self._warm_up(parts, kind)
        if kind not in self._graphs:
            self._graphs[kind] = self._capture(parts, kind)
        captured = self._graphs[kind]
        pairs = [pair for old, new in zip(captured.parts, parts, strict=True) for pair in zip(old, new, strict=True)]
        if any((old.shape, old.dtype) != (new.shape, new.dtype) for old, new in pairs):
            warnings.warn("the shapes of a step have changed since its capture: it runs eagerly", stacklevel=2)
            return self._step(parts, kind)
        for old, new in pairs:
            old.copy_(new)
        captured.graph.replay()
        return captured.losses._replace(values=captured.losses.values.clone())

    def _warm_up(self, parts: Sequence[Part], kind: Kind) -> StepLosses:
        """A step on a stream of its own, as captures need (PyTorch's notes on CUDA graphs)."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*capturable.*")  # it is not captured yet
            losses = self._step(parts, kind)
        torch.cuda.current_stream().wait_stream(self._stream)
        return losses

    def _capture(self, parts: Sequence[Part], kind: Kind) -> _Graph:
        graph = torch.cuda.CUDAGraph()
        # Graphs never run at the same time: they share their memory.
        pool = next((other.graph.pool() for other in self._graphs.values()), None)
        static = [type(part)(*(tensor.clone() for tensor in part)) for part in parts]
        try:
            # The thread that makes batches may allocate pinned memory meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                losses = self._step(static, kind)
        except RuntimeError as error:  # ending a failed capture raises another, hiding the first
            first = error.__context__ if isinstance(error.__context__, RuntimeError) else error
            if isinstance(first, torch.OutOfMemoryError):
                raise first from None
            reason = str(first).partition("\n")[0]
            raise CaptureError(f"a training step cannot be captured ({reason}); --set cuda_graph=false") from error
        return _Graph(graph, static, losses)
