"""The model that the tests share: too small to draw anything, but every input affects every output."""

from pathlib import Path

import torch

from t2i_engine.backend_selection import row_lacks
from t2i_engine.formats import FORMATS
from t2i_engine.manifest import ModelSizes
from t2i_engine.parity import GateSize
from training.checkpoint import save_checkpoint
from training.models.text_to_image import TextToImage

WORDS = ("<end>", "this", "bird", "a", "has", "yellow", "red", "blue", "belly", "wings", "black", "and", "short")
SIZES = ModelSizes(
    resolution=32,
    base_channels=4,
    noise_width=8,
    sentence_width=6,
    embedding_width=300,
    vocabulary_size=len(WORDS),
    conditioning_augmentation=True,
    adaptive_block=True,
)

CAPTIONS = (
    "a red bird",
    "this bird has yellow wings",
    "a blue belly and short black wings",
    "this bird has a red belly",
)
RUNS_HERE = tuple(
    row for row in FORMATS if "cpu" in row.devices and row_lacks(row, "cpu") is None
)  # the tiny bundle's formats: no GPU is needed


SMALL_GATE = GateSize(rounds=1, longest=8, pairs=32, emulated=8)
"""For tests of damage that any case shows; the tiny bundle has passed captions of every length."""


def make_model(sizes: ModelSizes = SIZES) -> TextToImage:
    """A model with random weights; a fresh one would ignore its conditions, because affines start as the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TextToImage(sizes)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def write_checkpoint(path: Path) -> Path:
    """Writes the model as training would, and returns the path."""
    save_checkpoint(path, SIZES, WORDS, make_model().state_dict(), {"dataset": "none", "steps": 0})
    return path
