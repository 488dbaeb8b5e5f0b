"""Image encoders: shapes, and a backbone that stays frozen where it is pre-trained."""

import pytest
import torch

from training.models.image_encoder import BackboneName, ImageEncoder, SmallCNN, open_backbone


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


@pytest.mark.parametrize("name", ["cnn", "efficientnet-lite0"])
def test_an_encoder_for_gradients_computes_the_same_and_leaves_the_original(name: BackboneName) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(open_backbone(name), sentence_width=10).eval().requires_grad_(False)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    encoded = encoder.for_gradients()(image)
    for found, expected in zip(encoded, encoder(image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    encoded.picture.sum().backward()
    assert image.grad is not None
    assert image.grad.any()
    after = encoder.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
