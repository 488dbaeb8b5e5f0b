"""Both trainers learn: flat red, green, blue and yellow pictures, told apart by their captions."""

import numpy as np
import pytest
import torch

from t2i_engine.tokenizer import Tokenizer
from training.config import RunConfig, parse_config
from training.damsm import DamsmTrainer
from training.data.corpus import Corpus, build_vocabulary
from training.gan import GanTrainer
from training.models.text_to_image import TextToImage
from training.run import model_sizes

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (220, 220, 30)}
CPU = torch.device("cpu")


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
    captions = [[f"a {name} picture", f"{name}"] for name in COLOURS] * 8
    return Corpus(
        pictures,
        captions,
        Tokenizer(build_vocabulary(text for texts in captions for text in texts)),
        18,
        horizontal_flip=True,
    )


def trainers(settings: RunConfig) -> tuple[DamsmTrainer, GanTrainer]:
    torch.manual_seed(0)
    data = corpus()
    model = TextToImage(model_sizes(settings, 7))
    damsm = DamsmTrainer(settings, data, model.text_encoder, CPU)
    return damsm, GanTrainer(settings, data, damsm.text_encoder, damsm.image_encoder, model.generator, CPU)


def test_damsm_learns_which_caption_belongs_to_which_picture() -> None:
    damsm, _ = trainers(config())
    losses = [damsm.step(number) for number in range(80)]
    first, last = (sum(step["sentence"] for step in part) / 10 for part in (losses[:10], losses[-10:]))
    assert last < 0.6 * first


def test_training_gives_the_text_its_influence() -> None:
    _, gan = trainers(config())
    gan.freeze_encoders()
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
        _, gan = trainers(config().model_copy(update={"folded": folded}))
        gan.freeze_encoders()
        gan.step(0)
        values.append(gan.step(1))
    assert values[0] == pytest.approx(values[1], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("gan", "present", "absent"),
    [
        ({}, {"G text", "G image", "D penalty"}, set()),
        ({"contrastive": {"enabled": False}}, {"D penalty"}, {"G text", "G image"}),
        ({"gradient_penalty_weight": 0.0}, {"G text"}, {"D penalty"}),
    ],
)
def test_switched_off_losses_are_not_computed(gan: dict[str, object], present: set[str], absent: set[str]) -> None:
    _, trainer = trainers(config(**gan))
    trainer.freeze_encoders()
    names = set(trainer.step(0))
    assert present <= names
    assert not absent & names


def test_an_interval_makes_the_penalty_rarer_and_as_much_heavier() -> None:
    penalties = {}
    for interval in (1, 3):
        _, trainer = trainers(config(gradient_penalty_interval=interval))
        trainer.freeze_encoders()
        penalties[interval] = [trainer.step(number).get("D penalty") for number in range(3)]
    assert penalties[3][1:] == [None, None]
    assert penalties[1][0] is not None
    assert penalties[3][0] == pytest.approx(3 * penalties[1][0], rel=1e-4)


def test_the_average_follows_the_generator_slowly() -> None:
    _, gan = trainers(config(ema_decay=0.9))
    gan.freeze_encoders()
    gan.step(0)
    average = gan.averaged_generator.fc.weight.clone()
    gan.step(1)
    expected = 0.9 * average + 0.1 * gan.generator.fc.weight
    torch.testing.assert_close(gan.averaged_generator.fc.weight, expected)


def test_encoders_stay_as_they_are_while_the_gan_trains() -> None:
    _, gan = trainers(config())
    gan.freeze_encoders()
    before = [p.clone() for net in (gan.text_encoder, gan.image_encoder) for p in net.state_dict().values()]
    gan.step(0)
    after = [p for net in (gan.text_encoder, gan.image_encoder) for p in net.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
