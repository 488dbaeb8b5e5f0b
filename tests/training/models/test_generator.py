"""The generator: DF-GAN's layout, the two contributions behind switches, and the fold."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from t2i_engine.manifest import ModelSizes
from tests.training.random_weights import randomised
from training.models.generator import Generator, channel_widths


def inputs(sizes: ModelSizes, batch: int = 3, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return (
        torch.randn(batch, sizes.noise_width, dtype=dtype),
        torch.randn(batch, sizes.sentence_width, dtype=dtype),
        torch.randn(batch, sizes.sentence_width, dtype=dtype),
    )


def test_without_contributions_it_is_dfgans_generator_tensor_for_tensor(dfgan_sizes: ModelSizes) -> None:
    tensors = {name: tuple(tensor.shape) for name, tensor in Generator(dfgan_sizes).state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {"fc.weight": (4096, 100), "fc.bias": (4096,)}
    pairs = [(256, 256)] * 3 + [(256, 128), (128, 64), (64, 32)]
    for i, (n_in, n_out) in enumerate(pairs):
        for name, shape in {"c1": (n_out, n_in, 3, 3), "c2": (n_out, n_out, 3, 3)}.items():
            expected[f"GBlocks.{i}.{name}.weight"], expected[f"GBlocks.{i}.{name}.bias"] = shape, (n_out,)
        if n_in != n_out:
            expected[f"GBlocks.{i}.c_sc.weight"], expected[f"GBlocks.{i}.c_sc.bias"] = (n_out, n_in, 1, 1), (n_out,)
        for fuse, n in (("fuse1", n_in), ("fuse2", n_out)):
            for affine in ("affine0", "affine1"):
                for mlp in ("fc_gamma", "fc_beta"):
                    prefix = f"GBlocks.{i}.{fuse}.{affine}.{mlp}"
                    expected |= {f"{prefix}.linear1.weight": (n, 356), f"{prefix}.linear1.bias": (n,)}
                    expected |= {f"{prefix}.linear2.weight": (n, n), f"{prefix}.linear2.bias": (n,)}
    expected |= {"to_rgb.1.weight": (3, 32, 3, 3), "to_rgb.1.bias": (3,)}
    assert tensors == expected
    assert len(tensors) == 226
    assert sum(parameter.numel() for parameter in Generator(dfgan_sizes).parameters()) == pytest.approx(
        9.74e6, rel=1e-3
    )


@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize("width", [3, 4])
def test_draws_any_side_and_width(sizes: ModelSizes, side: int, width: int) -> None:
    sizes = replace(sizes, resolution=side, base_channels=width)
    image = Generator(sizes)(*inputs(sizes)).image
    assert image.shape == (3, 3, side, side)
    assert image.abs().max() <= 1


def test_widths_double_downwards_and_stop_at_eight_times_the_base() -> None:
    assert channel_widths(256, 32) == [256, 256, 256, 256, 128, 64, 32]
    assert channel_widths(32, 32) == [256, 128, 64, 32]


@pytest.mark.parametrize("augmentation", [True, False])
@pytest.mark.parametrize("adaptive", [True, False])
def test_each_contribution_has_its_own_switch(sizes: ModelSizes, augmentation: bool, adaptive: bool) -> None:
    sizes = replace(sizes, conditioning_augmentation=augmentation, adaptive_block=adaptive)
    generator = Generator(sizes)
    randomised(generator)
    noise, sentence, condition_noise = inputs(sizes)
    with torch.no_grad():
        drawn, other = (generator(noise, sentence, epsilon) for epsilon in (condition_noise, -condition_noise))
    assert (drawn.mean is not None) == augmentation
    assert torch.equal(drawn.image, other.image) != augmentation
    assert any("adaptive" in name for name in generator.state_dict()) == adaptive


def test_sentence_and_noise_change_the_image(sizes: ModelSizes) -> None:
    generator = Generator(sizes)
    randomised(generator)
    noise, sentence, condition_noise = inputs(sizes)
    with torch.no_grad():
        image = generator(noise, sentence, condition_noise).image
        assert not torch.allclose(image, generator(noise, -sentence, condition_noise).image, atol=1e-3)
        assert not torch.allclose(image, generator(-noise, sentence, condition_noise).image, atol=1e-3)


def test_without_condition_noise_the_mean_condition_is_drawn(sizes: ModelSizes) -> None:
    generator = Generator(sizes)
    randomised(generator)
    noise, sentence, condition_noise = inputs(sizes)
    with torch.no_grad():
        plain = generator(noise, sentence).image
        assert torch.equal(plain, generator(noise, sentence, torch.zeros_like(condition_noise)).image)


def test_text_has_no_influence_before_training(sizes: ModelSizes) -> None:
    """γ = 1 and β = 0 at the start (method.md)."""
    generator = Generator(sizes)
    noise, sentence, _ = inputs(sizes)
    with torch.no_grad():
        assert torch.equal(generator(noise, sentence).image, generator(noise, -sentence).image)


def test_it_is_the_methods_generator_step_by_step(sizes: ModelSizes) -> None:
    """A plain reading of method.md, "Generator": noise first in the condition, every block from ŝ anew."""
    generator = Generator(sizes).double()
    randomised(generator)
    noise, sentence, condition_noise = inputs(sizes, dtype=torch.float64)
    weights = dict(generator.named_parameters())

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def affine(name: str, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        gamma, beta = (
            linear(f"{name}.{mlp}.linear2", linear(f"{name}.{mlp}.linear1", c).relu())
            for mlp in ("fc_gamma", "fc_beta")
        )
        return gamma[..., None, None] * x + beta[..., None, None]

    def fuse(name: str, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(affine(f"{name}.affine1", F.leaky_relu(affine(f"{name}.affine0", x, c), 0.2), c), 0.2)

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding="same")

    mean, log_variance = linear("augmentation.statistics", sentence).chunk(2, dim=1)
    conditioned = mean + (log_variance / 2).exp() * condition_noise
    h = linear("fc", noise).view(3, -1, 4, 4)
    for i in range(3):
        summary = torch.einsum("bchw,chw->bc", h, weights[f"adaptive_blocks.{i}.summary.weight"][:, 0])
        hidden = torch.cat([summary + weights[f"adaptive_blocks.{i}.summary.bias"], conditioned], dim=1)
        attention = linear(
            f"adaptive_blocks.{i}.attention.2", linear(f"adaptive_blocks.{i}.attention.0", hidden).relu()
        )
        condition = torch.cat([noise, conditioned + attention.tanh() * conditioned], dim=1)
        h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        name = f"GBlocks.{i}"
        residual = conv(
            f"{name}.c2", fuse(f"{name}.fuse2", conv(f"{name}.c1", fuse(f"{name}.fuse1", h, condition)), condition)
        )
        h = (conv(f"{name}.c_sc", h) if f"{name}.c_sc.weight" in weights else h) + residual
    expected = conv("to_rgb.1", F.leaky_relu(h, 0.2)).tanh()
    with torch.no_grad():
        torch.testing.assert_close(generator(noise, sentence, condition_noise).image, expected, rtol=0, atol=1e-12)


def test_folded_form_computes_the_same_function(sizes: ModelSizes) -> None:
    generator = Generator(sizes).double()
    randomised(generator)
    batch = inputs(sizes, dtype=torch.float64)
    with torch.no_grad():
        trained = generator(*batch).image
        generator.folded = True
        folded = generator(*batch).image
    assert trained.std() > 0.05
    assert (trained - folded).abs().max() <= 1e-10


def test_folded_form_has_the_same_gradients(sizes: ModelSizes) -> None:
    gradients = []
    for folded in (False, True):
        generator = Generator(sizes, folded).double()
        randomised(generator)
        generator(*inputs(sizes, dtype=torch.float64)).image.square().sum().backward()
        gradients.append([p.grad.clone() for p in generator.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for trained, folded in zip(*gradients, strict=True):
        torch.testing.assert_close(trained, folded, rtol=1e-8, atol=1e-8)
