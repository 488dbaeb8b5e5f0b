"""Precision, accumulation and compilation of a step."""

import copy
from collections.abc import Callable

import pytest
import torch

from tests.training.random_weights import randomised
from tests.training.test_learning import CPU, config, corpus, trainers
from training.config import RunConfig
from training.losses import fake_hinge, mismatched_partners, real_hinge, related_pairs
from training.stepping import backward, loss_scaler, seed_step, update


def in_fp16() -> RunConfig:
    return config().model_copy(update={"precision": "fp16"})


def test_an_update_whose_gradients_overflow_is_left_out_and_the_scale_lowered() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer, scaler = torch.optim.Adam([weight], lr=0.5), loss_scaler(CPU, "fp16")
    backward({"loss": weight * 1e38}, scaler)
    assert not update(optimizer, scaler)
    assert weight == 1
    assert scaler.get_scale() == 2**15
    backward({"loss": weight * 3.0}, scaler)
    assert update(optimizer, scaler)
    assert weight.item() == pytest.approx(0.5)


def test_fp16_steps_are_nearly_those_of_fp32_and_go_on_from_their_state() -> None:
    damsm, gan = trainers(in_fp16())
    exact_damsm, exact_gan = trainers(config())
    for trainer in (gan, exact_gan):
        trainer.freeze_encoders()
    assert gan.step(0) == pytest.approx(exact_gan.step(0), rel=2e-2, abs=1e-2)
    _, resumed = trainers(in_fp16())
    resumed.freeze_encoders()
    resumed.load_state(copy.deepcopy(gan.state()))
    assert resumed.step(1) == gan.step(1)
    assert resumed.state()["generator_scaler"]["_growth_tracker"] == 2

    damsm, _ = trainers(in_fp16())
    exact_damsm, _ = trainers(config())
    assert damsm.step(0) == pytest.approx(exact_damsm.step(0), rel=2e-2)


def test_accumulated_batches_make_one_update_by_the_mean_of_their_gradients() -> None:
    _, gan = trainers(config(gradient_accumulation=2, batch_size=4, gradient_penalty_weight=0.0))
    for network in (gan.generator, gan.discriminator, gan.text_encoder):
        randomised(network, scale=0.1)
    gan.freeze_encoders()
    generator, critic = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
    reported = gan.step(0)

    seed_step(0, "gan", 0)
    real = 0.0
    for number in range(2):
        batch = corpus().batch(0, number, 4)
        sentence = gan.text_encoder(batch.tokens, batch.lengths).sentence
        fake = generator(torch.randn(4, 8), sentence, torch.randn(4, 16)).image.detach()
        partners, found = mismatched_partners(related_pairs(batch.tokens, batch.groups))
        matching = real_hinge(critic(batch.image, sentence)) / 2
        mismatching = fake_hinge(critic(batch.image, sentence[partners[:, 0]]), found[:, 0]) / 4
        (matching + mismatching + fake_hinge(critic(fake, sentence)) / 4).backward()
        real += matching.item()
    assert reported["D real"] == pytest.approx(real, rel=1e-5)
    updates = gan.discriminator_optimizer.state_dict()["state"].values()
    assert {float(update["step"]) for update in updates} == {1.0}
    for parameter, update_made in zip(critic.parameters(), updates, strict=True):
        torch.testing.assert_close(update_made["exp_avg"], parameter.grad, rtol=1e-3, atol=1e-5)


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
        _, gan = trainers(settings)
        gan.freeze_encoders()
        steps.append([gan.step(number) for number in range(2)])
        assert "_orig_mod" not in str(gan.state()["generator"].keys())
    assert len(compiled) == 4  # generator, image encoder, and the discriminator's two parts
    for one, other in zip(*steps, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
