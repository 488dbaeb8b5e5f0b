"""What both training phases share at every step: its batch, randomness and precision, and how losses are reported."""

import zlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from training.data.corpus import Batch, Batches
from training.distributed import padded_alike, rank, world

Losses = dict[str, float]
Phase = Literal["damsm", "gan"]
Network = TypeVar("Network", bound=torch.nn.Module)


def seed_step(seed: int, phase: Phase, number: int) -> None:
    """Derives all of torch's randomness of one step from the run's seed, so that a resumed run draws the same."""
    torch.manual_seed(zlib.crc32(f"{seed} {phase} {number}".encode()))


def own_batch(corpus: Batches, seed: int, number: int, size: int, device: torch.device) -> Batch:
    """Takes this process's `size` pictures of batch `number`; captions are padded alike in all processes."""
    batch = corpus.batch(seed, number, size, rank(), world()).to(device)
    return batch._replace(tokens=padded_alike(batch.tokens), altered=padded_alike(batch.altered))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Autocast to float16 where `precision` is fp16, to bfloat16 where it is bf16, or auto and the device made for it;
    otherwise nothing.
    """
    if precision == "fp16":
        return torch.autocast(device.type, dtype=torch.float16)
    enabled = precision == "bf16" or (precision == "auto" and multiplies_in_bf16(device.type))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


@cache
def multiplies_in_bf16(device: str) -> bool:
    """Whether a device ("cpu", "cuda") has instructions for products in bfloat16; others are far slower at them."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Keeps fp16's small gradients from vanishing, and leaves out updates in which they overflow; otherwise nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def backward(losses: dict[str, Tensor], scaler: torch.amp.GradScaler, parts: int = 1) -> None:
    """Adds the gradients of the sum of `losses` to the networks', of one of several `parts` of a batch its share."""
    scaler.scale(torch.stack(list(losses.values())).sum() / parts).backward()


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> bool:
    """Makes the update that the gradients ask for, unless they overflow, and clears them; whether it was made."""
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return bool(scaler.get_scale() >= scale)


def channels_last(network: Network, device: torch.device) -> Network:
    """Moves a network to `device` with its convolutions' weights in the layout that is fastest there."""
    return network.to(device=device).to(memory_format=torch.channels_last)


def states(trainer: object, names: Iterable[str]) -> dict[str, Any]:
    """The state dicts of a trainer's attributes, by name."""
    return {name: getattr(trainer, name).state_dict() for name in names}


def load_states(trainer: object, names: Iterable[str], state: dict[str, Any]) -> None:
    """Takes up what `states` returned; a scaler of losses has none where it was switched off."""
    for name in names:
        if state.get(name):
            getattr(trainer, name).load_state_dict(state[name])


class Trainer(Protocol):
    """One phase of training: it makes steps, and can be stored and taken up again."""

    def step(self, number: int) -> Losses:
        """Makes step `number`, counted from 0; its losses by name."""

    @property
    def learning_rates(self) -> dict[str, float]:
        """The rates of the next step, by name."""

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors and plain values."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what `state` returned."""
