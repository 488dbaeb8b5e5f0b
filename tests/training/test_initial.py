"""What a run starts from: a whole model, or its encoders alone; and what does not fit."""

from pathlib import Path

import pytest
import torch

from tests.training.runs import assert_same, config_file, train
from training.checkpoint import load_checkpoint, load_model


@pytest.mark.parametrize(
    ("data", "model", "said"),
    [
        (
            {"resolution": 64},
            {},
            "grown to 64², does not fit the config: it has base_channels 2 instead of 4, max_channel_multiple 16",
        ),
        ({"resolution": 256}, {}, "grown to 256², would be too thin: base_channels is 0"),
        ({}, {"base_channels": 8}, "does not fit the config: it has base_channels 4 instead of 8"),
    ],
)
def test_a_model_that_does_not_fit_once_it_has_grown_is_an_error(
    straight: Path, tmp_path: Path, data: dict[str, object], model: dict[str, object], said: str
) -> None:
    config = config_file(tmp_path, data=data, model=model)
    result = train(config, "--out", tmp_path / "run", "--init", straight / "checkpoint.pt")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "run").exists()


def test_encoders_alone_start_a_run_of_another_generator(straight: Path, tmp_path: Path) -> None:
    """DAMSM is not trained again, so that runs can be compared that differ in the GAN alone."""
    checkpoint = straight / "checkpoint.pt"
    config = config_file(tmp_path, model={"adaptive_block": False}, damsm={"init_from": str(checkpoint)})
    result = train(config, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    start, end = (load_model(folder / "checkpoint.pt") for folder in (straight, tmp_path / "run"))
    assert end.words == start.words
    assert end.provenance["steps"] == {"damsm": 0, "gan": 6}
    assert end.provenance["initial"]["part"] == "encoders"
    before, after = (load_checkpoint(folder / "checkpoint.pt")["state"] for folder in (straight, tmp_path / "run"))
    assert_same(before["damsm"]["networks"], after["damsm"]["networks"])
    assert not torch.equal(*(state["gan"]["generator"]["fc.weight"] for state in (before, after)))


def test_a_run_says_that_what_it_starts_from_may_know_what_it_holds_out(straight: Path, tmp_path: Path) -> None:
    """Its own checkpoint has held out the same, but began from one that had not."""
    config, said = config_file(tmp_path, data={"validation_share": 0.25}), "may have learnt them: FID will be too low"
    clean = train(config, "--out", tmp_path / "clean")
    further = train(config, "--out", tmp_path / "further", "--init", tmp_path / "clean" / "checkpoint.pt")
    for result in (clean, further):
        assert result.exit_code == 0, result.output
        assert said not in result.stderr
    assert "validation" not in load_model(tmp_path / "further" / "checkpoint.pt").provenance["initial"]
    for origin, folder in ((straight, "one"), (tmp_path / "one", "two")):
        result = train(config, "--out", tmp_path / folder, "--init", origin / "checkpoint.pt")
        assert f"'{origin / 'checkpoint.pt'}' did not hold these out, and {said}" in result.stderr
        initial = load_model(tmp_path / folder / "checkpoint.pt").provenance["initial"]
        assert initial["validation"] == "may have been learnt"


def test_a_run_starts_from_one_model(straight: Path, tmp_path: Path) -> None:
    config = config_file(tmp_path, damsm={"init_from": str(straight / "checkpoint.pt")})
    result = train(config, "--out", tmp_path / "run", "--init", straight / "checkpoint.pt")
    assert result.exit_code == 2
    assert "remove one of them" in result.stderr
    assert not (tmp_path / "run").exists()
