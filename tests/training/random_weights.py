"""Random weights for modules that start as the identity, so that every input has an influence."""

import torch
from torch import nn


def randomised(module: nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Adds normal noise to every parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(scale * noise.to(parameter.device))
