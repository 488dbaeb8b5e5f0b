"""Conditioning augmentation and the adaptive block."""

import torch

from tests.training.random_weights import randomised
from training.models.conditioning import AdaptiveBlock, ConditioningAugmentation


def test_condition_is_drawn_from_the_gaussian_it_reports() -> None:
    torch.manual_seed(0)
    augmentation = ConditioningAugmentation(4)
    sentence = torch.randn(1, 4).expand(200_000, -1)
    with torch.no_grad():
        drawn = augmentation(sentence, torch.randn(200_000, 4))
    torch.testing.assert_close(drawn.condition.mean(0), drawn.mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.condition.var(0), drawn.log_variance[0].exp(), atol=0, rtol=0.03)


def test_zero_noise_gives_the_mean() -> None:
    augmentation = ConditioningAugmentation(4)
    drawn = augmentation(torch.randn(3, 4), torch.zeros(3, 4))
    assert torch.equal(drawn.condition, drawn.mean)


def test_adaptive_block_keeps_each_sign_and_at_most_doubles() -> None:
    """Equation: s' = ŝ + a ⊙ ŝ with a in (−1, 1)."""
    block = AdaptiveBlock(channels=6, side=8, width=5)
    randomised(block, scale=3.0)
    sentence = torch.randn(50, 5)
    with torch.no_grad():
        ratio = block(torch.randn(50, 6, 8, 8), sentence) / sentence
    assert ((ratio >= 0) & (ratio <= 2)).all()
    assert ratio.std() > 0.1


def test_adaptive_block_sees_every_place_of_the_map_and_keeps_channels_apart_in_the_summary() -> None:
    block = AdaptiveBlock(channels=6, side=8, width=5)
    assert block.summary.weight.shape == (6, 1, 8, 8)
    features = torch.zeros(1, 6, 8, 8, requires_grad=True)
    block.summary(features)[0, 2].sum().backward()
    assert features.grad is not None
    assert (features.grad[0, 2] != 0).all()
    assert not features.grad[0, [0, 1, 3, 4, 5]].any()
