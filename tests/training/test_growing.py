"""Growth: a model for larger pictures keeps what a smaller one learned, and draws what that drew, enlarged."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from t2i_engine.manifest import ModelSizes
from tests.tiny_model import make_model
from tests.training.runs import config_file, train
from training.checkpoint import load_checkpoint, load_learned, load_model
from training.initial import grow, grown_discriminator
from training.models.discriminator import Discriminator
from training.models.projected_discriminator import ProjectedDiscriminator

SLOW = {"generator_learning_rate": 1e-12, "discriminator_learning_rate": 1e-12}


def sentences(width: int = 8) -> Tensor:
    return torch.randn(16, width)


def test_a_grown_generator_draws_what_the_smaller_one_draws_enlarged(
    sizes: ModelSizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random generator draws noise, the hardest to enlarge; 300 steps leave an eighth of its variance, 60 this."""
    monkeypatch.setattr("training.initial.GROWING_STEPS", 60)
    sizes = replace(sizes, base_channels=8)
    small = make_model(sizes)
    torch.manual_seed(0)
    large = grow(small, 64, sentences)
    noise, sentence = torch.randn(64, sizes.noise_width), torch.randn(64, sizes.sentence_width)
    with torch.inference_mode():
        drawn, before = (model.generator(noise, sentence).image for model in (large, small))
        enlarged = F.interpolate(before, scale_factor=2, mode="bilinear")
    unexplained = (drawn - enlarged).var() / enlarged.var()
    assert unexplained < 0.5


def feeds(sizes: ModelSizes) -> tuple[Tensor, Tensor]:
    return torch.randn(2, sizes.noise_width), torch.randn(2, sizes.sentence_width)


@pytest.mark.parametrize("times", [1, 2, 4])
def test_what_a_grown_generator_had_learned_stays_as_it_is(
    sizes: ModelSizes, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr("training.initial.GROWING_STEPS", 2)
    small = make_model(sizes)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    large = grow(small, 32 * times, sentences)
    assert large.sizes == replace(
        sizes, resolution=32 * times, base_channels=4 // times, max_channel_multiple=8 * times
    )
    assert large.generator(*feeds(sizes)).image.shape == (2, 3, 32 * times, 32 * times)
    assert all(parameter.requires_grad for parameter in large.parameters())
    for name, tensor in before.items():
        assert torch.equal(small.state_dict()[name], tensor)
        assert "to_rgb" in name or torch.equal(large.state_dict()[name], tensor)


def test_a_grown_discriminator_judges_maps_as_the_smaller_one_does() -> None:
    small, large = Discriminator(32, 8, 6), Discriminator(64, 4, 6, max_channel_multiple=16)
    large.load_state_dict(grown_discriminator(small.state_dict(), large.state_dict()))
    maps, sentence = torch.randn(2, 8, 32, 32), torch.randn(2, 6)
    expected = maps
    for block in small.DBlocks:
        expected = block(expected)
    for block in large.DBlocks[1:]:
        maps = block(maps)
    torch.testing.assert_close(large.logits(maps, sentence), small.logits(expected, sentence))


@pytest.mark.parametrize(("side", "kept"), [(128, True), (256, False)])
def test_a_grown_discriminator_on_pretrained_features_keeps_its_projections_and_the_heads_that_fit(
    side: int, kept: bool
) -> None:
    small, large = (ProjectedDiscriminator(side, 6, channels=4, pretrained=False) for side in (64, side))
    fresh = {name: tensor.clone() for name, tensor in large.state_dict().items()}
    load_learned(large, grown_discriminator(small.state_dict(), large.state_dict()))
    for name, tensor in large.state_dict().items():
        before = small.state_dict() if kept or not name.startswith("heads") else fresh
        assert torch.equal(tensor, before[name]), name


def test_a_discriminator_of_another_kind_is_not_grown_into_one_on_pretrained_features() -> None:
    small, large = Discriminator(64, 4, 6), ProjectedDiscriminator(256, 6, channels=4, pretrained=False)
    for one, other in ((small, large), (large, small)):
        with pytest.raises(RuntimeError):
            load_learned(other, grown_discriminator(one.state_dict(), other.state_dict()))


def test_a_run_grows_what_it_starts_from(straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rate of next to nothing, all that was there before the new layers is as it was."""
    monkeypatch.setattr("training.initial.GROWING_STEPS", 2)
    config = config_file(
        tmp_path, data={"resolution": 64}, model={"base_channels": 2, "max_channel_multiple": 16}, gan=SLOW
    )
    result = train(config, "--out", tmp_path / "run", "--init", straight / "checkpoint.pt")
    assert result.exit_code == 0, result.output
    start, end = (load_model(folder / "checkpoint.pt").model for folder in (straight, tmp_path / "run"))
    assert end.sizes == replace(start.sizes, resolution=64, base_channels=2, max_channel_multiple=16)
    for name in ("generator.fc.weight", "generator.GBlocks.2.c1.weight", "text_encoder.encoder.weight"):
        torch.testing.assert_close(end.state_dict()[name], start.state_dict()[name], rtol=0, atol=1e-6)
    before, after = (
        load_checkpoint(folder / "checkpoint.pt")["state"]["gan"]["discriminator"]
        for folder in (straight, tmp_path / "run")
    )
    torch.testing.assert_close(after["DBlocks.3.conv_r.0.weight"], before["DBlocks.2.conv_r.0.weight"])
