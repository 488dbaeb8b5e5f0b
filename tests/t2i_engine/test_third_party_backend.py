"""A backend of another distribution: one module with its row, announced by an entry point, and nothing else changes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = '''
"""ONNX Runtime under another name."""

from dataclasses import replace

from t2i_engine.backends import onnxruntime
from t2i_engine.backends.base import Status
from t2i_engine.formats import FORMATS as TABLE

TITLE = "Mirror"
PACKAGES = ("mirror-backend", "onnxruntime")
IMPORTS = ("onnxruntime",)
FORMATS = tuple(
    replace(row, name="mirror", backend="mirror", extras={"cpu": "mirror"}, builder="")
    for row in TABLE
    if row.name == "onnx"
)


def status():
    return Status("mirror 1.0", devices={"cpu": None})


def open_runner(bundle, row, graph, device, threads):
    return onnxruntime.open_runner(bundle, row, graph, device, threads)


def profile(bundle, row, feeds, threads):
    return [("Reflection", 1.0)]
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for Python's path, as pip would leave it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "mirror_backend.py").write_text(MODULE, encoding="utf-8")
    info = folder / "mirror_backend-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mirror-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[t2i_engine.backends]\nmirror = mirror_backend\n")
    return folder


@pytest.fixture(scope="module")
def bundle(installed: Path, plain_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain bundle with the format added: its files are there, so the gate alone runs."""
    folder = Path(shutil.copytree(plain_bundle, tmp_path_factory.mktemp("bundles") / "plain"))
    done = run(installed, "export", folder, "--formats", "mirror")
    assert done.returncode == 0, done.stderr
    return folder


def run(installed: Path, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    command = [sys.executable, "-m", "t2i_engine", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=cwd)


def test_export_compares_it_with_pytorch(bundle: Path) -> None:
    parity = json.loads((bundle / "bundle.json").read_text())["parity"]["mirror"]
    assert parity["cases"] > 200
    assert parity["worst"]["pixels"] <= 1


def test_info_lists_it(installed: Path, bundle: Path) -> None:
    done = run(installed, "info", bundle, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["backends"]["mirror"]["version"] == "mirror 1.0"
    assert "mirror" in found["bundle"]["parity"]
    assert "mirror" in run(installed, "info", bundle).stdout


def test_generate_draws_with_it(installed: Path, bundle: Path, tmp_path: Path) -> None:
    done = run(installed, "generate", "a red bird", "--bundle", bundle, "--backend", "mirror", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes().startswith(b"\x89PNG")
    assert "format mirror (fp32) on cpu with mirror 1.0" in done.stderr


def test_verify_compares_it(installed: Path, bundle: Path) -> None:
    done = run(installed, "verify", bundle, "--json")
    assert done.returncode == 0, done.stderr
    compared = {(one["format"], one["against"]) for one in json.loads(done.stdout)["differences"]}
    assert {("mirror", "reference"), ("mirror", "PyTorch")} <= compared


def test_benchmark_measures_it_in_a_process_of_its_own_and_reports_it(
    installed: Path, bundle: Path, tmp_path: Path
) -> None:
    done = run(
        installed, "benchmark", bundle, "--formats", "mirror", "--quick", "--threads", "1", "--minutes", "0.01",
        "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report.md").read_text()
    assert "Reflection" in text
    assert "mirror-backend 1.0" in text
    assert [one for one in json.loads((tmp_path / "report.json").read_text())["cases"] if "mirror" in str(one)]


def test_a_backend_that_cannot_be_imported_is_named(installed: Path, plain_bundle: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(installed, tmp_path / "site"))
    (broken / "mirror_backend.py").write_text("import no_such_package\n")
    done = run(broken, "generate", "a red bird", "--bundle", plain_bundle, cwd=tmp_path)
    assert done.returncode == 2
    assert "the backend 'mirror' cannot be loaded (No module named 'no_such_package')" in done.stderr
    assert "mirror-backend" in done.stderr
