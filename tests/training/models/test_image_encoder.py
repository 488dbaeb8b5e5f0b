"""Image encoders: shapes, and a backbone that stays frozen where it is pre-trained."""

import pytest
import torch

from training.models.image_encoder import ImageEncoder, InceptionV3, SmallCNN


@pytest.mark.parametrize(("side", "regions"), [(32, 16), (64, 64)])
def test_small_cnn_gives_regions_and_a_picture_vector(side: int, regions: int) -> None:
    encoded = ImageEncoder(SmallCNN(), sentence_width=10)(torch.zeros(2, 3, side, side))
    assert encoded.regions.shape == (2, 10, regions)
    assert encoded.picture.shape == (2, 10)


def test_inception_is_frozen_and_its_heads_learn() -> None:
    encoder = ImageEncoder(InceptionV3(pretrained=False), sentence_width=10).train()
    image = torch.randn(2, 3, 64, 64, requires_grad=True)
    encoded = encoder(image)
    assert encoded.regions.shape == (2, 10, 17 * 17)
    assert encoded.picture.shape == (2, 10)
    (encoded.regions.sum() + encoded.picture.sum()).backward()
    assert image.grad is not None
    assert image.grad.any()
    learning = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert learning == {"region_head.weight", "picture_head.weight", "picture_head.bias"}
    assert not any(module.training for module in encoder.backbone.modules())
