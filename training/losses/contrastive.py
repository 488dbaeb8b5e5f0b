"""Contribution 3: NT-Xent of generated pictures against captions and against real pictures (method.md, eq. 3-5)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(anchors: Tensor, targets: Tensor, related: Tensor, temperature: float) -> Tensor:
    """−log of the share that anchor i gives to target i among all targets, averaged (eq. 3; Chen et al., SimCLR, 2020).

    `anchors` and `targets` are float (B, S), compared by cosine, divided by `temperature`. Pairs marked in `related`,
    bool (B, B), are no negatives. With anchors f_img(x̂) it is L_text for targets f_text(s), L_img for f_img(x).
    """
    similarities = F.normalize(anchors.float(), dim=1) @ F.normalize(targets.float(), dim=1).T / temperature
    positives = torch.arange(len(anchors), device=anchors.device)
    return F.cross_entropy(without_related(similarities, related), positives)


def without_related(similarities: Tensor, related: Tensor) -> Tensor:
    """Removes related pairs, but for the diagonal, from a matrix of similarities (B, B) by setting them to −∞."""
    diagonal = torch.eye(len(related), dtype=torch.bool, device=related.device)
    return similarities.masked_fill(related & ~diagonal, float("-inf"))
