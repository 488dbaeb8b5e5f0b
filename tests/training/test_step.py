"""Precision, accumulation, compilation and capture of a step."""

import copy
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from tests.training.test_learning import CPU, config, damsm_phase, feed, gan_phase, read
from training.config import RunConfig
from training.losses import (
    fake_hinge,
    generator_loss,
    matching_aware_gradient_penalty,
    mismatched_partners,
    real_hinge,
    related_pairs,
)
from training.models.projected_discriminator import ProjectedDiscriminator
from training.phase import seed_step
from training.precision import backward, loss_scaler, update


def in_fp16() -> RunConfig:
    return config().model_copy(update={"precision": "fp16"})


def test_an_update_whose_gradients_overflow_is_left_out_and_the_scale_lowered() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer, scaler = torch.optim.Adam([weight], lr=0.5, fused=True), loss_scaler(CPU, "fp16")
    backward({"loss": weight * 1e38}, scaler)
    update(optimizer, scaler)
    assert weight == 1
    assert scaler.get_scale() == 2**15
    backward({"loss": weight * 3.0}, scaler)
    update(optimizer, scaler)
    assert weight.item() == pytest.approx(0.5)


def test_fp16_steps_are_nearly_those_of_fp32_and_go_on_from_their_state() -> None:
    gan, exact = gan_phase(in_fp16()), gan_phase(config())
    assert read(gan.step(0)) == pytest.approx(read(exact.step(0)), rel=2e-2, abs=1e-2)
    resumed = gan_phase(in_fp16())
    resumed.load_state(copy.deepcopy(gan.state()))
    assert read(resumed.step(1)) == read(gan.step(1))
    assert resumed.state()["generator_scaler"]["_growth_tracker"] == 2
    assert read(damsm_phase(in_fp16()).step(0)) == pytest.approx(read(damsm_phase(config()).step(0)), rel=2e-2)


def test_a_small_slope_of_the_discriminator_does_not_underflow_in_fp16() -> None:
    """A slope of 1e-8 is below float16's smallest number, 6e-8."""
    image, sentence = torch.ones(2, 3, 4, 4, requires_grad=True), torch.ones(2, 5, requires_grad=True)
    logits = 1e-4 * (1e-4 * image.half()).sum((1, 2, 3)) + 0 * sentence.sum(1)
    penalties = [
        matching_aware_gradient_penalty(logits, (image, sentence), 1.0, 2.0, scaler)
        for scaler in (None, loss_scaler(CPU, "fp16"))
    ]
    assert penalties[0] == 0
    assert penalties[1].item() == pytest.approx(48 * 1e-8**2, rel=1e-2)


def test_a_state_of_a_gpu_is_restored_without_what_a_cuda_graph_needs() -> None:
    """And the other way round: PyTorch takes that setting from the state, and a capture without it fails."""
    state = copy.deepcopy(gan_phase(config()).state())
    for name in ("generator_optimizer", "discriminator_optimizer"):
        state[name]["param_groups"][0]["capturable"] = True
    gan = gan_phase(config())
    gan.load_state(state)
    assert not any(optimizer.param_groups[0]["capturable"] for optimizer in gan.optimizers.values())
    gan.step(0)


MEMORY = """
import resource, sys
import numpy as np
from training.phase import tune_process

if sys.argv[1] == "keep":
    tune_process()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(6 << 20) for _ in range(4)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such setting")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    faults = [
        int(subprocess.run([sys.executable, "-c", MEMORY, how], capture_output=True, check=True).stdout)
        for how in ("return", "keep")
    ]
    assert faults[0] > 1000
    assert faults[1] < 100


def test_accumulated_batches_make_one_update_by_the_mean_of_their_gradients() -> None:
    settings = config(gradient_accumulation=2, batch_size=4, gradient_penalty_weight=0.0)
    gan = gan_phase(settings, scale=0.1)
    generator, critic = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
    reported = read(gan.step(0))

    seed_step(0, "gan", 0)
    real, batches = 0.0, feed(settings, "gan")
    for number in range(2):
        batch = batches.batch(number)
        sentence = gan.text_encoder(batch.tokens, batch.lengths).sentence
        fake = generator(torch.randn(4, 8), sentence, torch.randn(4, 16)).image.detach()
        torch.rand(3, 4, 7)  # DiffAugment's, which is off
        partners, found = mismatched_partners(related_pairs(batch.captions, batch.groups))
        matching = real_hinge(critic(batch.image, sentence)) / 2
        mismatching = fake_hinge(critic(batch.image, sentence[partners[:, 0]]), found[:, 0]) / 4
        (matching + mismatching + fake_hinge(critic(fake, sentence)) / 4).backward()
        real += matching.item()
    assert reported["D real"] == pytest.approx(real, rel=1e-5)
    updates = gan.discriminator_optimizer.state_dict()["state"].values()
    assert {float(update["step"]) for update in updates} == {1.0}
    for parameter, update_made in zip(critic.parameters(), updates, strict=True):
        torch.testing.assert_close(update_made["exp_avg"], parameter.grad, rtol=1e-3, atol=1e-5)


def test_pretrained_features_of_generated_pictures_serve_both_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    features = ProjectedDiscriminator.features

    def watched(discriminator: ProjectedDiscriminator, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(features(discriminator, image))
        return seen[-1]

    monkeypatch.setattr(ProjectedDiscriminator, "features", watched)
    settings = config(discriminator="projected")
    gan = gan_phase(settings)
    before = [parameter.clone() for parameter in gan.generator.parameters()]
    reported = read(gan.step(0))
    drawn, real = seen
    assert all(x.requires_grad for x in drawn)
    assert not any(x.requires_grad for x in real)
    batch = feed(settings, "gan").batch(0)
    sentence = gan.text_encoder(batch.tokens, batch.lengths).sentence
    discriminator = gan.discriminator.requires_grad_(False)
    assert isinstance(discriminator, ProjectedDiscriminator)
    logits = discriminator.logits(drawn, sentence)
    assert reported["G adversarial"] == pytest.approx(generator_loss(logits).item(), rel=1e-5)
    assert any(not torch.equal(now, old) for now, old in zip(gan.generator.parameters(), before, strict=True))


def test_heads_on_pretrained_features_see_a_real_picture_once_for_all_its_sentences() -> None:
    settings = config(discriminator="projected", mismatches=3, discriminator_learning_rate=1e-9)
    gan = gan_phase(settings)
    discriminator = gan.discriminator
    assert isinstance(discriminator, ProjectedDiscriminator)
    batch = feed(settings, "gan").batch(0)
    sentence = gan.text_encoder(batch.tokens, batch.lengths).sentence
    for _ in range(30):  # power iterations, until another changes nothing
        discriminator(batch.image, sentence)
    passes = []
    discriminator.heads[0].get_submodule("trunk").register_forward_hook(lambda *_: passes.append(True))
    fixed = copy.deepcopy(discriminator).eval().requires_grad_(False)
    reported = read(gan.step(0))
    assert len(passes) == 3  # real; generated, for either update
    assert reported["D real"] == pytest.approx(real_hinge(fixed(batch.image, sentence)).item(), rel=1e-3)
    partners, valid = mismatched_partners(related_pairs(batch.captions, batch.groups), 3)
    assert valid.all()
    hinges = [fake_hinge(fixed(batch.image, sentence[others])) for others in partners.T]
    assert reported["D mismatch"] == pytest.approx(torch.stack(hinges).mean().item() / 2, rel=1e-3)


def test_compiled_networks_make_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured and differentiated as for real; only the kernels, minutes of a C++ compiler, are left out."""
    compiled = []
    compile_for_real = torch.compile

    def compile_without_kernels(called: Callable[..., object]) -> Callable[..., object]:
        compiled.append(called)
        return compile_for_real(called, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", compile_without_kernels)
    steps = []
    for settings in (config(), config().model_copy(update={"compile": True})):
        gan = gan_phase(settings)
        steps.append([read(gan.step(number)) for number in range(2)])
        assert "_orig_mod" not in str(gan.state()["generator"].keys())
    assert len(compiled) == 3  # generator, image encoder, and the discriminator's features
    for one, other in zip(*steps, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
