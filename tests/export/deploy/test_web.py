"""`t2i-engine deploy web`: what it writes, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from export.deploy.folder import write_folder
from t2i_engine.cli import main
from t2i_engine.errors import OutputError
from tests.export.deploy.conftest import deploy


def refused(*arguments: object) -> str:
    """The one line of an error."""
    result = CliRunner().invoke(main, ["deploy", "web", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    *_, line = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def test_every_file_that_is_listed_is_there(tiny: Path, runtime: Path, plain_bundle: Path, tmp_path: Path) -> None:
    text = (tiny / "site.js").read_text("utf-8")
    site = json.loads(text.removeprefix("self.SITE = ").removesuffix(";\n"))
    listed = [*site["model"].values(), *(file for files in site["runtimes"].values() for file in files.values())]
    for file in listed:
        assert (tiny / file["url"].partition("?")[0]).stat().st_size == file["size"]
    for name in site["shell"]:
        assert (tiny / name / ("index.html" if name == "./" else "")).is_file()
    (tmp_path / "empty").mkdir()
    again = deploy(plain_bundle, "--out", tmp_path / "empty", "--runtime", runtime / "dist")
    assert {file.relative_to(again): file.read_bytes() for file in again.rglob("*") if file.is_file()} == {
        file.relative_to(tiny): file.read_bytes() for file in tiny.rglob("*") if file.is_file()
    }


def test_what_cannot_be_written_is_refused(runtime: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "kept").write_text("kept", "utf-8")
    for place in (full, full / "kept"):
        assert "is not an empty folder; choose a new one, or delete it" in refused("birds", "--out", place)
    assert "cannot write" in refused("birds", "--out", full / "kept" / "site", "--runtime", runtime)
    assert [file.name for file in tmp_path.rglob("*")] == ["full", "kept"]


def test_a_bundle_without_onnx_is_refused_with_the_cure(plain_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(plain_bundle, bundle)
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    del manifest["parity"]["onnx"]
    (bundle / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    assert refused(bundle, "--out", tmp_path / "site").endswith(
        f"has no format onnx, which browsers run: t2i-engine export {bundle} --formats onnx"
    )
    assert not (tmp_path / "site").exists()


def test_another_runtime_is_refused(runtime: Path, tmp_path: Path) -> None:
    other = tmp_path / "runtime"
    arguments = ["birds", "--out", tmp_path / "site", "--runtime", other]
    assert "cannot be read (No such file or directory); as --runtime, give the folder of" in refused(*arguments)
    shutil.copytree(runtime, other)
    with (other / "dist" / "ort.wasm.bundle.min.mjs").open("ab") as file:
        file.write(b"\n")
    assert "ort.wasm.bundle.min.mjs is not the one of onnxruntime-web 1.30.0: its SHA-256 differs" in refused(
        *arguments
    )
    assert [file.name for file in tmp_path.iterdir()] == ["runtime"]


def test_a_missing_or_failing_npm_is_told_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["birds", "--out", tmp_path / "site"]
    assert "npm, which fetches onnxruntime-web@1.30.0, is not installed: install Node.js, or run" in refused(*arguments)
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND\nnpm error no network' >&2\nexit 1\n", "utf-8")
    npm.chmod(0o755)
    line = refused(*arguments)
    assert "npm cannot fetch onnxruntime-web@1.30.0 (code ENOTFOUND no network); try again, or run npm pack" in line
    assert [file.name for file in tmp_path.iterdir()] == ["npm"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="null"):
        write_folder(tmp_path / "a\0b", {"index.html": b""})
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match=r"No space left on device\); choose another folder"):
        write_folder(tmp_path / "site", {"index.html": b"", "model/generator.onnx": b""})
    assert [*tmp_path.iterdir()] == []
