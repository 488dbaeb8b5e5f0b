"""Hinge losses of a one-way, text-conditional discriminator and its gradient penalty (DF-GAN, Tao et al., 2022)."""

from collections.abc import Callable

import torch
from torch import Tensor


def real_hinge(logits: Tensor) -> Tensor:
    """E[max(0, 1 − D)], which pushes D above 1 for real, matching pairs. `logits` is float (B)."""
    return torch.relu(1 - logits.float()).mean()


def fake_hinge(logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """E[max(0, 1 + D)], which pushes D below −1 for generated or mismatched pairs. `logits` is float (B).

    `weights`, float (B), weight the members of the batch; the mean is over B all the same.
    """
    losses = torch.relu(1 + logits.float())
    return (losses if weights is None else losses * weights).mean()


def generator_loss(logits: Tensor) -> Tensor:
    """−E[D], which raises the logits of generated images. `logits` is float (B)."""
    return -logits.float().mean()


def matching_aware_gradient_penalty(
    discriminator: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    sentence: Tensor,
    weight: float = 2.0,
    power: float = 6.0,
) -> Tensor:
    """Weight · E[g^power], where g is the norm of D's gradient with respect to real image and sentence (eq. 8).

    `image` is float (B, 3, R, R), `sentence` float (B, S). Both gradients are concatenated, as in DF-GAN's code; its
    paper writes a sum of two norms.
    """
    image = image.detach().requires_grad_()
    sentence = sentence.detach().requires_grad_()
    logits = discriminator(image, sentence)
    gradients = torch.autograd.grad(logits.float().sum(), (image, sentence), create_graph=True)
    squared_norm = torch.stack([g.float().flatten(1).square().sum(1) for g in gradients]).sum(0)
    # From g², because the derivative of the square root is infinite at 0.
    return weight * squared_norm.pow(power / 2).mean()
