"""Dry runs: they print a config that can be used, count what a step takes, and write nothing."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from t2i_engine.manifest import ModelSizes
from t2i_engine.tokenizer import Tokenizer
from tests.training.runs import TINY, train
from training.config import load_config, model_sizes, parse_config
from training.damsm import DamsmPhase
from training.data.feed import Feed
from training.data.loading import load_training_data
from training.dry_run import describe, flops_of
from training.models.discriminator import Discriminator
from training.models.generator import Generator
from training.models.text_to_image import TextToImage
from training.step import GanPhase


def table(text: str, first: str) -> dict[str, list[str]]:
    """The rows of the table among the comments whose head begins with `first`."""
    lines = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    start = next(number for number, line in enumerate(lines) if line.startswith(first))
    end = lines.index("", start) if "" in lines[start:] else len(lines)
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[start + 1 : end]]
    return {row[0]: row[1:] for row in rows}


def test_it_prints_the_config_that_would_run_with_sizes_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = ("gan.steps=7", "damsm.image_encoder=efficientnet-lite0")
    result = train(TINY, "--dry-run", *(part for setting in settings for part in ("--set", setting)))
    assert result.exit_code == 0, result.output
    assert parse_config(yaml.safe_load(result.stdout), "printed") == load_config(TINY, settings)
    assert not list(tmp_path.iterdir())
    config, networks = load_config(TINY), table(result.stdout, "network")
    sizes = ModelSizes(resolution=32, vocabulary_size=9, **config.model.model_dump())
    for name, network in (("generator", Generator(sizes)), ("discriminator", Discriminator(32, 4, 16))):
        count = sum(parameter.numel() for parameter in network.parameters())
        assert networks[name] == [f"{count:,}", f"{count:,}"]
    heads = 112 * 16 + 1280 * 16 + 16
    assert networks["image encoder"][1] == f"{heads:,}"
    assert set(table(result.stdout, "phase")) == {"damsm", "gan"}


def test_flops_are_those_of_real_steps() -> None:
    config = load_config(TINY, ["precision=fp32"])
    data = load_training_data(config.data)
    tokenizer, device = Tokenizer(data.words), torch.device("cpu")
    corpus = data.batches(tokenizer)
    model = TextToImage(model_sizes(config, len(tokenizer.words)))
    damsm = DamsmPhase(config, model.text_encoder, device)
    gan = GanPhase(config, damsm.text_encoder, damsm.image_encoder, model.generator, device)
    feed = Feed(corpus, config.seed, config.gan.batch_size, device, max_words=None, hard_negatives=0)
    gan.begin(feed, corpus.unique_captions)
    with_penalty, without = (flops_of(partial(gan.step, number)) for number in (0, 1))
    a_step = 1e9 * float(table(describe(config), "phase")["gan"][1])
    assert without < with_penalty
    assert a_step == pytest.approx((with_penalty + without) / 2, rel=0.07)  # a tenth of a GFLOP is what is printed


def test_twice_the_pictures_take_twice_the_flops_and_activations_and_the_same_weights() -> None:
    # In bf16, autocast's copies of the weights count as activations.
    sizes = ([f"gan.batch_size={size}", "precision=fp32"] for size in (32, 64))
    small, large = (table(describe(load_config(TINY, settings)), "phase")["gan"] for settings in sizes)
    for column, times in ((0, 1.0), (1, 2.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 2.0)):
        assert float(large[column]) == pytest.approx(times * float(small[column]), rel=0.1), (small, large)


def test_accumulated_batches_take_the_flops_of_their_pictures() -> None:
    """A step draws the pictures of several batches twice; but for that, 1 would do as the first number."""
    settings = ([f"gan.gradient_accumulation={count}", "model.base_channels=16"] for count in (2, 4))
    two, four = (table(describe(load_config(TINY, changes)), "phase")["gan"] for changes in settings)
    assert four[0] == two[0]
    assert float(four[1]) == pytest.approx(2 * float(two[1]), rel=0.05)


def test_a_head_start_of_the_discriminator_does_not_hide_what_the_generator_takes() -> None:
    plain, delayed = (describe(load_config(TINY, [f"gan.discriminator_warmup={steps}"])) for steps in (0, 3))
    assert table(plain, "phase") == table(delayed, "phase")
