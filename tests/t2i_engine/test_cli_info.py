import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from t2i_engine.bundle import FileEntry, Manifest, write_bundle
from t2i_engine.cli import main
from t2i_engine.tokenizer import Tokenizer
from tests.tiny_model import SIZES, WORDS


def _info(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["info", *arguments])


def test_every_backend_is_listed_with_its_devices() -> None:
    text = _info().stdout
    rows = [line.split()[:4] for line in text.splitlines()]
    assert ["onnxruntime", "cpu", "yes,", "onnxruntime"] in rows
    assert ["pytorch", "cpu", "yes,", "torch"] in rows
    assert "Auto chooses format " in text


def test_missing_backend_is_listed_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert 'no    torch not installed: pip install "t2i-engine[export]"' in _info().stdout


def test_bundle_is_described(tiny_bundle: Path) -> None:
    text = _info(str(tiny_bundle)).stdout
    assert f"Bundle tiny in {tiny_bundle}" in text
    for word in ("generator.onnx", "vocabulary.json", "largest differences from PyTorch", "resolution", "dataset"):
        assert word in text


def test_provenance_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    vocabulary = Tokenizer(WORDS).to_json()
    provenance = {"dataset": "\x1b[2J", "no\nte": "\ud800", "steps": None}
    manifest = Manifest("odd", SIZES, {"vocabulary.json": FileEntry.of(vocabulary)}, provenance=provenance)
    text = _info(str(write_bundle(tmp_path / "odd", manifest, {"vocabulary.json": vocabulary}))).stdout
    assert '"\\u001b[2J"' in text
    assert "\x1b" not in text


def test_json_tells_the_same(tiny_bundle: Path) -> None:
    found = json.loads(_info(str(tiny_bundle), "--json").stdout)
    assert found["backends"]["onnxruntime"]["devices"]["cpu"] is None
    assert found["auto"].startswith("format ")
    assert found["folder"] == str(tiny_bundle)
    assert found["bundle"]["name"] == "tiny"
    assert found["bundle"]["provenance"]["steps"] == 0


def test_unknown_bundle_is_one_line() -> None:
    result = _info("birdz")
    assert result.exit_code == 2
    assert "unknown bundle 'birdz'" in result.stderr
    assert result.stderr.count("\n") == 1
