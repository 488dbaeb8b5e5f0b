"""Bundles of schema 1, as version 0.1.0 wrote them, and `t2i-engine migrate`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from t2i_engine.bundle import Bundle
from t2i_engine.cli import main
from t2i_engine.engine import Engine
from t2i_engine.manifest import MANIFEST, FileEntry

OLD = {"resolution": "picture_side", "base_channels": "base_width", "max_channel_multiple": "width_limit"}
TRAINING_ONLY = {"image_encoder.safetensors": b"image encoder", "discriminator.safetensors": b"discriminator"}


@pytest.fixture
def old_bundle(plain_bundle: Path, tmp_path: Path) -> Path:
    """The plain bundle as schema 1 described it, with the networks that only training reads."""
    folder = Path(shutil.copytree(plain_bundle, tmp_path / "old"))
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["schema"] = 1
    manifest["model"] = {OLD.get(name, name): value for name, value in manifest["model"].items()}
    manifest["provenance"]["metrics"] = {"evaluations": [{"picture_side": 32, "left_out": 1, "faithfulness": {}}, None]}
    manifest["provenance"]["export"]["proved_with"] = manifest["provenance"]["export"].pop("verified_with")
    manifest["provenance"]["config"] = {"data": {"side": 32}, "gan": {"accumulate": 1, "steps": 2}}
    manifest["provenance"]["added"] = [{"formats": ["onnx"], "proved_with": ["onnxruntime"]}]
    manifest["unproved"] = {"tensorrt-fp16": "no GPU"}
    manifest["left_out"] = {"onnx-int8": "it is far off"}
    for name, content in TRAINING_ONLY.items():
        (folder / name).write_bytes(content)
        entry = FileEntry.of(content)
        manifest["files"][name] = {"sha256": entry.sha256, "size": entry.size}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def _migrate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["migrate", *map(str, arguments)])


def test_opening_an_old_bundle_names_the_command(old_bundle: Path) -> None:
    result = CliRunner().invoke(main, ["generate", "a red bird", "--bundle", str(old_bundle)])
    assert result.exit_code == 2
    assert f"its schema is 1, this t2i-engine reads 2; run t2i-engine migrate {old_bundle}\n" in result.stderr
    assert result.stderr.count("\n") == 1


def test_migrated_bundle_draws_the_same_pictures(old_bundle: Path, plain_bundle: Path) -> None:
    result = _migrate(old_bundle)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{old_bundle}\n"
    before, after = Bundle.open(plain_bundle), Bundle.open(old_bundle)
    assert after.sizes == before.sizes
    assert after.graphs == before.graphs
    assert after.manifest.files == before.manifest.files
    assert after.manifest.parity == before.manifest.parity
    evaluation = {"resolution": 32, "skipped": 1, "attribute_accuracy": {}}
    metrics = {"evaluations": [evaluation, None]}
    config = {"data": {"resolution": 32}, "gan": {"gradient_accumulation": 1, "steps": 2}}
    added = [{"formats": ["onnx"], "verified_with": ["onnxruntime"]}]
    expected = {**before.manifest.provenance, "metrics": metrics, "config": config, "added": added}
    assert after.manifest.provenance == expected
    assert after.manifest.unverified == {"tensorrt-fp16": "no GPU"}
    assert after.manifest.rejected == {"onnx-int8": "it is far off"}
    assert {path.name for path in old_bundle.iterdir()} == {MANIFEST, *after.manifest.files}
    one, other = [Engine.open(folder).generate("a red bird").pixels for folder in (plain_bundle, old_bundle)]
    np.testing.assert_array_equal(one, other)


def test_bundle_gets_the_terms_of_its_data_unless_it_has_its_own(old_bundle: Path) -> None:
    file = old_bundle / MANIFEST
    manifest = json.loads(file.read_bytes())
    manifest["provenance"]["dataset"] = {"source": "cub:birds"}
    file.write_text(json.dumps(manifest))
    _migrate(old_bundle)
    migrated = Bundle.open(old_bundle)
    assert migrated.license
    assert "CUB-200-2011" in migrated.license
    own = replace(migrated.manifest, license="agreed with the photographers")
    file.write_bytes(own.to_json())
    _migrate(old_bundle)
    assert Bundle.open(old_bundle).manifest == own


def test_current_bundle_stays_as_it_is(old_bundle: Path) -> None:
    _migrate(old_bundle)
    before = {path.name: path.stat().st_mtime_ns for path in old_bundle.iterdir()}
    assert _migrate(old_bundle).exit_code == 0
    assert {path.name: path.stat().st_mtime_ns for path in old_bundle.iterdir()} == before


def test_migration_that_was_killed_before_it_deleted_is_completed(old_bundle: Path) -> None:
    _migrate(old_bundle)
    (old_bundle / "discriminator.safetensors").touch()
    assert _migrate(old_bundle).exit_code == 0
    assert not (old_bundle / "discriminator.safetensors").exists()


def test_manifest_that_cannot_be_replaced_leaves_the_old_bundle(
    old_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in old_bundle.iterdir()}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    result = _migrate(old_bundle)
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert {path.name: path.read_bytes() for path in old_bundle.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory); a bundle is a folder with a bundle.json"),
        ("{", "cannot be migrated: it is not JSON"),
        ("[]", "cannot be migrated: a JSON object was expected"),
        ('{"schema": 99}', "cannot be migrated: its schema is 99, this t2i-engine reads 2: update t2i-engine"),
        ('{"schema": 1, "files": {}, "model": 3, "name": "a"}', "cannot be migrated: model is '3', an object expected"),
        ('{"schema": 1, "files": [], "model": {}, "name": "a"}', "cannot be migrated: its schema is 1"),
    ],
)
def test_what_is_not_an_old_bundle_is_one_line_and_stays(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / MANIFEST).write_text(content)
    (tmp_path / "image_encoder.safetensors").touch()
    result = _migrate(tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "image_encoder.safetensors").exists()


def test_path_that_is_not_there_and_an_out_for_a_bundle_are_one_line(old_bundle: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ([tmp_path / "nowhere"], "cannot be found; give a bundle's folder or a checkpoint"),
        ([old_bundle, "--out", tmp_path / "new"], "--out is for checkpoints; a bundle is rewritten in place"),
    ):
        result = _migrate(*arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
