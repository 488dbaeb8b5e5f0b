"""What both phases of training share: a step's losses and randomness, and state."""

import ctypes
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from training.data.feed import Batch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""From glibc's malloc.h."""

PhaseName = Literal["damsm", "gan"]
Network = TypeVar("Network", bound=torch.nn.Module)


class BatchSource(Protocol):
    """What a phase trains on, such as a `Feed`."""

    def batch(self, number: int) -> Batch:
        """Batch `number`, from 0."""


class StepLosses(NamedTuple):
    """The losses of one step, not yet read: reading them waits for the device."""

    names: tuple[str, ...]
    values: Tensor
    """Float (len(names)), of this process."""

    @classmethod
    def mean(cls, parts: Sequence[Mapping[str, Tensor]]) -> "StepLosses":
        """Averages each loss, a scalar, over the parts of a batch."""
        names = tuple(parts[0])
        values = [torch.stack([part[name].detach().float() for part in parts]).mean() for name in names]
        return cls(names, torch.stack(values))


def seed_step(seed: int, phase: PhaseName, number: int) -> None:
    """Seeds torch for one step of a run, so that a resumed run draws the same numbers."""
    torch.manual_seed(zlib.crc32(f"{seed} {phase} {number}".encode()))


def channels_last(network: Network, device: torch.device) -> Network:
    """Moves a network to `device`, with convolution weights channels last, the fastest layout."""
    return network.to(device=device).to(memory_format=torch.channels_last)


def adam(
    parameters: Iterable[torch.nn.Parameter], learning_rate: float, betas: tuple[float, float], captured: bool = False
) -> torch.optim.Adam:
    """Adam with a whole update in one kernel, which never waits for a GPU; `captured` if it is in a CUDA graph."""
    return torch.optim.Adam(parameters, lr=learning_rate, betas=betas, fused=True, capturable=captured)


def tune_process() -> None:
    """Lets cuDNN choose kernels by timing them, and glibc keep what tensors free for the next ones.

    By default glibc returns large blocks to the system, which then clears every page anew: a tenth of a step on a CPU.
    """
    torch.backends.cudnn.benchmark = True  # shapes stay the same
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


class Phase(ABC):
    """One phase of training: runs steps, and can be saved and restored."""

    stateful: ClassVar[tuple[str, ...]]
    """The attributes that hold everything the next step depends on."""

    @abstractmethod
    def step(self, number: int) -> StepLosses:
        """Runs step `number`, from 0."""

    @property
    @abstractmethod
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by the names of what they train."""

    def state(self) -> dict[str, Any]:
        """The state dicts of the `stateful` attributes, by name."""
        return {name: getattr(self, name).state_dict() for name in self.stateful}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned, on any device."""
        captured = {name: optimizer.defaults["capturable"] for name, optimizer in self.optimizers.items()}
        for name in self.stateful:
            if state.get(name):  # a disabled loss scaler has none
                getattr(self, name).load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():  # as on the device that this run is on now
            optimizer.param_groups[0]["capturable"] = captured[name]
