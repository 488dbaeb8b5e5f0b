"""What is measured: a bundle on any of its backends, or a checkpoint in PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from t2i_engine import latents
from t2i_engine.backend_selection import AUTO
from t2i_engine.bundle import ModelSizes
from t2i_engine.engine import Engine
from t2i_engine.errors import OptionError
from t2i_engine.tokenizer import Tokenizer, pad
from training.checkpoint import load_model
from training.models.generator import Generator
from training.models.pixels import to_pixels
from training.models.text_encoder import TextEncoder

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Subject:
    """A model that draws a picture for each caption and seed."""

    name: str
    runs_as: str
    """Format, device and backend, for the report."""
    side: int
    tokenizer: Tokenizer
    draw: Callable[[Sequence[Sequence[int]], Sequence[int]], Pixels]
    """Token ids of B captions and B seeds to pixels uint8 (B, R, R, 3)."""


def open_subject(model: str, backend: str = AUTO, precision: str = AUTO, device: str = AUTO) -> Subject:
    """Opens a checkpoint (a .pt file) or a bundle (its name or folder). Raises a `UserError` where that fails."""
    if not model.endswith(".pt"):
        return subject_of(Engine.open(model, backend, precision, device))
    if backend not in (AUTO, "pytorch") or precision not in (AUTO, "fp32"):
        raise OptionError(
            f"a checkpoint is measured in PyTorch and fp32, not with backend {backend!r} and precision {precision!r}; "
            "export it and measure the bundle"
        )
    if device == AUTO:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return _checkpoint_subject(Path(model), torch.device(device))


def subject_of(engine: Engine) -> Subject:
    """The bundle that an engine has opened, as that engine runs it."""

    def draw(ids: Sequence[Sequence[int]], seeds: Sequence[int]) -> Pixels:
        tokens, lengths = pad(ids)
        sentences = engine.text_encoder.run({"tokens": tokens, "lengths": lengths}, ["sentence"])["sentence"]
        return engine.draw(sentences, seeds)

    side = engine.bundle.sizes.resolution
    return Subject(engine.bundle.name, str(engine.selection), side, engine.tokenizer, draw)


def _checkpoint_subject(path: Path, device: torch.device) -> Subject:
    trained = load_model(path)
    model = trained.model.to(device)
    runs_as = f"checkpoint, averaged weights (fp32) on {device.type} with torch {torch.__version__}"
    tokenizer = Tokenizer(trained.words)
    return subject_of_networks(path.name, runs_as, model.sizes, tokenizer, model.text_encoder, model.generator)


def subject_of_networks(
    name: str, runs_as: str, sizes: ModelSizes, tokenizer: Tokenizer, text_encoder: TextEncoder, generator: Generator
) -> Subject:
    """Networks in evaluation mode on one device, as they are whenever something is drawn."""
    device = generator.fc.weight.device

    @torch.inference_mode()
    def draw(ids: Sequence[Sequence[int]], seeds: Sequence[int]) -> Pixels:
        tokens, lengths = (torch.from_numpy(part) for part in pad(ids))
        sentence = text_encoder(tokens.to(device), lengths).sentence
        drawn = latents.draw(seeds, sizes.noise_width, sizes.sentence_width)
        noise, condition_noise = (torch.from_numpy(part).to(device) for part in (drawn.noise, drawn.condition_noise))
        pixels: Pixels = to_pixels(generator(noise, sentence, condition_noise).image).cpu().numpy()
        return pixels

    return Subject(name, runs_as, sizes.resolution, tokenizer, draw)
