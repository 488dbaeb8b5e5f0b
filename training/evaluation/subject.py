"""What is measured: a bundle on any of its backends, or a checkpoint in PyTorch."""

from dataclasses import dataclass
from pathlib import Path

import torch

from t2i_engine.backend_selection import AUTO
from t2i_engine.engine import Engine
from t2i_engine.errors import OptionError
from t2i_engine.sampler import Sampler
from t2i_engine.tokenizer import Tokenizer
from training.checkpoint import load_model
from training.sampling import network_sampler


@dataclass(frozen=True)
class Subject:
    """A sampler, with what a report calls it."""

    name: str
    runs_as: str
    """Format, device and backend, for the report."""
    sampler: Sampler

    @property
    def resolution(self) -> int:
        """R of its pictures."""
        return self.sampler.sizes.resolution


def open_subject(model: str, backend: str = AUTO, precision: str = AUTO, device: str = AUTO) -> Subject:
    """Opens a checkpoint (a .pt file) or a bundle (its name or folder). Raises a `UserError` where that fails."""
    if not model.endswith(".pt"):
        engine = Engine.open(model, backend, precision, device)
        return Subject(engine.bundle.name, str(engine.selection), engine)
    if backend not in (AUTO, "pytorch") or precision not in (AUTO, "fp32"):
        raise OptionError(
            f"a checkpoint is measured in PyTorch and fp32, not with backend {backend!r} and precision {precision!r}; "
            "export it and measure the bundle"
        )
    if device == AUTO:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = load_model(Path(model))
    network = trained.model.to(device)
    runs_as = f"checkpoint, averaged weights (fp32) on {device} with torch {torch.__version__}"
    sampler = network_sampler(network.sizes, Tokenizer(trained.words), network.text_encoder, network.generator)
    return Subject(Path(model).name, runs_as, sampler)
