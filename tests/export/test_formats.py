"""`--formats`: what is asked for, what this machine can make, what is rejected, and adding to a bundle."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from export import fp16
from export.artifact import Artifact
from t2i_engine.backends import openvino, third_party_backends
from t2i_engine.backends.base import Status
from t2i_engine.bundle import Bundle
from t2i_engine.cli import main
from t2i_engine.formats import GENERATOR, Format, all_formats, find
from tests.tiny_model import SIZES, SMALL_GATE, make_model
from training.models.text_to_image import TextToImage


def export(source: Path | str, *options: str | Path) -> Result:
    return CliRunner().invoke(main, ["export", str(source), *map(str, options)], obj=SMALL_GATE)


@pytest.fixture(autouse=True)
def graphs_as_before(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes graphs from the tiny bundle instead of tracing them."""

    def build(_: TextToImage, row: Format, *__: object) -> Iterator[Artifact]:
        for graph, name in row.files.items():
            yield Artifact(name, (tiny_bundle / name).read_bytes(), row, graph, 18)

    monkeypatch.setattr("export.onnx_graphs.build", build)


@pytest.fixture
def plain(plain_bundle: Path, tmp_path: Path) -> Path:
    """A bundle with ONNX in fp32 alone, to add to."""
    return Path(shutil.copytree(plain_bundle, tmp_path / "plain"))


def names(folder: Path) -> list[str]:
    return [row.name for row in Bundle.open(folder).formats]


def test_a_misspelt_format_gets_the_nearest_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = export(tiny_checkpoint, "--out", tmp_path / "new", "--formats", "onnx,openvino-int9")
    assert result.exit_code == 2
    assert "unknown format 'openvino-int9' (did you mean 'openvino-int8'?)" in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_format_by_name_that_cannot_be_made_here_is_an_error(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "status", lambda: Status(lacks="OpenVINO is not installed: install it"))
    result = export(tiny_checkpoint, "--out", tmp_path / "new", "--formats", "onnx,openvino")
    assert result.exit_code == 2
    assert "format 'openvino' cannot be built and verified here: OpenVINO is not installed" in result.stderr


def test_a_checkpoint_needs_a_folder(tiny_checkpoint: Path) -> None:
    result = export(tiny_checkpoint)
    assert result.exit_code == 2
    assert "--out" in result.stderr


def test_formats_are_added_to_a_bundle_from_its_own_weights(plain: Path) -> None:
    before = {file: (plain / file).read_bytes() for file in Bundle.open(plain).manifest.files}
    assert names(plain) == ["onnx", "pytorch"]
    result = export(plain, "--formats", "openvino")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{plain}\n"
    bundle = Bundle.open(plain)
    assert names(plain) == ["onnx", "openvino", "pytorch"]
    assert bundle.manifest.parity["openvino"].worst.within(find("openvino").tolerance)
    assert {file: (plain / file).read_bytes() for file in bundle.manifest.files} == before  # it runs onnx's files
    assert "openvino" in str(bundle.manifest.provenance["added"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--formats", "onnx", "--no-fold"], "has these formats, so --no-fold would change nothing"),
        (["--formats", "openvino", "--no-fold"], "has this format's files, so --no-fold would change nothing"),
        (["--formats", "onnx", "--name", "better"], "--name would change nothing"),
    ],
)
def test_an_option_without_effect_is_an_error(plain: Path, options: list[str], message: str) -> None:
    before = (plain / "bundle.json").read_bytes()
    result = export(plain, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert (plain / "bundle.json").read_bytes() == before


def test_a_format_that_the_bundle_lacks_is_an_error_with_the_command_that_adds_it(plain: Path) -> None:
    result = CliRunner().invoke(main, ["generate", "a bird", "--bundle", str(plain), "--backend", "openvino"])
    assert result.exit_code == 2
    assert f"t2i-engine export {plain} --formats openvino" in result.stderr


def shift_image(proto: onnx.ModelProto) -> None:
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "generator.to_rgb.1.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float16(0.5), bias.name))


def test_a_format_outside_its_tolerance_is_rejected_with_the_reason(
    tiny_bundle: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(_: TextToImage, row: Format, *__: object) -> Iterator[Artifact]:
        for graph, name in row.files.items():
            proto = onnx.load(tiny_bundle / name)
            if graph == GENERATOR:
                shift_image(proto)
            yield Artifact(name, proto.SerializeToString(), row, graph, 18)

    monkeypatch.setattr("export.fp16.build", build)
    result = export(plain, "--formats", "onnx-fp16")
    assert result.exit_code == 1
    assert "rejected onnx-fp16: format onnx-fp16, graph generator, output psnr" in result.stderr.splitlines()[-1]
    bundle = Bundle.open(plain)
    assert names(plain) == ["onnx", "pytorch"]
    assert "20 allowed" in bundle.manifest.rejected["onnx-fp16"]
    assert not (plain / "generator.fp16.onnx").exists()
    assert "added" not in bundle.manifest.provenance


def test_fp16_graphs_are_half_between_fp32_borders(tiny_bundle: Path) -> None:
    for name in find("onnx-fp16").files.values():
        graph = onnx.load(tiny_bundle / name).graph
        weights = [tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 2]
        assert weights.count(onnx.TensorProto.FLOAT16) > 0.7 * len(weights)


def test_emulated_fp16_is_close_and_shows_overflow() -> None:
    model, row = make_model(), find("onnx-fp16")
    random = np.random.default_rng(0)
    widths = {"noise": SIZES.noise_width, "sentence": SIZES.sentence_width, "condition_noise": SIZES.sentence_width}
    feeds = {name: random.standard_normal((2, width), dtype=np.float32) for name, width in widths.items()}
    with torch.inference_mode():
        exact = model.generator(**{name: torch.from_numpy(feed) for name, feed in feeds.items()}).image.numpy()
    difference = fp16.emulate(model, row)[GENERATOR].run(feeds, ["image"])["image"] - exact
    assert 0 < np.abs(difference).max() < 0.05
    model.generator.fc.weight.data *= 1e6
    with pytest.raises(OverflowError, match="FP16 holds at most 65504"):
        fp16.emulate(model, row)[GENERATOR].run(feeds, ["image"])


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """An installed distribution with a backend `other`, whose one format shares the files of `onnx`."""
    site = tmp_path / "site"
    (site / "other-1.0.dist-info").mkdir(parents=True)
    (site / "other-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (site / "other-1.0.dist-info" / "entry_points.txt").write_text("[t2i_engine.backends]\nother = other_backend\n")
    (site / "other_backend.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(site)
    for cached in (third_party_backends, all_formats):
        cached.cache_clear()
    yield cast("ModuleType", third_party_backends()["other"])
    for cached in (third_party_backends, all_formats):
        cached.cache_clear()
    del sys.modules["other_backend"]


THIRD_PARTY = """
from dataclasses import replace
from t2i_engine.backends import onnxruntime
from t2i_engine.backends.base import Status
from t2i_engine.formats import find, FORMATS

TITLE, PACKAGES, IMPORTS = "Other", (), ()
FORMATS = [replace(next(row for row in FORMATS if row.name == "onnx"), name="other", backend="other", builder="")]
OFFSET = 0.0
opened = []

def status():
    return Status("other 1.0", devices={"cpu": None})

def open_runner(bundle, row, graph, device, threads):
    opened.append(graph)
    return Shifted(onnxruntime.open_runner(bundle, find("onnx"), graph, device, threads))

class Shifted:
    def __init__(self, runner):
        self.runner = runner

    def run(self, feeds, outputs):
        found = self.runner.run(feeds, outputs)
        return {name: array + OFFSET if name == "image" else array for name, array in found.items()}
"""


def test_a_third_party_format_that_shares_files_is_verified_without_being_built(
    plain: Path, third_party: ModuleType
) -> None:
    before = {file: (plain / file).read_bytes() for file in Bundle.open(plain).manifest.files}
    result = export(plain, "--formats", "other")
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(plain)
    assert names(plain) == ["onnx", "pytorch", "other"]
    assert third_party.opened == ["text_encoder", "generator"]
    assert bundle.manifest.parity["other"].worst.within(find("onnx").tolerance)
    assert "other 1.0" in str(bundle.manifest.provenance["added"])
    assert {file: (plain / file).read_bytes() for file in bundle.manifest.files} == before
    assert not [line for line in result.stderr.splitlines() if line.startswith(tuple(before))]  # nothing was built


def test_a_third_party_format_outside_its_tolerance_is_rejected(plain: Path, third_party: ModuleType) -> None:
    third_party.__dict__["OFFSET"] = 0.5
    result = export(plain, "--formats", "other")
    assert result.exit_code == 1
    assert names(plain) == ["onnx", "pytorch"]
    assert "output image" in Bundle.open(plain).manifest.rejected["other"]


@pytest.mark.usefixtures("third_party")
def test_a_third_party_formats_shared_files_are_built_where_they_are_missing(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    result = export(tiny_checkpoint, "--out", tmp_path / "new", "--formats", "other")
    assert result.exit_code == 0, result.stderr
    assert names(tmp_path / "new") == ["pytorch", "other"]
    for file in find("onnx").all_files:
        assert (tmp_path / "new" / file).read_bytes() == (tiny_bundle / file).read_bytes()


def test_a_third_party_format_whose_files_nobody_builds_is_an_error(plain: Path, third_party: ModuleType) -> None:
    third_party.FORMATS[0] = replace(third_party.FORMATS[0], extra_files=("other.bin",))
    all_formats.cache_clear()
    result = export(plain, "--formats", "other")
    assert result.exit_code == 2
    assert "format 'other' names no builder" in result.stderr


def test_a_manifest_of_exact_formats_has_no_fields_that_they_do_not_need(plain: Path) -> None:
    text = (plain / "bundle.json").read_text()
    assert [field for field in ("psnr", "rejected", "unverified") if field in text] == []
