"""DiffAugment against its paper, and that the discriminator sees no image without it."""

import pytest
import torch
from torch import Tensor

from tests.training.test_learning import config, damsm_phase, feed, gan_phase
from training.augmentation import RECTANGLE_UNIFORMS, RECTANGLES, diffaugment, random_erasing
from training.losses import matching_aware_gradient_penalty
from training.models.discriminator import Discriminator

NEUTRAL = 0.5
"""A number that leaves colours and place as they are; the cut is then in the middle."""


def uniforms(count: int, **changed: float) -> Tensor:
    names = ("brightness", "saturation", "contrast", "down", "right", "row", "column")
    return torch.tensor([[changed.get(name, NEUTRAL) for name in names]] * count)


def without_cut(image: Tensor) -> Tensor:
    """Whether a pixel lies beside the square that `NEUTRAL` cuts."""
    kept = torch.ones_like(image, dtype=torch.bool)
    quarter = image.shape[2] // 4
    kept[:, :, quarter : 3 * quarter, quarter : 3 * quarter] = False
    return kept


def test_the_cut_takes_a_square_of_half_the_side() -> None:
    image = torch.rand(2, 3, 16, 16) + 1
    seen, kept = diffaugment(image, uniforms(2)), without_cut(image)
    torch.testing.assert_close(seen[kept], image[kept])
    assert not seen[~kept].any()
    corner = diffaugment(image, uniforms(2, row=0.0, column=0.9999))
    assert int((corner == 0).sum()) == 2 * 3 * 4 * 4


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"brightness": 0.0}, lambda image: image - 0.5),
        ({"brightness": 0.75}, lambda image: image + 0.25),
        ({"saturation": 0.0}, lambda image: image.mean(1, keepdim=True).expand(-1, 3, -1, -1)),
        ({"saturation": 0.75}, lambda image: 1.5 * image - 0.5 * image.mean(1, keepdim=True)),
        ({"contrast": 0.0}, lambda image: 0.5 * image + 0.5 * image.mean((1, 2, 3), keepdim=True)),
        ({"down": 0.9999}, lambda image: torch.nn.functional.pad(image, (0, 0, 2, -2))),
        ({"right": 0.0}, lambda image: torch.nn.functional.pad(image, (-2, 2, 0, 0))),
    ],
    ids=str,
)
def test_each_augmentation_is_the_papers(changed: dict[str, float], expected: object) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 16, 16)
    assert callable(expected)
    kept = without_cut(image)
    torch.testing.assert_close(diffaugment(image, uniforms(2, **changed))[kept], expected(image)[kept])


def test_the_penalty_is_that_of_discriminator_and_augmentation_together() -> None:
    """A linear discriminator's slope, seen through a brighter, shifted and cut image, has a known norm."""
    torch.manual_seed(0)
    slope = torch.randn(3, 16, 16, requires_grad=True)
    changed_count = uniforms(2, down=0.9999)
    image, sentence = torch.randn(2, 3, 16, 16, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    logits = (diffaugment(image, changed_count) * slope).sum((1, 2, 3)) + 0 * sentence.sum(1)
    penalty = matching_aware_gradient_penalty(logits, (image, sentence), weight=1.0, power=2.0)
    felt = slope.detach() * without_cut(slope[None])[0]
    felt[:, :2] = 0  # nothing of the image is there
    torch.testing.assert_close(penalty, felt.square().sum(), rtol=1e-4, atol=0)
    penalty.backward()
    torch.testing.assert_close(slope.grad, 2 * felt, rtol=1e-3, atol=1e-4)


def test_all_that_the_discriminator_sees_is_augmented() -> None:
    looks: list[Tensor] = []
    gan = gan_phase(config(diffaugment=True))
    assert isinstance(gan.discriminator, Discriminator)
    gan.discriminator.conv_img.register_forward_pre_hook(lambda _, inputs: looks.append(inputs[0].detach()))
    gan.step(0)
    assert [len(look) for look in looks] == [8, 8, 8]  # real, generated, and generated in the generator's turn
    for look in looks:
        cut = (look == 0).all(1).sum((1, 2))  # a centre at the border leaves a quarter of the square
        assert (cut >= 8 * 8).all()


def test_erased_rectangles_have_one_colour_and_nothing_else_changes() -> None:
    image = torch.full((2, 3, 48, 48), 0.3)
    rectangle = torch.tensor(
        [1.0, 0.0, 0.5, 0.25, 1.0, 0.0, 0.75]
    )  # as high and as narrow as can be, red and some blue
    seen = random_erasing(image, rectangle.expand(2, RECTANGLES, RECTANGLE_UNIFORMS))
    painted = (seen != image).any(1)
    rows, columns = painted[0].nonzero().unbind(1)
    assert rows.unique().tolist() == list(range(20, 29))
    assert columns.unique().tolist() == [12]
    assert painted.sum() == 2 * 9
    assert (seen.permute(0, 2, 3, 1)[painted] == torch.tensor([1.0, -1.0, 0.5])).all()


def test_damsm_sees_rectangles_on_half_of_the_pictures() -> None:
    settings = config()
    settings = settings.model_copy(update={"damsm": settings.damsm.model_copy(update={"random_erasing": True})})
    damsm, batches = damsm_phase(settings), feed(settings, "damsm")
    shown: list[Tensor] = []
    damsm.image_encoder.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    changed_count = 0
    for number in range(20):
        damsm.step(number)
        original = batches.batch(number).image
        changed_count += int((shown[-1] != original).flatten(1).any(1).sum())
    assert 20 < changed_count < 60  # of 80
