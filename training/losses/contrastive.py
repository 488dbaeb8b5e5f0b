"""Negatives within a batch, and contribution 3: NT-Xent of generated pictures against captions and real pictures
(docs/method.md, eq. 3-5).

N is the batch of all processes that train together (distributed.py); B is this process's share of it, its rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.distributed import gathered, share


class HardNegatives(NamedTuple):
    """Sentence vectors of the A hard negatives of each picture in a batch (data/hard_negatives.py)."""

    vectors: Tensor
    """Float (B, A, S)."""
    valid: Tensor
    """Bool (B, A): false where a picture has fewer than A."""

    def similarities(self, anchors: Tensor) -> Tensor:
        """Cosines with each picture's own unit-length `anchors` (B, S): float (B, A), −∞ where not valid."""
        cosines = torch.einsum("bs,bas->ba", anchors, F.normalize(self.vectors.float(), dim=2))
        return cosines.masked_fill(~self.valid, float("-inf"))


def related_pairs(tokens: Tensor, groups: Tensor) -> Tensor:
    """Marks pairs that must not be negatives: equal captions, and captions of one group.

    `tokens` is int64 (B, T), `groups` int64 (B): the picture that a caption belongs to, or its class where captions
    describe classes. Returns bool (B, N), true for each row's own column.
    """
    same_caption = (tokens[:, None] == gathered(tokens)[None]).all(-1)
    same_group = groups[:, None] == gathered(groups)[None]
    return same_caption | same_group


def own_columns(related: Tensor) -> Tensor:
    """The column of each row of `related` (B, N) that stands for the row itself: int64 (B)."""
    return share(torch.arange(related.shape[1], device=related.device))


def mismatched_partners(related: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """Chooses for every row the next `count` of N, cyclically, that are unrelated to it (DF-GAN: simply the next one).

    `related` is bool (B, N). Returns M = min(count, N) partners, int64 (B, M) in 0..N − 1, and which of them are valid,
    bool (B, M).
    """
    whole = related.shape[1]
    steps = torch.arange(whole, device=related.device)
    cyclic = (own_columns(related)[:, None] + steps[None] + 1) % whole  # row i: i+1, i+2, …, i
    unrelated = ~related.gather(1, cyclic)
    first = unrelated.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    return cyclic.gather(1, first), unrelated.gather(1, first)


def nt_xent(
    anchors: Tensor, targets: Tensor, related: Tensor, temperature: float, hard: HardNegatives | None = None
) -> Tensor:
    """NT-Xent (eq. 3; Chen et al., SimCLR, 2020): cross-entropy of each anchor's own target among all targets.

    `anchors` and `targets` are float (B, S), compared by cosine divided by `temperature`. Negatives are the targets of
    all processes that are not `related`, bool (B, N), and each anchor's `hard` ones. With anchors f_img(x̂), this is
    L_text for targets f_text(s), and L_img for f_img(x).
    """
    candidates, anchors = gathered(F.normalize(targets.float(), dim=1)), F.normalize(anchors.float(), dim=1)
    hard_logits = None if hard is None else hard.similarities(anchors) / temperature
    return own_cross_entropy(anchors @ candidates.T / temperature, related, hard_logits)


def own_cross_entropy(logits: Tensor, related: Tensor, hard_logits: Tensor | None = None) -> Tensor:
    """Cross-entropy of each row's own column of `logits` (B, N) among those that it is not `related` to (B, N).

    `hard_logits` (B, A) are further negatives of each row.
    """
    own = own_columns(related)
    others = related.scatter(1, own[:, None], torch.zeros_like(related))
    logits = logits.masked_fill(others, float("-inf"))
    return F.cross_entropy(logits if hard_logits is None else torch.cat([logits, hard_logits], dim=1), own)
