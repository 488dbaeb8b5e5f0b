"""Sizes of models, small enough for a test, and DF-GAN's; a finished run."""

from dataclasses import replace
from pathlib import Path

import pytest

from t2i_engine.manifest import ModelSizes
from tests.training.runs import TINY, train

SIZES = ModelSizes(
    resolution=32,
    base_channels=4,
    noise_width=6,
    sentence_width=8,
    embedding_width=5,
    vocabulary_size=20,
    conditioning_augmentation=True,
    adaptive_block=True,
)


@pytest.fixture
def sizes() -> ModelSizes:
    return SIZES


@pytest.fixture
def dfgan_sizes() -> ModelSizes:
    """DF-GAN as published, without this method's contributions."""
    return replace(
        SIZES,
        resolution=256,
        base_channels=32,
        noise_width=100,
        sentence_width=256,
        conditioning_augmentation=False,
        adaptive_block=False,
    )


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    result = train(TINY, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder
