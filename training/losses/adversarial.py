"""Hinge losses of a one-way, text-conditional discriminator and its gradient penalty (DF-GAN, Tao et al., 2022)."""

from collections.abc import Callable

import torch
from torch import Tensor


def real_hinge(logits: Tensor) -> Tensor:
    """E[max(0, 1 − D)]: what is real and matches should be above 1. `logits` is float (B)."""
    return torch.relu(1 - logits.float()).mean()


def fake_hinge(logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """E[max(0, 1 + D)]: what is generated or does not match should be below −1. `logits`, `weights` are float (B).

    `weights` of 0 leave out members of the batch; the mean stays one over B.
    """
    losses = torch.relu(1 + logits.float())
    return (losses if weights is None else losses * weights).mean()


def generator_loss(logits: Tensor) -> Tensor:
    """−E[D]: the generator raises the logits of its images. `logits` is float (B)."""
    return -logits.float().mean()


def matching_aware_gradient_penalty(
    discriminator: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    sentence: Tensor,
    weight: float = 2.0,
    power: float = 6.0,
) -> Tensor:
    """Computes weight · E[g^power], g the norm of D's gradient by real image and sentence, concatenated (eq. 8).

    `image` is float (B, 3, R, R), `sentence` float (B, S). So DF-GAN's code; its paper writes a sum of two norms.
    """
    image = image.detach().requires_grad_()
    sentence = sentence.detach().requires_grad_()
    logits = discriminator(image, sentence)
    gradients = torch.autograd.grad(logits.float().sum(), (image, sentence), create_graph=True)
    squared_norm = torch.stack([g.float().flatten(1).square().sum(1) for g in gradients]).sum(0)
    # g^6 from g² and without a root, whose derivative at 0 is not a number.
    return weight * squared_norm.pow(power / 2).mean()
