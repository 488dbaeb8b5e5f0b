"""A trained generator for pictures of twice the side: what was learned at 64² is not learned again at 128².

Behind the first block that keeps its width a new one comes in that only doubles the map, so that all others draw the
same at twice the side; training goes on from there. (Progressive growing, Karras et al., 2018, adds blocks at the end;
DF-GAN's widths leave room at the front alone.)
"""

from dataclasses import replace

import torch
from torch import Tensor

from training.models.generator import channel_widths
from training.models.text_to_image import TextToImage


def grown(model: TextToImage, side: int) -> TextToImage:
    """The model for pictures of `side`, a multiple of its own by a power of two; `model` stays as it is."""
    while model.sizes.picture_side < side:
        model = _doubled(model)
    return model


def _doubled(model: TextToImage) -> TextToImage:
    sizes = replace(model.sizes, picture_side=2 * model.sizes.picture_side)
    before, after = (channel_widths(s.picture_side, s.base_width) for s in (model.sizes, sizes))
    place = 1 if before[0] == before[1] else 0  # of the new block, which keeps its width, as does the one before it
    assert after == [before[0], *before]
    larger = TextToImage(sizes)
    state = larger.state_dict()
    for name, tensor in model.state_dict().items():
        state[_renumbered(name, place)] = _spread(name, tensor, place)
    for name in (f"generator.GBlocks.{place}.c2.weight", f"generator.GBlocks.{place}.c2.bias"):
        state[name] = torch.zeros_like(state[name])  # shortcut + nothing: the map, doubled
    larger.load_state_dict(state)
    return larger.train(model.training)


def _renumbered(name: str, place: int) -> str:
    """The name of a tensor with blocks from `place` on one further."""
    parts = name.split(".")
    if parts[1] in ("GBlocks", "adaptive_blocks") and int(parts[2]) >= place:
        parts[2] = str(int(parts[2]) + 1)
    return ".".join(parts)


def _spread(name: str, tensor: Tensor, place: int) -> Tensor:
    """An adaptive block's summary, a kernel (C, 1, side, side), for a map whose pixels are each doubled to 2×2."""
    parts = name.split(".")
    if parts[1] == "adaptive_blocks" and int(parts[2]) >= place and parts[3:] == ["summary", "weight"]:
        return tensor.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 4
    return tensor
