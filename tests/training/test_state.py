"""States: small, readable without pickle, of one model only, and the beginning of the same run elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from export.pipeline import export_bundle
from t2i_engine.bundle import Bundle
from t2i_engine.cli import main as command_line
from t2i_engine.errors import BundleError, OutputError
from t2i_engine.table import size
from tests.training.runs import config_file, train
from training.checkpoint import load_checkpoint, load_model, save_checkpoint
from training.config import load_config
from training.evaluation.evaluate import open_model
from training.initial import InitialError, InitialModel, starting_model
from training.models.discriminator import Discriminator
from training.models.image_encoder import EfficientNetLite0, ImageEncoder, SmallCNN
from training.models.text_to_image import read_model
from training.state import KEY, StateError, load_state, main, write_state


@pytest.fixture(scope="module")
def state(straight: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of the finished tiny run."""
    return write_state(straight / "checkpoint.pt", tmp_path_factory.mktemp("states") / "tiny.safetensors")


def start(config: Path, initial: Path | str) -> InitialModel:
    model = starting_model(load_config(config, [f"init_from={initial}", "gan.steps=9"]))
    assert model is not None
    return model


def close(found: Tensor, expected: Tensor) -> None:
    """Equal but for rounding to half precision."""
    torch.testing.assert_close(found.float(), expected.float(), rtol=2**-11, atol=2**-25)


def with_tensors(checkpoint: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a checkpoint with other content."""
    content = load_checkpoint(checkpoint)
    change(content)
    torch.save(content, path)
    return path


def test_a_state_has_all_networks_of_the_run_in_half_precision_and_half_its_size(straight: Path, state: Path) -> None:
    content = load_checkpoint(straight / "checkpoint.pt")
    found, run = load_state(state), content["state"]
    assert found.trained.words == tuple(content["words"])
    assert found.generator
    assert found.steps == {"damsm": 4, "gan": 6}
    assert found.trained.provenance["config"] == content["provenance"]["config"]
    assert found.plan == run["plan"]
    for name, tensor in content["weights"].items():
        close(found.trained.model.state_dict()[name], tensor)
    assert found.trained.image_encoder
    assert found.trained.discriminator
    image_encoder = {f"image_encoder.{name}": tensor for name, tensor in found.trained.image_encoder.items()}
    for restored, saved in (
        (found.generator, run["gan"]["generator"]),
        (found.trained.discriminator, run["gan"]["discriminator"]),
        (image_encoder, {name: one for name, one in run["damsm"]["networks"].items() if name in image_encoder}),
    ):
        assert restored.keys() == saved.keys()
        for name, tensor in saved.items():
            close(restored[name], tensor)
    assert state.stat().st_size < (straight / "checkpoint.pt").stat().st_size / 3
    assert {tensor.dtype for tensor in load_file(state).values()} == {torch.float16, torch.int64}


def test_export_and_evaluate_read_a_state_as_a_checkpoint(state: Path, tmp_path: Path) -> None:
    assert open_model(str(state)).name == state.name
    exported = export_bundle(str(state), tmp_path / "whole", "whole", lambda _: None, "pytorch")
    weights = load_state(state).trained.model.state_dict()
    for name, tensor in read_model(Bundle.open(exported.folder)).state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)
    half = tmp_path / "half.safetensors"
    half.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    for command in (["export", str(half), "--out", str(tmp_path / "bundle")], ["evaluate", str(half)]):
        result = CliRunner().invoke(command_line, command)
        assert (result.exit_code, "is truncated or not a safetensors file" in result.output) == (2, True), result.output


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_bundle_on_the_hub_is_not_a_file_whatever_its_name(suffix: str, tmp_path: Path) -> None:
    name = f"hf:not a name{suffix}"
    for command in (["export", name, "--out", str(tmp_path / "bundle")], ["evaluate", name]):
        result = CliRunner().invoke(command_line, command)
        assert (result.exit_code, "is not a bundle on the hub" in result.output) == (2, True), result.output
    with pytest.raises(BundleError, match="is not a bundle on the hub"):
        start(config_file(tmp_path), name)


def test_a_run_starts_from_a_state_as_the_run_it_was(straight: Path, state: Path, tmp_path: Path) -> None:
    initial = start(config_file(tmp_path), state)
    assert initial.steps == {"damsm": 4, "gan": 6}
    assert initial.plan == load_checkpoint(straight / "checkpoint.pt")["state"]["plan"]
    segment = initial.segments[-1]
    assert segment["steps"] == {"damsm": [0, 4], "gan": [0, 6]}
    assert segment["torch"].startswith(torch.__version__.partition("+")[0])
    assert initial.seconds == pytest.approx(3600 * segment["hours"])
    initial.require_fits(load_model(straight / "checkpoint.pt").model.sizes)
    assert initial.generator
    assert initial.generator.keys() == initial.model.generator.state_dict().keys()


def test_a_state_of_a_finished_run_is_an_error_that_says_to_raise_the_steps(state: Path, tmp_path: Path) -> None:
    result = train(config_file(tmp_path), "--out", tmp_path / "run", "--init", state)
    assert result.exit_code == 2
    assert "is after step 6 of the GAN; raise gan.steps to continue it" in result.stderr
    assert not (tmp_path / "run").exists()


def test_encoders_of_a_state_start_a_new_run_at_step_0(state: Path, tmp_path: Path) -> None:
    initial = starting_model(load_config(config_file(tmp_path, damsm={"init_from": str(state)})))
    assert initial
    assert initial.encoders_only
    assert [initial.steps, initial.segments, initial.plan, initial.generator] == [{}, [], {}, None]


def test_weights_only_draw_and_start_a_new_run_at_step_0(straight: Path, state: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    main([str(straight / "checkpoint.pt"), "--out", str(weights), "--weights-only"])
    assert weights.stat().st_size < state.stat().st_size / 2
    whole, only = load_state(state).trained, load_state(weights).trained
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(only.model.state_dict()[name], tensor), name
    result = train(config_file(tmp_path), "--out", tmp_path / "run", "--init", weights)
    assert result.exit_code == 0, result.output
    assert "starting at step 0" in result.stderr
    provenance = load_model(tmp_path / "run" / "checkpoint.pt").provenance
    assert provenance["steps"] == {"damsm": 4, "gan": 6}  # an image encoder to match the text encoder
    assert (provenance["initial"]["run"], provenance["initial"]["steps"]) == ("tiny", {"damsm": 4, "gan": 6})


def test_the_same_state_is_the_same_bytes(straight: Path, state: Path, tmp_path: Path) -> None:
    again = write_state(straight / "checkpoint.pt", tmp_path / "again.safetensors")
    assert again.read_bytes() == state.read_bytes()


def test_the_command_prints_path_and_size(straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "states" / "tiny.safetensors"
    main([str(straight / "checkpoint.pt"), "--out", str(out)])
    assert capsys.readouterr().out == f"{out}  {size(out.stat().st_size)}\n"
    with pytest.raises(SystemExit):
        main([str(straight / "checkpoint.pt"), "--out", str(tmp_path / "tiny.pt")])
    assert "ends in .safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"resolution": 64}}, "resolution 32 instead of 64; a state continues its own model only"),
        ({"model": {"base_channels": 8}}, "base_channels 4 instead of 8; a state"),
    ],
)
def test_a_state_of_other_sizes_is_an_error(state: Path, tmp_path: Path, changes: dict[str, object], said: str) -> None:
    result = train(config_file(tmp_path, gan={"steps": 9}, **changes), "--out", tmp_path / "run", "--init", state)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "run").exists()


class OtherDiscriminator(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = torch.nn.Linear(3, 1)


def test_a_state_of_another_discriminator_or_backbone_is_an_error(state: Path, tmp_path: Path) -> None:
    initial = start(config_file(tmp_path), state)
    with pytest.raises(InitialError, match=r"another discriminator than gan\.discriminator asks for"):
        initial.load_auxiliary_into(ImageEncoder(SmallCNN(), 16), OtherDiscriminator(), fresh=True)
    with pytest.raises(InitialError, match=r"another image encoder than damsm\.image_encoder asks for"):
        initial.load_auxiliary_into(
            ImageEncoder(EfficientNetLite0(pretrained=False), 16), Discriminator(32, 4, 16), fresh=False
        )


def test_imagenet_networks_are_left_out_and_stay_as_their_package_has_them(straight: Path, tmp_path: Path) -> None:
    encoder = ImageEncoder(EfficientNetLite0(pretrained=False), 16)

    def with_lite0(content: dict[str, Any]) -> None:
        networks = content["state"]["damsm"]["networks"]
        kept = {name: tensor for name, tensor in networks.items() if not name.startswith("image_encoder.")}
        own = {f"image_encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
        content["state"]["damsm"]["networks"] = kept | own

    checkpoint = with_tensors(straight / "checkpoint.pt", tmp_path / "lite0.pt", with_lite0)
    state = write_state(checkpoint, tmp_path / "lite0.safetensors")
    assert state.stat().st_size < 1e6  # the ImageNet network has 3.4 million weights
    other = ImageEncoder(EfficientNetLite0(pretrained=False), 16)
    backbone = {name: tensor.clone() for name, tensor in other.backbone.state_dict().items()}
    start(config_file(tmp_path), state).load_auxiliary_into(other, Discriminator(32, 4, 16), fresh=False)
    assert all(torch.equal(tensor, backbone[name]) for name, tensor in other.backbone.state_dict().items())
    close(other.picture_head.weight, encoder.picture_head.weight)


@pytest.mark.parametrize("value", [1e5, float("nan")])
def test_a_weight_too_large_for_half_precision_is_named(straight: Path, tmp_path: Path, value: float) -> None:
    def overflow(content: dict[str, Any]) -> None:
        content["state"]["gan"]["discriminator"]["conv_img.bias"][0] = value

    checkpoint = with_tensors(straight / "checkpoint.pt", tmp_path / "large.pt", overflow)
    with pytest.raises(StateError, match=r"discriminator\.conv_img\.bias holds .* 65,504"):
        write_state(checkpoint, tmp_path / "large.safetensors")
    assert not (tmp_path / "large.safetensors").exists()


def test_weights_alone_are_not_a_run(straight: Path, tmp_path: Path) -> None:
    trained = load_model(straight / "checkpoint.pt")
    weights = trained.model.state_dict()
    save_checkpoint(tmp_path / "model.pt", trained.model.sizes, trained.words, weights, {})
    with pytest.raises(StateError, match="holds only weights"):
        write_state(tmp_path / "model.pt", tmp_path / "model.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 0.5, 0.99])
def test_half_a_state_is_a_user_error(state: Path, tmp_path: Path, kept: float) -> None:
    content = state.read_bytes()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(StateError, match="truncated or not a safetensors file"):
        load_state(broken)


def test_foreign_files_are_told_apart(straight: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    with pytest.raises(StateError, match="not found"):
        load_state(path)
    path.write_bytes((straight / "checkpoint.pt").read_bytes())
    with pytest.raises(StateError, match="not a safetensors file"):
        load_state(path)
    save_file({"fc.weight": torch.zeros(3)}, path)
    with pytest.raises(StateError, match="not a 't2i-engine state 1' file"):
        load_state(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("sizes", {"resolution": 2**40}), ("sizes", None), ("words", 5), ("provenance", {}), ("plan", None)],
)
def test_a_state_that_does_not_fit_its_description_is_a_user_error(
    state: Path, tmp_path: Path, key: str, value: object
) -> None:
    with safe_open(state, "pt") as file:
        run = json.loads(file.metadata()[KEY])
    run[key] = value
    path = tmp_path / "odd.safetensors"
    save_file(load_file(state), path, {KEY: json.dumps(run)})
    with pytest.raises(StateError, match="does not fit its own description"):
        load_state(path)


def test_a_state_that_cannot_be_written_leaves_the_one_before(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_state(straight / "checkpoint.pt", tmp_path / "tiny.safetensors")
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        write_state(straight / "checkpoint.pt", path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
