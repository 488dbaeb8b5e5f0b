"""Contribution 3: NT-Xent of generated pictures against captions and against real pictures (method.md, eq. 3-5)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.distributed import gathered
from training.losses.pairs import own_columns


class HardNegatives(NamedTuple):
    """Vectors of captions that do not fit, A for each picture of a batch (data/altered.py)."""

    vectors: Tensor
    """Float (B, A, S)."""
    there: Tensor
    """Bool (B, A): which of them there are."""

    def similarities(self, anchors: Tensor) -> Tensor:
        """Cosines with each picture's own `anchors` (B, S), of unit length: float (B, A), −∞ where there is none."""
        cosines = torch.einsum("bs,bas->ba", anchors, F.normalize(self.vectors.float(), dim=2))
        return cosines.masked_fill(~self.there, float("-inf"))


def nt_xent(
    anchors: Tensor, targets: Tensor, related: Tensor, temperature: float, hard: HardNegatives | None = None
) -> Tensor:
    """−log of the share that anchor i gives to target i among all targets, averaged (eq. 3; Chen et al., SimCLR, 2020).

    `anchors` and `targets` are float (B, S), compared by cosine, divided by `temperature`; the negatives are the
    targets of all processes, and each anchor's `hard` ones. Pairs marked in `related`, bool (B, N), are none. With
    anchors f_img(x̂) it is L_text for targets f_text(s), L_img for f_img(x).
    """
    candidates, anchors = gathered(F.normalize(targets.float(), dim=1)), F.normalize(anchors.float(), dim=1)
    nearly = None if hard is None else hard.similarities(anchors) / temperature
    return own_cross_entropy(anchors @ candidates.T / temperature, related, nearly)


def own_cross_entropy(logits: Tensor, related: Tensor, further: Tensor | None = None) -> Tensor:
    """How surely each row of `logits` (B, N) tells its own column from all that it is not `related` to (B, N).

    `further` (B, A) are the logits of what is in no column.
    """
    own = own_columns(related)
    others = related.scatter(1, own[:, None], torch.zeros_like(related))
    logits = logits.masked_fill(others, float("-inf"))
    return F.cross_entropy(logits if further is None else torch.cat([logits, further], dim=1), own)
