"""Both phases learn: flat red, green, blue and yellow pictures, told apart by their captions."""

import numpy as np
import pytest
import torch

from t2i_engine.tokenizer import Tokenizer
from tests.training.random_weights import randomised
from training.config import DamsmConfig, GanConfig, RunConfig, model_sizes, parse_config
from training.damsm import DamsmPhase
from training.data.corpus import Corpus, build_vocabulary
from training.data.feed import Feed
from training.data.synthbirds.grammar import BirdGrammar
from training.models.image_encoder import ImageEncoder, SmallCNN
from training.models.text_to_image import TextToImage
from training.phase import PhaseName, StepLosses
from training.step import GanPhase

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (220, 220, 30)}
CPU = torch.device("cpu")
WORDS = 7  # of the corpus's vocabulary


def config(**gan: object) -> RunConfig:
    return parse_config(
        {
            "name": "colours",
            "data": {"resolution": 32},
            "model": {"base_channels": 4, "noise_width": 8, "sentence_width": 16, "embedding_width": 12},
            "damsm": {"image_encoder": "cnn", "batch_size": 4},
            "gan": {"batch_size": 8, "generator_learning_rate": 1e-3, "discriminator_learning_rate": 2e-3, **gan},
            "precision": "fp32",
        },
        "test",
    )


def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    flat = np.array(list(COLOURS.values()) * 8, np.int64)[:, None, None]
    pictures = (flat + rng.integers(-20, 20, (32, 32, 32, 3))).clip(0, 255).astype(np.uint8)
    captions = [[f"a {name} bird"] for name in COLOURS] * 8
    tokenizer = Tokenizer(build_vocabulary(text for texts in captions for text in texts))
    return Corpus(pictures, captions, tokenizer, horizontal_flip=True, grammar=BirdGrammar(tokenizer))


def feed(settings: RunConfig, phase: PhaseName, device: torch.device = CPU) -> Feed:
    section: GanConfig | DamsmConfig = getattr(settings, phase)
    size, hard = section.batch_size, section.hard_negatives
    words = settings.data.max_words if phase == "damsm" else None
    return Feed(corpus(), settings.seed, size, device, max_words=words, hard_negatives=hard)


def damsm_phase(settings: RunConfig) -> DamsmPhase:
    torch.manual_seed(0)
    model = TextToImage(model_sizes(settings, WORDS))
    damsm = DamsmPhase(settings, model.text_encoder, CPU)
    damsm.begin(feed(settings, "damsm"))
    return damsm


def gan_phase(settings: RunConfig, scale: float = 0.0, device: torch.device = CPU) -> GanPhase:
    """Ready for its first step; noise of this `scale` is added to its weights."""
    torch.manual_seed(0)
    model = TextToImage(model_sizes(settings, WORDS))
    encoder = ImageEncoder(SmallCNN(), settings.model.sentence_width)
    gan = GanPhase(settings, model.text_encoder.to(device), encoder.to(device), model.generator, device)
    for network in (gan.generator, gan.discriminator, gan.text_encoder):
        randomised(network, scale=scale)
    gan.begin(feed(settings, "gan", device), corpus().unique_captions)
    return gan


def read(losses: StepLosses) -> dict[str, float]:
    return dict(zip(losses.names, losses.values.tolist(), strict=True))


def test_damsm_learns_which_caption_belongs_to_which_picture() -> None:
    damsm = damsm_phase(config())
    losses = [read(damsm.step(number)) for number in range(80)]
    first, last = (sum(step["sentence"] for step in part) / 10 for part in (losses[:10], losses[-10:]))
    assert last < 0.6 * first


def test_sentences_learn_without_the_word_loss() -> None:
    settings = config()
    damsm = damsm_phase(settings.model_copy(update={"damsm": settings.damsm.model_copy(update={"word_weight": 0.0})}))
    regions = damsm.image_encoder.region_head.weight.clone()
    losses = [read(damsm.step(number)) for number in range(80)]
    first, last = (sum(step["sentence"] for step in part) / 10 for part in (losses[:10], losses[-10:]))
    assert last < 0.6 * first
    assert "words" not in losses[0]
    assert torch.equal(damsm.image_encoder.region_head.weight, regions)


def test_the_word_loss_has_its_weight() -> None:
    values = []
    for weight in (1.0, 0.25):
        settings = config()
        damsm = settings.damsm.model_copy(update={"word_weight": weight})
        values.append(read(damsm_phase(settings.model_copy(update={"damsm": damsm})).step(0)))
    assert values[1]["words"] == pytest.approx(0.25 * values[0]["words"])
    assert values[1]["sentence"] == pytest.approx(values[0]["sentence"])


def test_training_gives_the_text_its_influence() -> None:
    gan = gan_phase(config())
    noise, sentences = torch.randn(1, 8).expand(2, -1), torch.randn(2, 16)

    def difference() -> float:
        with torch.no_grad():
            one, other = gan.generator(noise, sentences).image
        return float((one - other).abs().max())

    assert difference() == 0
    for number in range(4):
        gan.step(number)
    assert difference() > 1e-3


def test_folded_and_trained_form_make_the_same_step() -> None:
    values = []
    for folded in (True, False):
        gan = gan_phase(config().model_copy(update={"folded": folded}))
        gan.step(0)
        values.append(read(gan.step(1)))
    assert values[0] == pytest.approx(values[1], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "present", "absent"),
    [
        ({}, {"G text", "G image", "D penalty"}, set()),
        ({"contrastive": {"enabled": False}}, {"D penalty"}, {"G text", "G image"}),
        ({"gradient_penalty_weight": 0.0}, {"G text"}, {"D penalty"}),
    ],
)
def test_switched_off_losses_are_not_computed(settings: dict[str, object], present: set[str], absent: set[str]) -> None:
    gan = gan_phase(config(**settings))
    names = set(gan.step(0).names)
    assert present <= names
    assert not absent & names


def test_an_interval_makes_the_penalty_rarer_and_as_much_heavier() -> None:
    penalties = {}
    for interval in (1, 3):
        gan = gan_phase(config(gradient_penalty_interval=interval))
        penalties[interval] = [read(gan.step(number)).get("D penalty") for number in range(3)]
    assert penalties[3][1:] == [None, None]
    assert penalties[1][0] is not None
    assert penalties[3][0] == pytest.approx(3 * penalties[1][0], rel=1e-4)


def test_the_average_follows_the_generator_ever_more_slowly() -> None:
    gan = gan_phase(config(ema_decay=0.15))
    gan.step(0)
    assert torch.equal(gan.average.fc.weight, gan.generator.fc.weight)
    for number, decay in ((1, 1 / 10), (2, 0.15), (3, 0.15)):
        average = gan.average.fc.weight.clone()
        gan.step(number)
        expected = decay * average + (1 - decay) * gan.generator.fc.weight
        torch.testing.assert_close(gan.average.fc.weight, expected)


def test_encoders_stay_as_they_are_while_the_gan_trains() -> None:
    gan = gan_phase(config())
    before = [p.clone() for net in (gan.text_encoder, gan.image_encoder) for p in net.state_dict().values()]
    gan.step(0)
    after = [p for net in (gan.text_encoder, gan.image_encoder) for p in net.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
