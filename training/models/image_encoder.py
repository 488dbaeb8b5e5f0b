"""DAMSM's image encoder: a backbone by name, and two heads into the text encoder's space (AttnGAN)."""

import contextlib
import copy
import sys
from typing import Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2i_engine.errors import UserError, unknown
from training.distributed import BatchNorm2d
from training.models.lite0 import open_lite0, speed_up

BackboneName = Literal["cnn", "efficientnet-lite0", "inception-v3"]


class BackboneError(UserError):
    """A backbone that is unknown, or whose pre-trained weights are not available."""


class EncodedImage(NamedTuple):
    """A batch of images, encoded."""

    regions: Tensor
    """Region features, float (B, S, h·w)."""
    picture: Tensor
    """Whole-picture vectors, float (B, S)."""


class SmallCNN(nn.Module):
    """A residual CNN, trained with the heads, for pictures unlike photographs: regions at stride 8, summary at 16.

    Pictures above 64² are downsampled to that, so that it serves a growing generator unchanged. The summary keeps 4 × 4
    places apart, because their mean cannot tell a white belly from white wings.
    """

    max_resolution = 64
    places = 4
    region_channels = 128
    place_channels = 256
    summary_channels = place_channels * places**2

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), BatchNorm2d(32), nn.ReLU())
        self.to_regions = nn.Sequential(_Residual(32, 64), _Residual(64, self.region_channels))
        self.to_summary = _Residual(self.region_channels, self.place_channels)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps `image` (B, 3, R, R) in [−1, 1] to at most 8 × 8 regions (B, 128, R/8, R/8), and a summary (B, 4096)."""
        side = self.max_resolution
        if image.shape[-1] > side:
            image = F.interpolate(image, size=(side, side), mode="bilinear", antialias=True)
        regions = self.to_regions(self.stem(image))
        return regions, F.adaptive_avg_pool2d(self.to_summary(regions), self.places).flatten(1)


class _Frozen(nn.Module):
    """Stays in evaluation mode, so that batch norm statistics are frozen too."""

    def train(self, mode: bool = True) -> Self:
        """Changes nothing."""
        return super().train(False)


class InceptionV3(_Frozen):
    """AttnGAN's backbone, a frozen ImageNet Inception-v3: regions from Mixed_6e (17 × 17), summary from its pool."""

    region_channels = 768
    summary_channels = 2048

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        from torchvision.models import Inception_V3_Weights, inception_v3
        from torchvision.models.feature_extraction import create_feature_extractor

        weights = Inception_V3_Weights.IMAGENET1K_V1 if pretrained else None
        try:
            with contextlib.redirect_stdout(sys.stderr):  # the hub announces its download there
                network = inception_v3(weights=weights, init_weights=False)
        except OSError as error:
            raise BackboneError(
                f"cannot download the ImageNet weights of inception-v3 ({error}); go online once, put the file into "
                "$TORCH_HOME/hub/checkpoints, or set damsm.image_encoder to efficientnet-lite0 or cnn"
            ) from error
        network.transform_input = False  # expects ImageNet-normalised images; ours are in [−1, 1], as AttnGAN's
        self.network = create_feature_extractor(
            network.eval(), return_nodes={"Mixed_6e": "regions", "avgpool": "summary"}
        )
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps `image` (B, 3, R, R) in [−1, 1], resized to 299, to regions (B, 768, 17, 17) and a summary (B, 2048)."""
        features = self.network(F.interpolate(image, size=(299, 299), mode="bilinear", antialias=True))
        return features["regions"], features["summary"].flatten(1)


class EfficientNetLite0(_Frozen):
    """A frozen ImageNet EfficientNet-Lite0, for machines without a network: regions at stride 16.

    It sees images at 224, ImageNet's resolution, but those up to 64 at 128: they show no more, and cost a third.
    """

    region_channels = 112
    summary_channels = 1280

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.network = open_lite0(pretrained)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps `image` (B, 3, R, R) in [−1, 1] to 14 × 14 or 8 × 8 regions (B, 112, h, w) and a summary (B, 1280)."""
        side = 224 if image.shape[-1] > 64 else 128
        resized = F.interpolate(image, size=(side, side), mode="bilinear", antialias=True)
        features, (regions,) = self.network.forward_intermediates(resized, indices=[3])
        return regions, self.network.forward_head(features)


Backbone = SmallCNN | EfficientNetLite0 | InceptionV3


def open_backbone(name: str, pretrained: bool = True) -> Backbone:
    """The backbone of this name. Without `pretrained`, nothing is downloaded: its weights come from elsewhere.

    Raises `UserError` if there is none, or if its pre-trained weights are not available.
    """
    match name:
        case "cnn":
            return SmallCNN()
        case "efficientnet-lite0":
            return EfficientNetLite0(pretrained)
        case "inception-v3":
            return InceptionV3(pretrained)
        case _:
            raise BackboneError(unknown("image encoder", name, get_args(BackboneName)))


class ImageEncoder(nn.Module):
    """Regions and the whole picture as vectors of the text encoder's space."""

    def __init__(self, backbone: Backbone, sentence_width: int = 256) -> None:
        super().__init__()
        self.backbone = backbone
        self.region_head = nn.Conv2d(backbone.region_channels, sentence_width, 1, bias=False)
        self.picture_head = nn.Linear(backbone.summary_channels, sentence_width)
        if isinstance(backbone, SmallCNN):
            self.register_load_state_dict_pre_hook(_spread_over_places)  # type: ignore[no-untyped-call]  # in PyTorch

    def forward(self, image: Tensor) -> EncodedImage:
        """Encodes `image` float (B, 3, R, R) in [−1, 1], of any precision."""
        regions, summary = self.backbone(image.float())  # antialiased resizing on a CPU does not support bfloat16
        return EncodedImage(self.region_head(regions).flatten(2), self.picture_head(summary))

    def for_gradients(self) -> "ImageEncoder":
        """Itself, frozen, or an equivalent copy that computes gradients of the picture faster."""
        encoder = copy.deepcopy(self) if isinstance(self.backbone, EfficientNetLite0) else self
        if isinstance(encoder.backbone, EfficientNetLite0):
            speed_up(encoder.backbone.network)
        return encoder.requires_grad_(False)


def _spread_over_places(encoder: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Reshapes a head that was trained on the mean over all places, keeping its function."""
    weight, places = state.get(f"{prefix}picture_head.weight"), SmallCNN.places**2
    if weight is not None and weight.shape[1] == SmallCNN.place_channels:
        state[f"{prefix}picture_head.weight"] = (weight / places).repeat_interleave(places, dim=1)


class _Residual(nn.Module):
    """Two 3×3 convolutions with batch norm, and a pooled 1×1 shortcut; halves the resolution (He et al., 2016)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
            BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.residual(features) + self.shortcut(F.avg_pool2d(features, 2)))
