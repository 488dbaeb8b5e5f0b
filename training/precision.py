"""Mixed precision: which precision a device computes in, and loss scaling for float16."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache

import torch
from torch import Tensor


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Autocast to float16 for fp16, to bfloat16 for bf16, and for auto on devices made for it; otherwise none."""
    computed = computed_precision(device, precision)
    dtype = torch.float16 if computed == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=computed != "fp32")


def computed_precision(device: torch.device, precision: str) -> str:
    """fp32, bf16 or fp16: what a config's `precision` means on a device."""
    if precision != "auto":
        return precision
    return "bf16" if multiplies_in_bf16(device.type) else "fp32"


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


def backward(losses: Mapping[str, Tensor], scaler: torch.amp.GradScaler, parts: int = 1) -> None:
    """Accumulates the gradients of the sum of `losses`, divided by the number of `parts` that make an update."""
    scaler.scale(torch.stack(list(losses.values())).sum() / parts).backward()


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Applies the gradients, unless they overflow, and clears them."""
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
