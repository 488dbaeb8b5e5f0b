"""Contribution 3: NT-Xent of generated pictures against captions and against real pictures (method.md, eq. 3-5)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.distributed import gathered
from training.losses.pairs import own_columns


def nt_xent(anchors: Tensor, targets: Tensor, related: Tensor, temperature: float) -> Tensor:
    """−log of the share that anchor i gives to target i among all targets, averaged (eq. 3; Chen et al., SimCLR, 2020).

    `anchors` and `targets` are float (B, S), compared by cosine, divided by `temperature`; the negatives are the
    targets of all processes. Pairs marked in `related`, bool (B, N), are none. With anchors f_img(x̂) it is L_text for
    targets f_text(s), L_img for f_img(x).
    """
    candidates = gathered(F.normalize(targets.float(), dim=1))
    return own_cross_entropy(F.normalize(anchors.float(), dim=1) @ candidates.T / temperature, related)


def own_cross_entropy(logits: Tensor, related: Tensor) -> Tensor:
    """How surely each row of `logits` (B, N) tells its own column from all that it is not `related` to (B, N)."""
    own = own_columns(related)
    others = related.scatter(1, own[:, None], torch.zeros_like(related))
    return F.cross_entropy(logits.masked_fill(others, float("-inf")), own)
