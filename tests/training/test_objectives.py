"""One step of the GAN against a plain reading of method.md's objectives (eq. 3-8), computed beside it."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from t2i_engine.tokenizer import Tokenizer
from tests.training import test_learning
from tests.training.test_learning import config, damsm_phase, feed, gan_phase, read
from training.data.corpus import Corpus, build_vocabulary
from training.data.synthbirds.grammar import BirdGrammar
from training.phase import seed_step

Apart = Callable[[int, int], bool]
"""Whether the target j is a negative of the anchor i."""

LAMBDA_TEXT, LAMBDA_IMAGE, ETA, ETA_IMAGE, KL_WEIGHT = 0.3, 0.7, 0.4, 0.9, 2.5


def contrast(
    anchors: Tensor, targets: Tensor, apart: Apart, hard: list[list[Tensor]] | None = None, eta: float = ETA
) -> Tensor:
    total = torch.zeros(())
    for i in range(len(anchors)):
        others = [targets[j] for j in range(len(anchors)) if j == i or apart(i, j)]
        others += hard[i] if hard else []
        similarities = torch.stack([F.cosine_similarity(anchors[i], other, dim=0) / eta for other in others])
        total += similarities.exp().sum().log() - F.cosine_similarity(anchors[i], targets[i], dim=0) / eta
    return total / len(anchors)


@pytest.mark.parametrize(("mismatches", "hard"), [(1, 0), (3, 2)])
def test_a_step_reports_the_methods_losses(mismatches: int, hard: int) -> None:
    settings = config(
        contrastive={
            "text_weight": LAMBDA_TEXT,
            "image_weight": LAMBDA_IMAGE,
            "temperature": ETA,
            "image_temperature": ETA_IMAGE,
        },
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

    def apart(i: int, j: int) -> bool:
        return bool(batch.captions[i] != batch.captions[j])

    for i in range(6):
        others = [k % 6 for k in range(i + 1, i + 6) if apart(i, k % 6)]
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
    painted, photographed = encoder(drawn.image).picture, encoder(batch.image).picture
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
        "G text": LAMBDA_TEXT * contrast(painted, sentence, apart, nearly),
        "G image": LAMBDA_IMAGE * contrast(painted, photographed, apart, eta=ETA_IMAGE),
    }
    assert reported == pytest.approx(
        {name: float(value.detach()) for name, value in expected.items()}, rel=2e-3, abs=1e-6
    )


def contradict(first: Tensor, second: Tensor) -> Apart:
    return lambda i, j: any(int(one) & int(other) == 0 for one, other in zip(first[i], second[j], strict=True))


@pytest.fixture
def two_captions_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """More is known of a picture than one of its captions asks, so it matters whose knowledge decides."""
    birds = [f"a {main} bird with a {tail} tail" for main in ("red", "green", "blue") for tail in ("red", "blue")]
    texts = [(bird, "a bird with " + bird.partition(" with ")[2]) for bird in birds]
    tokenizer = Tokenizer(build_vocabulary(text for pair in texts for text in pair))
    pictures = np.random.default_rng(0).integers(0, 256, (len(texts), 32, 32, 3), dtype=np.uint8)
    corpus = Corpus(pictures, texts, tokenizer, grammar=BirdGrammar(tokenizer))
    monkeypatch.setattr(test_learning, "corpus", lambda: corpus)
    monkeypatch.setattr(test_learning, "WORDS", len(tokenizer.words))


@pytest.mark.usefixtures("two_captions_each")
def test_a_gan_step_takes_no_caption_for_false_that_may_be_true() -> None:
    settings = config(contrastive={"text_weight": 1, "image_weight": 1, "temperature": ETA}, batch_size=6, mismatches=6)
    gan = gan_phase(settings, scale=0.1)
    generator, critic, encoder = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator), gan.image_encoder
    reported = read(gan.step(0))

    seed_step(settings.seed, "gan", 0)
    batch = feed(settings, "gan").batch(0)
    sentence = gan.text_encoder(batch.tokens, batch.lengths).sentence
    image = generator(torch.randn(6, 8), sentence, torch.randn_like(sentence)).image
    false_captions = contradict(batch.known, batch.asked)
    mismatched = [sentence[[j for j in range(6) if false_captions(i, j)]] for i in range(6)]
    hinges = [
        (1 + critic(real.expand(len(false), -1, -1, -1), false)).clamp_min(0).mean()
        for real, false in zip(batch.image, mismatched, strict=True)
    ]
    asked, known = batch.asked, batch.known
    expected = {
        "D mismatch": 0.5 * torch.stack(hinges).mean(),
        "G text": contrast(encoder(image).picture, sentence, contradict(asked, asked)),
        "G image": contrast(encoder(image).picture, encoder(batch.image).picture, contradict(asked, known)),
    }
    for name, value in expected.items():
        assert reported[name] == pytest.approx(float(value.detach()), rel=1e-5), name


@pytest.mark.usefixtures("two_captions_each")
def test_a_damsm_step_takes_no_caption_for_false_that_may_be_true() -> None:
    settings = config()
    settings = settings.model_copy(update={"damsm": settings.damsm.model_copy(update={"batch_size": 6})})
    damsm = damsm_phase(settings)
    damsm.text_encoder.eval()  # without dropout
    batch = feed(settings, "damsm").batch(0)
    text, image, _ = damsm.networks(
        batch.tokens, batch.lengths, batch.image, batch.hard_negatives, batch.hard_negative_lengths
    )
    eta = 1 / settings.damsm.gamma3
    by_text = contrast(image.picture, text.sentence, contradict(batch.known, batch.asked), eta=eta)
    by_picture = contrast(text.sentence, image.picture, contradict(batch.asked, batch.known), eta=eta)
    assert read(damsm.step(0))["sentence"] == pytest.approx((by_text + by_picture).item(), rel=1e-4)
