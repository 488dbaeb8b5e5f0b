"""A trained model for pictures of twice the side: what was learned at 64² is not learned again at 128².

A block comes in at the end, as in progressive growing (Karras et al., 2018), with half as many channels:
`base_channels` is halved and `max_channel_multiple` doubled, so that everything before it stays as it is. It first
learns to draw what the smaller generator draws, enlarged; then the whole goes on training. The discriminator gets its
mirror image in front.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from t2i_engine.bundle import ModelSizes
from training.models.generator import Generator
from training.models.text_to_image import TextToImage

STEPS = 300
LEARNING_RATE = 5e-3

Sentences = Callable[[int], Tensor]
"""Sentence vectors, float (B, S), of the captions of one batch, by its number."""


def grown_sizes(sizes: ModelSizes, side: int) -> ModelSizes:
    """The sizes of a model for pictures of `side`, a multiple of its own by a power of two."""
    times = side // sizes.resolution
    return replace(
        sizes,
        resolution=side,
        base_channels=sizes.base_channels // times,
        max_channel_multiple=sizes.max_channel_multiple * times,
    )


def grown(model: TextToImage, side: int, sentences: Sentences) -> TextToImage:
    """The model for pictures of `side`, a multiple of its own by a power of two; `model` stays as it is."""
    while model.sizes.resolution < side:
        model = _doubled(model, sentences)
    return model


def grown_discriminator(state: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a larger discriminator: its last blocks are those of `state`, and what is before them is `fresh`."""
    shift = _blocks(fresh) - _blocks(state)
    if not shift:
        return dict(state)
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("conv_img.")}
    return {**fresh, **{_renumbered(name, shift): tensor for name, tensor in kept.items()}}


def _renumbered(name: str, shift: int) -> str:
    part, number, *rest = name.split(".")
    return ".".join([part, str(int(number) + shift), *rest]) if part == "DBlocks" else name


def _blocks(state: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in state if name.startswith("DBlocks.")})


def _doubled(model: TextToImage, sentences: Sentences) -> TextToImage:
    larger = TextToImage(grown_sizes(model.sizes, 2 * model.sizes.resolution))
    kept = {name: tensor for name, tensor in model.state_dict().items() if ".to_rgb." not in name}
    larger.load_state_dict(larger.state_dict() | kept)
    _learn_to_enlarge(larger.generator, model.generator, set(kept), sentences)
    return larger.train(model.training)


def _learn_to_enlarge(larger: Generator, smaller: Generator, kept: set[str], sentences: Sentences) -> None:
    """Fits those layers of `larger` that were not kept to the pictures of `smaller`, by least squares."""
    new = [tensor for name, tensor in larger.named_parameters() if f"generator.{name}" not in kept]
    larger.requires_grad_(False)
    for tensor in new:
        tensor.requires_grad_(True)
    optimizer = torch.optim.Adam(new, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for number in range(STEPS):
        with torch.no_grad():
            sentence = sentences(number)
            noise = torch.randn(len(sentence), smaller.fc.in_features)
            epsilon = torch.randn_like(sentence)
            small = smaller(noise, sentence, epsilon).image
            enlarged = F.interpolate(small, scale_factor=2, mode="bilinear")
        loss = F.mse_loss(larger(noise, sentence, epsilon).image, enlarged)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    larger.requires_grad_(True)
