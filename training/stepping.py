"""What the steps of both training phases share: batch, randomness, precision, and state."""

import zlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from training.data.corpus import Batch, Batches
from training.distributed import padded_alike, rank, world

Losses = dict[str, float]
Phase = Literal["damsm", "gan"]
Network = TypeVar("Network", bound=torch.nn.Module)


def seed_step(seed: int, phase: Phase, number: int) -> None:
    """Seeds torch for one step of a run, so that a resumed run draws the same numbers."""
    torch.manual_seed(zlib.crc32(f"{seed} {phase} {number}".encode()))


def own_batch(corpus: Batches, seed: int, number: int, size: int, device: torch.device) -> Batch:
    """The `size` pictures of this process in batch `number`; captions are padded to one length in all processes."""
    batch = corpus.batch(seed, number, size, rank(), world()).to(device)
    return batch._replace(tokens=padded_alike(batch.tokens), hard_negatives=padded_alike(batch.hard_negatives))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Autocast to float16 for fp16, to bfloat16 for bf16, and for auto on devices made for it; otherwise none."""
    if precision == "fp16":
        return torch.autocast(device.type, dtype=torch.float16)
    enabled = precision == "bf16" or (precision == "auto" and multiplies_in_bf16(device.type))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


@cache
def multiplies_in_bf16(device: str) -> bool:
    """Whether a device ("cpu", "cuda") has instructions for bfloat16 products; without, they are far slower."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Scales fp16 losses so that gradients do not underflow, and skips updates that overflow; otherwise disabled."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def backward(losses: dict[str, Tensor], scaler: torch.amp.GradScaler, parts: int = 1) -> None:
    """Accumulates the gradients of the sum of `losses`, divided by the number of `parts` that make an update."""
    scaler.scale(torch.stack(list(losses.values())).sum() / parts).backward()


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> bool:
    """Applies the gradients, unless they overflow, and clears them; returns whether they were applied."""
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return bool(scaler.get_scale() >= scale)


def channels_last(network: Network, device: torch.device) -> Network:
    """Moves a network to `device`, with convolution weights channels last, the fastest layout."""
    return network.to(device=device).to(memory_format=torch.channels_last)


class Trainer(ABC):
    """One phase of training: runs steps, and can be saved and restored."""

    stateful: ClassVar[tuple[str, ...]]
    """The attributes that hold everything the next step depends on."""

    @abstractmethod
    def step(self, number: int) -> Losses:
        """Runs step `number`, from 0; returns its losses by name."""

    @property
    @abstractmethod
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by the names of what they train."""

    def state(self) -> dict[str, Any]:
        """The state dicts of the `stateful` attributes, by name."""
        return {name: getattr(self, name).state_dict() for name in self.stateful}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        for name in self.stateful:
            if state.get(name):  # a disabled loss scaler has none
                getattr(self, name).load_state_dict(state[name])
