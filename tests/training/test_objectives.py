"""One step of the GAN against a plain reading of method.md's objectives (eq. 3-8), computed beside it."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.training.test_learning import config, feed, gan_phase, read
from training.phase import seed_step

LAMBDA_TEXT, LAMBDA_IMAGE, ETA, KL_WEIGHT = 0.3, 0.7, 0.4, 2.5


def contrast(anchors: Tensor, targets: Tensor, captions: Tensor, hard: list[list[Tensor]] | None = None) -> Tensor:
    total = torch.zeros(())
    for i in range(len(anchors)):
        others = [targets[j] for j in range(len(anchors)) if j == i or captions[i] != captions[j]]
        others += hard[i] if hard else []
        similarities = torch.stack([F.cosine_similarity(anchors[i], other, dim=0) / ETA for other in others])
        total += similarities.exp().sum().log() - F.cosine_similarity(anchors[i], targets[i], dim=0) / ETA
    return total / len(anchors)


@pytest.mark.parametrize(("mismatches", "hard"), [(1, 0), (3, 2)])
def test_a_step_reports_the_methods_losses(mismatches: int, hard: int) -> None:
    settings = config(
        contrastive={"text_weight": LAMBDA_TEXT, "image_weight": LAMBDA_IMAGE, "temperature": ETA},
        kl_weight=KL_WEIGHT,
        mismatches=mismatches,
        hard_negatives=hard,
        batch_size=6,
        generator_learning_rate=1e-9,
        discriminator_learning_rate=1e-9,
    )
    gan = gan_phase(settings, scale=0.1)
    generator, critic, encoder = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator), gan.image_encoder
    reported = read(gan.step(0))

    seed_step(settings.seed, "gan", 0)
    batch = feed(settings, "gan").batch(0)
    sentence = gan.text_encoder(batch.tokens, batch.lengths).sentence
    drawn = generator(torch.randn(6, 8), sentence, torch.randn_like(sentence))
    assert drawn.mean is not None
    assert drawn.log_variance is not None
    hinges, nearly = [], []
    for i in range(6):
        others = [k % 6 for k in range(i + 1, i + 6) if batch.captions[i] != batch.captions[k % 6]]
        unfit = [sentence[k] for k in others[:mismatches]]
        versions = zip(
            batch.hard_negatives[i, :hard],
            batch.hard_negative_lengths[i, :hard],
            batch.hard_negatives_valid[i, :hard],
            strict=True,
        )
        nearly += [[gan.text_encoder(v[None], n[None]).sentence[0] for v, n, differs in versions if differs]]
        unfit += nearly[-1]
        hinges += [torch.stack([(1 + critic(batch.image[i : i + 1], s[None])).clamp_min(0) for s in unfit]).mean()]
    image, phi = batch.image.clone().requires_grad_(), sentence.clone().requires_grad_()
    slopes = torch.autograd.grad(critic(image, phi).sum(), (image, phi))
    norm = torch.cat([slope.flatten(1) for slope in slopes], dim=1).norm(dim=1)
    variance = drawn.log_variance.exp()
    expected = {
        "D real": (1 - critic(batch.image, sentence)).clamp_min(0).mean(),
        "D fake": 0.5 * (1 + critic(drawn.image, sentence)).clamp_min(0).mean(),
        "D mismatch": 0.5 * torch.stack(hinges).mean(),
        "D penalty": 2 * norm.pow(6).mean(),
        "G adversarial": -critic(drawn.image, sentence).mean(),
        "G kl": KL_WEIGHT * (0.5 * (drawn.mean**2 + variance - 1 - variance.log())).mean(),
        "G text": LAMBDA_TEXT * contrast(encoder(drawn.image).picture, sentence, batch.captions, nearly),
        "G image": LAMBDA_IMAGE * contrast(encoder(drawn.image).picture, encoder(batch.image).picture, batch.captions),
    }
    assert reported == pytest.approx(
        {name: float(value.detach()) for name, value in expected.items()}, rel=2e-3, abs=1e-6
    )
