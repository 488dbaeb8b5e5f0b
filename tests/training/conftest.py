"""Models small enough for a test, with every weight drawn at random: at their start text has no influence."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from t2i_engine.bundle import ModelSizes

SIZES = ModelSizes(
    picture_side=32,
    base_width=4,
    noise_width=6,
    sentence_width=8,
    embedding_width=5,
    vocabulary_size=20,
    conditioning_augmentation=True,
    adaptive_block=True,
)

Randomise = Callable[[torch.nn.Module], torch.nn.Module]


@pytest.fixture
def sizes() -> ModelSizes:
    return SIZES


@pytest.fixture
def dfgan_sizes() -> ModelSizes:
    """DF-GAN as published, without this method's contributions."""
    return replace(
        SIZES,
        picture_side=256,
        base_width=32,
        noise_width=100,
        sentence_width=256,
        conditioning_augmentation=False,
        adaptive_block=False,
    )
