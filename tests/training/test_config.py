"""Configs: one schema, errors that name the key, and defaults that are the paper's."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from t2i_engine.migration import OLD_KEYS
from training.config import ConfigError, RunConfig, load_config, parse_config

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_fit_the_schema_and_bear_their_file_name(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_df_gan_is_the_papers_config_without_the_three_contributions() -> None:
    paper, dfgan = (load_config(CONFIGS / f"cub-256-{name}.yaml").model_dump() for name in ("paper", "dfgan"))
    paper["name"] = dfgan["name"]
    paper["model"] |= {"conditioning_augmentation": False, "adaptive_block": False}
    paper["gan"]["contrastive"]["enabled"] = False
    assert paper == dfgan


def test_numbers_may_be_written_as_powers_of_ten(tmp_path: Path) -> None:
    path = tmp_path / "powers.yaml"
    path.write_text("name: powers\ngan: {generator_learning_rate: 2e-4, kl_weight: 1E+1}\n", encoding="utf-8")
    gan = load_config(path).gan
    assert (gan.generator_learning_rate, gan.kl_weight) == (2e-4, 10.0)


def test_defaults_are_the_papers() -> None:
    config = parse_config({"name": "x"}, "x")
    assert config.data.resolution == 256
    assert (config.model.base_channels, config.model.noise_width, config.model.sentence_width) == (32, 100, 256)
    assert config.model.conditioning_augmentation
    assert config.model.adaptive_block
    assert config.gan.contrastive.enabled
    assert config.gan.batch_size == 16
    assert (config.gan.generator_learning_rate, config.gan.discriminator_learning_rate) == (1e-4, 4e-4)
    assert config.gan.adam_betas == (0.0, 0.9)
    assert (
        config.gan.gradient_penalty_weight,
        config.gan.gradient_penalty_power,
        config.gan.gradient_penalty_interval,
    ) == (2.0, 6.0, 1)
    assert (config.damsm.gamma1, config.damsm.gamma2, config.damsm.gamma3) == (4.0, 5.0, 10.0)
    assert (config.damsm.learning_rate, config.damsm.gradient_clip) == (2e-3, 0.25)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"name": "x", "gan": {"bach_size": 4}}, ["gan.bach_size", "did you mean gan.batch_size?"]),
        ({"name": "x", "gan": {"contrastive": {"temperatur": 1.0}}}, ["did you mean gan.contrastive.temperature?"]),
        ({"name": "x", "zzz": 1}, ["unknown key zzz", "known keys: name, data"]),
        ({"name": "x", "gan": {"steps": "many"}}, ["gan.steps"]),
        ({"name": "x", "gan": {"steps": 0}}, ["gan.steps"]),
        ({"name": "x", "data": {"resolution": 48}}, ["data.resolution", "power of two"]),
        ({"name": "x", "data": {"resolution": 8192}}, ["data.resolution", "from 32 to 4096"]),
        ({"name": "x", "gan": {"generator_learning_rate": math.inf}}, ["gan.generator_learning_rate", "finite"]),
        ({"name": "x", "gan": {"kl_weight": math.inf}}, ["gan.kl_weight", "finite"]),
        ({"name": "x", "gan": {"contrastive": {"temperature": math.inf}}}, ["temperature", "finite"]),
        ({"name": "x", "damsm": {"gamma1": math.inf}}, ["damsm.gamma1", "finite"]),
        ({"name": "x", "data": {"source": "cats"}}, ["data.source", "synthbirds"]),
        ({"name": "x", "model": {"sentence_width": 7}}, ["model.sentence_width"]),
        ({"name": "no/slash"}, ["name"]),
        ({}, ["name"]),
        (["name"], ["mapping"]),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(content: object, named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(content, "mine.yaml")
    assert "mine.yaml" in caught.value.message
    assert "\n" not in caught.value.message
    for part in named:
        assert part in caught.value.message


def test_assignments_change_the_file_under_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ngan: {steps: 5, batch_size: 4}\n", encoding="utf-8")
    assignments = [
        "gan.steps=7",
        "gan.generator_learning_rate=2e-4",
        "gan.contrastive.enabled=false",
        "data.source=cub:data/birds",
        "sample_captions=[a red bird, a blue one]",
        "gan.steps=8",
    ]
    config = load_config(path, assignments)
    assert (config.gan.steps, config.gan.batch_size, config.gan.generator_learning_rate) == (8, 4, 2e-4)
    assert not config.gan.contrastive.enabled
    assert config.data.source == "cub:data/birds"
    assert config.sample_captions == ("a red bird", "a blue one")


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("gan.step=7", ["unknown key gan.step", "did you mean gan.steps?", "mine.yaml --set gan.step=7"]),
        ("gann.steps=7", ["unknown key gann", "did you mean gan?"]),
        ("gan.steps=many", ["gan.steps", "valid integer"]),
        ("seed.x=1", ["seed", "valid integer"]),
        ("gan.steps", ["--set 'gan.steps' cannot be read", "KEY=VALUE"]),
        ("gan..steps=7", ["cannot be read"]),
        ("=7", ["cannot be read"]),
        ("sample_captions=[a", ["--set 'sample_captions=[a'", "not YAML"]),
        ("name=2001-99-99", ["not YAML"]),
        (f"name={'[' * 3000}", ["not YAML"]),
    ],
)
def test_an_assignment_that_does_not_fit_is_named_in_one_line(
    tmp_path: Path, assignment: str, named: list[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, [assignment])
    assert "\n" not in caught.value.message
    for part in named:
        assert part in caught.value.message


@pytest.mark.parametrize(("old", "new"), OLD_KEYS.items())
def test_a_renamed_key_answers_with_its_new_name(old: str, new: str) -> None:
    content: dict[str, Any] = {"name": "x"}
    section = content
    *sections, last = old.split(".")
    for name in sections:
        section = section.setdefault(name, {})
    section[last] = 1
    with pytest.raises(ConfigError, match=rf"mine\.yaml.*unknown key {old}; it is called {new} now"):
        parse_config(content, "mine.yaml")
    assert new in leaves(RunConfig)


def leaves(section: type[BaseModel], prefix: str = "") -> dict[str, str | None]:
    """Every key of the schema with its description."""
    found: dict[str, str | None] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= leaves(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = field.description
    return found


def test_every_key_is_documented() -> None:
    assert [key for key, description in leaves(RunConfig).items() if not description] == []


@pytest.mark.parametrize(
    "content", [b"name: [", b"\xff\xfe\x00", b"!!python/object/apply:os.system ['true']", b"[" * 3000]
)
def test_unreadable_files_are_user_errors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(path)


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")
