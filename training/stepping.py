"""What both training phases share at every step: its randomness, its precision, and how its losses are reported."""

import zlib
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Literal, Protocol, TypeVar

import torch

Losses = dict[str, float]
Phase = Literal["damsm", "gan"]
Network = TypeVar("Network", bound=torch.nn.Module)


def seed_step(seed: int, phase: Phase, number: int) -> None:
    """Derives all of torch's randomness of one step from the run's seed, so that a resumed run draws the same."""
    torch.manual_seed(zlib.crc32(f"{seed} {phase} {number}".encode()))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Autocast to bfloat16 where `precision` is bf16, or auto and the device is made for it; otherwise nothing."""
    enabled = precision == "bf16" or (precision == "auto" and multiplies_in_bf16(device.type))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


@cache
def multiplies_in_bf16(device: str) -> bool:
    """Whether a device ("cpu", "cuda") has instructions for products in bfloat16; others are far slower at them."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def channels_last(network: Network, device: torch.device) -> Network:
    """Moves a network to `device` with its convolutions' weights in the layout that is fastest there."""
    return network.to(device=device).to(memory_format=torch.channels_last)


class Trainer(Protocol):
    """One phase of training: it makes steps, and can be stored and taken up again."""

    def step(self, number: int) -> Losses:
        """Makes step `number`, counted from 0; its losses by name."""

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors and plain values."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what `state` returned."""
