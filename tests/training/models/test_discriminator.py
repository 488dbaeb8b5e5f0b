"""The discriminator: DF-GAN's layout, and a verdict that depends on picture and text."""

import torch
from torch.nn import functional as F

from tests.training.random_weights import randomised
from training.models.discriminator import Discriminator


def test_tensors_have_the_shapes_of_public_checkpoints() -> None:
    tensors = {name: tuple(tensor.shape) for name, tensor in Discriminator(256, 32, 256).state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {"conv_img.weight": (32, 3, 3, 3), "conv_img.bias": (32,)}
    for i, (n_in, n_out) in enumerate([(32, 64), (64, 128), (128, 256)] + [(256, 256)] * 3):
        prefix = f"DBlocks.{i}"
        expected |= {
            f"{prefix}.conv_r.0.weight": (n_out, n_in, 4, 4),
            f"{prefix}.conv_r.2.weight": (n_out, n_out, 3, 3),
        }
        expected |= {f"{prefix}.gamma": (1,)}
        if n_in != n_out:
            expected |= {f"{prefix}.conv_s.weight": (n_out, n_in, 1, 1), f"{prefix}.conv_s.bias": (n_out,)}
    expected |= {"joint_conv.0.weight": (64, 512, 3, 3), "joint_conv.2.weight": (1, 64, 4, 4)}
    assert tensors == expected


def test_judges_image_and_sentence_together() -> None:
    discriminator = Discriminator(32, 4, 6)
    randomised(discriminator)
    torch.manual_seed(2)
    image, sentence = torch.rand(5, 3, 32, 32) * 2 - 1, torch.randn(5, 6)
    with torch.no_grad():
        logits = discriminator(image, sentence)
        assert logits.shape == (5,)
        assert not torch.allclose(logits, discriminator(image.flip(0), sentence))
        assert not torch.allclose(logits, discriminator(image, sentence.flip(0)))


def test_joins_features_and_sentence_in_that_order() -> None:
    """A plain reading of method.md, "Discriminator", behind the down-blocks."""
    discriminator = Discriminator(32, 4, 6)
    randomised(discriminator)
    image, sentence = torch.rand(2, 3, 32, 32), torch.randn(2, 6)
    weights = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    x = F.conv2d(image, weights["conv_img.weight"], weights["conv_img.bias"], padding=1)
    for i in range(3):
        block = f"DBlocks.{i}"
        residual = F.leaky_relu(F.conv2d(x, weights[f"{block}.conv_r.0.weight"], stride=2, padding=1), 0.2)
        residual = F.leaky_relu(F.conv2d(residual, weights[f"{block}.conv_r.2.weight"], padding=1), 0.2)
        shortcut = F.conv2d(x, weights[f"{block}.conv_s.weight"], weights[f"{block}.conv_s.bias"])
        x = F.avg_pool2d(shortcut, 2) + weights[f"{block}.gamma"] * residual
    joined = torch.cat([x, sentence.view(2, 6, 1, 1).repeat(1, 1, 4, 4)], dim=1)
    hidden = F.leaky_relu(F.conv2d(joined, weights["joint_conv.0.weight"], padding=1), 0.2)
    expected = F.conv2d(hidden, weights["joint_conv.2.weight"]).flatten()
    with torch.no_grad():
        torch.testing.assert_close(discriminator(image, sentence), expected)


def test_residual_branches_start_closed() -> None:
    """γ = 0 at the start: only the shortcuts contribute."""
    discriminator = Discriminator(32, 4, 6)
    image, sentence = torch.rand(2, 3, 32, 32), torch.randn(2, 6)
    with torch.no_grad():
        before = discriminator(image, sentence)
        for name, parameter in discriminator.named_parameters():
            if "conv_r" in name:
                parameter.zero_()
        assert torch.equal(before, discriminator(image, sentence))


def test_he_initialisation_sees_fine_detail_from_the_first_step_on() -> None:
    """A checkerboard has no mean, and the shortcuts see only means."""
    image, sentence = torch.rand(4, 3, 64, 64), torch.randn(4, 6)
    checkers = 0.2 * (-1.0) ** (torch.arange(64)[:, None] + torch.arange(64))
    torch.manual_seed(0)
    discriminator = Discriminator(64, 4, 6)
    heard = []
    for _ in range(2):
        with torch.no_grad():
            before, after = (discriminator(picture, sentence) for picture in (image, image + checkers))
        heard.append(((after - before).abs().mean() / before.std()).item())
        discriminator.initialise_he()
    assert heard[1] > 10 * heard[0]
    gammas = [tensor for name, tensor in discriminator.named_parameters() if name.endswith("gamma")]
    assert torch.equal(torch.cat(tuple(gammas)), torch.ones(4))
