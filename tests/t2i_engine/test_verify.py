"""`t2i-engine verify`: PASSED for a bundle that computes what PyTorch computes, FAILED with a name for any other."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from t2i_engine.backends.base import Status
from t2i_engine.bundle import Bundle
from t2i_engine.cli import main
from t2i_engine.manifest import MANIFEST, FileEntry
from t2i_engine.picture_reference import PICTURES
from t2i_engine.reference import Reference, read_reference
from tests.tiny_model import RUNS_HERE, SMALL_GATE

FILES = [
    "bundle.json",
    "generator.onnx",
    "near_words.json",
    "reference.npz",
    "text_encoder.onnx",
    "vocabulary.json",
    "weights.safetensors",
]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)], obj=SMALL_GATE)


@pytest.fixture
def copied(plain_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that may be damaged."""
    return Path(shutil.copytree(plain_bundle, tmp_path / "tiny"))


def with_reference(folder: Path, change: Callable[[Reference], Reference]) -> Path:
    """Changes the reference, and the manifest with it, so that every SHA-256 is right."""
    bundle = Bundle.open(folder)
    content = change(read_reference(bundle)).to_npz()
    files = {**bundle.manifest.files, "reference.npz": FileEntry.of(content)}
    (folder / "reference.npz").write_bytes(content)
    (folder / MANIFEST).write_bytes(replace(bundle.manifest, files=files).to_json())
    return folder


def test_exported_bundle_passes_against_reference_and_pytorch(plain_bundle: Path) -> None:
    result = run(plain_bundle)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "PASSED"
    table = [line.split() for line in result.stdout.splitlines()]
    compared = {tuple(cells[:3]) for cells in table if cells and cells[-1] == "ok"}
    outputs = ["sentence", "image", "pixels"]
    assert compared >= {("onnx", output, against) for output in outputs for against in ("reference", "PyTorch")}
    assert compared >= {("pytorch", output, "reference") for output in outputs}


def test_without_pytorch_and_onnx_the_reference_is_compared(plain_bundle: Path) -> None:
    blocked = dict.fromkeys(["torch", "onnx", "onnxscript", "safetensors", "rich", "pydantic"])
    script = f"import sys; sys.modules.update({blocked}); from t2i_engine.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", script, "verify", str(plain_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "PASSED"
    assert ["onnx", "image", "reference"] in [line.split()[:3] for line in done.stdout.splitlines()]
    assert "skipped: comparison with PyTorch" in done.stdout


def test_json_says_the_same(plain_bundle: Path, copied: Path) -> None:
    found = json.loads(run(plain_bundle, "--json").stdout)
    assert found["passed"]
    assert set(found["files"]) == set(FILES) - {MANIFEST}
    assert all(one["difference"] <= one["allowed"] for one in found["differences"])
    (copied / "generator.onnx").unlink()
    result = run(copied, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert not found["passed"]
    assert not found["files"]["generator.onnx"]
    assert "generator.onnx" in found["failures"][0]


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
@pytest.mark.parametrize("name", [name for name in FILES if name != MANIFEST])
def test_a_damaged_file_fails_and_is_named(
    copied: Path, name: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).unlink()
    if damage != "missing":
        (copied / name).write_bytes(content if damage == "altered" else content[: len(content) // 2])
    result = run(copied)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "FAILED"
    assert [
        line for line in result.stdout.splitlines() if line.startswith("failed:") and name in line and damage in line
    ]


def add(output: str, shift: float) -> Callable[[Reference], Reference]:
    def change(reference: Reference) -> Reference:
        array = getattr(reference, output)
        return replace(reference, **{output: (array + array.dtype.type(shift)).astype(array.dtype)})

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (add("image", 1e-3), "output image"),
        (add("pixels", 3), "output pixels"),
        (add("image", np.nan), "NaN"),
        (lambda reference: replace(reference, image=reference.image[:, :, 1:]), "another model"),
        (lambda reference: replace(reference, image=reference.image.astype(np.float64)), "another model"),
        (add("tokens", 1), "different tokens"),
        (add("noise", 1e-3), "different noise"),
        (lambda reference: replace(reference, condition_noise=None), "another model"),
        (lambda reference: replace(reference, noise=reference.noise[:, 1:]), "another model"),
        (lambda reference: replace(reference, noise=reference.noise[:1]), "another model"),
        (lambda reference: replace(reference, seeds=reference.seeds[:, None]), "another model"),
        (lambda reference: replace(reference, captions=np.full_like(reference.captions, "xyzzy")), "cannot be drawn"),
        (add("seeds", -100), "cannot be drawn"),
    ],
)
def test_a_format_that_is_off_fails_by_name(copied: Path, change: Callable[[Reference], Reference], named: str) -> None:
    result = run(with_reference(copied, change))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "FAILED"
    assert named in result.stdout


def test_a_reference_that_is_none_fails(copied: Path) -> None:
    bundle = Bundle.open(copied)
    files = {**bundle.manifest.files, "reference.npz": FileEntry.of(b"PK no archive")}
    (copied / "reference.npz").write_bytes(b"PK no archive")
    (copied / MANIFEST).write_bytes(replace(bundle.manifest, files=files).to_json())
    result = run(copied)
    assert result.exit_code == 1
    assert "reference.npz is not a reference" in result.stdout


def test_both_wheels_of_onnx_runtime_are_an_error_not_a_pass(
    plain_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Status("onnxruntime 1.0", "both are installed and break each other")
    monkeypatch.setattr("t2i_engine.backends.onnxruntime.status", lambda: broken)
    result = run(plain_bundle)
    assert result.exit_code == 2
    assert "break each other" in result.stderr
    assert "PASSED" not in result.stdout


def test_reduced_precision_is_judged_by_the_bundles_pictures(tiny_bundle: Path, tmp_path: Path) -> None:
    found = json.loads(run(tiny_bundle, "--json").stdout)
    judged = {one["format"] for one in found["differences"] if one["output"] == "frechet_share"}
    assert judged == {row.name for row in RUNS_HERE if row.precision != "fp32"}
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "without"))
    manifest = Bundle.open(folder).manifest
    files = {name: entry for name, entry in manifest.files.items() if name != PICTURES}
    (folder / MANIFEST).write_bytes(replace(manifest, files=files).to_json())
    result = run(folder)
    assert result.exit_code == 1
    assert "has no pictures.npz to judge reduced precision by; export it again" in result.stdout


def test_an_unknown_bundle_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path / "nowhere")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_reference_repeats_its_bytes_and_survives_the_file(plain_bundle: Path) -> None:
    reference = read_reference(Bundle.open(plain_bundle))
    assert reference.to_npz() == (plain_bundle / "reference.npz").read_bytes()
    assert len(set(reference.lengths.tolist())) > 1
    assert reference.pixels.shape == (len(reference.captions), 32, 32, 3)
