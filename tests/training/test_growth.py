"""Growth: a generator for larger pictures draws what the smaller one would draw from a doubled map."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from t2i_engine.bundle import ModelSizes
from tests.tiny_model import make_model
from training.growth import grown
from training.models.text_to_image import TextToImage


def feeds(sizes: ModelSizes) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(2, width, generator=random)
        for width in (sizes.noise_width, sizes.sentence_width, sizes.sentence_width)
    )


@pytest.mark.parametrize(("side", "place"), [(32, 0), (64, 1)])
def test_a_grown_generator_draws_as_before_from_a_doubled_map(sizes: ModelSizes, side: int, place: int) -> None:
    """The smaller one's blocks, with a doubled map before number `place`: the first that narrows comes behind it."""
    small = make_model(replace(sizes, picture_side=side))
    large = grown(small, 2 * side)
    assert large.sizes == replace(small.sizes, picture_side=2 * side)
    noise, sentence, condition_noise = feeds(sizes)
    generator, adaptive_blocks = small.generator, large.generator.adaptive_blocks
    assert generator.augmentation is not None
    assert adaptive_blocks is not None
    with torch.inference_mode():
        image = large.generator(noise, sentence, condition_noise).image
        augmented = generator.augmentation(sentence, condition_noise).condition
        features = generator.fc(noise).unflatten(1, (-1, 4, 4))
        for number, block in enumerate(generator.GBlocks):
            if number == place:
                features = F.interpolate(features, scale_factor=2)
            attended = adaptive_blocks[number + (number >= place)](features, augmented)
            features = block(features, torch.cat([noise, attended], dim=1), folded=False)
        expected = generator.to_rgb(features)
    assert image.shape == (2, 3, 2 * side, 2 * side)
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


def test_a_spread_summary_sees_the_same_in_a_doubled_map(sizes: ModelSizes) -> None:
    model = make_model(replace(sizes, picture_side=64))
    large = grown(model, 128)
    small_blocks, large_blocks = model.generator.adaptive_blocks, large.generator.adaptive_blocks
    assert small_blocks is not None
    assert large_blocks is not None
    features, sentence = torch.randn(2, 32, 8, 8), torch.randn(2, sizes.sentence_width)
    with torch.inference_mode():
        before = small_blocks[1](features, sentence)
        after = large_blocks[2](F.interpolate(features, scale_factor=2), sentence)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def test_growing_twice_reaches_four_times_the_side_and_changes_nothing_else(sizes: ModelSizes) -> None:
    model = make_model(sizes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    large = grown(model, 4 * sizes.picture_side)
    assert large.sizes.picture_side == 4 * sizes.picture_side
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    text = TextToImage.state_dict(large)["text_encoder.rnn.weight_ih_l0"]
    assert torch.equal(text, before["text_encoder.rnn.weight_ih_l0"])
