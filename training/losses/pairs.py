"""Which members of a batch may be each other's negatives or mismatches (method.md, "Contrastive losses").

N is the batch of all processes that train together (distributed.py), B this process's share of it, its rows.
"""

import torch
from torch import Tensor

from training.distributed import gathered, share


def related_pairs(tokens: Tensor, groups: Tensor) -> Tensor:
    """Marks the pairs that say or show the same: equal captions, or captions of one group.

    `tokens` is int64 (B, T), `groups` int64 (B): the picture a caption belongs to, or its class where captions describe
    classes. Returns bool (B, N), true on the diagonal.
    """
    same_caption = (tokens[:, None] == gathered(tokens)[None]).all(-1)
    same_group = groups[:, None] == gathered(groups)[None]
    return same_caption | same_group


def own_columns(related: Tensor) -> Tensor:
    """The column in which each row of `related` (B, N) meets itself: int64 (B)."""
    return share(torch.arange(related.shape[1], device=related.device))


def mismatched_partners(related: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """Chooses for every row the next `count` of N, cyclically, that it is not related to (DF-GAN takes one, the next).

    `related` is bool (B, N). Returns M = min(count, N) partners, int64 (B, M) in 0..N − 1, and which of them there are,
    bool (B, M).
    """
    whole = related.shape[1]
    steps = torch.arange(whole, device=related.device)
    cyclic = (own_columns(related)[:, None] + steps[None] + 1) % whole  # row i: i+1, i+2, …, i
    unrelated = ~related.gather(1, cyclic)
    first = unrelated.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    return cyclic.gather(1, first), unrelated.gather(1, first)
