"""Which members of a batch may be each other's negatives or mismatches (method.md, "Contrastive losses")."""

import torch
from torch import Tensor


def related_pairs(tokens: Tensor, groups: Tensor) -> Tensor:
    """Marks the pairs that say or show the same: equal captions, or captions of one group.

    `tokens` is int64 (B, T), `groups` int64 (B): the picture a caption belongs to, or its class where captions describe
    classes. Returns bool (B, B), true on the diagonal.
    """
    same_caption = (tokens[:, None] == tokens[None]).all(-1)
    same_group = groups[:, None] == groups[None]
    return same_caption | same_group


def mismatched_partners(related: Tensor) -> tuple[Tensor, Tensor]:
    """Chooses for every row the next row, cyclically, that it is not related to (DF-GAN takes the next, always).

    `related` is bool (B, B). Returns the partners, int64 (B), and whether there is one, bool (B).
    """
    batch = len(related)
    rows = torch.arange(batch, device=related.device)
    cyclic = (rows[:, None] + rows[None] + 1) % batch  # row i: i+1, i+2, …, i
    unrelated = ~related.gather(1, cyclic)
    first = unrelated.int().argmax(1)
    return cyclic[rows, first], unrelated.any(1)
