import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_engine.backends.base import Status
from t2i_engine.bundle import Bundle, embedded_names, write_bundle
from t2i_engine.cli import main
from t2i_engine.info import SystemInfo
from t2i_engine.manifest import FileEntry, Manifest
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
    for word in ("generator.onnx", "vocabulary.json", "largest differences from PyTorch", "resolution", "data"):
        assert word in text
    rows = [line.split()[:3] for line in text.splitlines()]
    for row in Bundle.open(tiny_bundle).formats:
        assert [row.name, row.backend, row.precision] in rows
    assert ["data", "none"] in rows


@pytest.mark.parametrize("name", embedded_names())
def test_embedded_bundle_fits_a_terminal_and_its_main_figures_are_shown(name: str) -> None:
    lines = _info(name).stdout.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 100
    shown = {line.split()[0] for line in lines if line.strip()}
    assert {"data", "steps", "hours", "commit", "measured", "FID", "R-precision"} <= shown


def test_embedded_bundle_of_photographs_is_for_research_only() -> None:
    terms = Bundle.open("cub").license
    assert terms
    assert "research only, not under Apache-2.0" in terms
    assert terms in " ".join(_info("cub").stdout.split())
    assert Bundle.open("birds").license is None


def test_provenance_is_summed_over_the_runs_and_its_best_measured_figures_are_shown(tmp_path: Path) -> None:
    def evaluation(captions: int, fid: float) -> dict[str, object]:
        right = {"everything asked for": {"asked": captions, "generated": 80.0, "renders": 94.25}}
        return {
            "data": "synthbirds",
            "split": "test",
            "captions": captions,
            "fid": {"value": fid, "pictures": captions, "real": captions},
            "r_precision": {"generated": 81.25, "real": 76.0, "pictures": captions, "candidates": 100},
            "attribute_accuracy": {"attributes": right},
        }

    encoders = {"steps": {"damsm": 500, "gan": 1}, "hours": 0.25, "part": "encoders"}
    provenance = {
        "dataset": {
            "source": "synthbirds",
            "version": "7",
            "split": "train",
            "pictures": 20000,
            "validation": "500 of 20,500 pictures",
        },
        "steps": {"damsm": 0, "gan": 1000},
        "hours": 1.5,
        "hardware": "1 GPU",
        "commit": "abc",
        "initial": {"steps": {"damsm": 0, "gan": 2000}, "hours": 1, "initial": encoders},
        "metrics": {"evaluations": [evaluation(100, 90), evaluation(5000, 30), evaluation(1000, 50.0)]},
        "config": {"secret": "of no interest"},
    }
    text = _info(str(_odd_bundle(tmp_path, provenance, license="CC0"))).stdout
    rows = [" ".join(line.split()) for line in text.splitlines()]
    for row in (
        "data synthbirds, version 7, train split, 20,000 pictures, held out: 500 of 20,500 pictures",
        "steps 3,000 GAN + 500 DAMSM, in 3 successive runs",
        "hours 2.8",
        "hardware 1 GPU",
        "license CC0",
        "commit abc",
        "measured synthbirds, test split",
        "FID 30.0 (5,000 pictures)",
        "R-precision 81.2 % among 100 candidates (real pictures 76.0 %)",
        "attributes 80.0 % of captions have everything asked for (real pictures 94.2 %)",
    ):
        assert row in rows
    assert "of no interest" not in text


def test_each_metric_is_from_its_largest_evaluation_at_truncation_1(tmp_path: Path) -> None:
    def evaluation(captions: int, fid: float, truncation: float = 1.0) -> dict[str, object]:
        figures = {"fid": {"value": fid, "pictures": captions, "real": captions}}
        return {"data": "cub:cub", "captions": captions, "truncation": truncation} | figures

    precision = {"r_precision": {"generated": 31.8, "real": 16.5, "pictures": 5800, "candidates": 100}}
    truncated = evaluation(9000, 20, truncation=0.88)
    evaluations = [evaluation(5000, 30) | precision, evaluation(9000, 10), truncated]
    other = evaluation(9999, 1) | {"data": "cub:other"}

    def rows(*measured: dict[str, object]) -> list[str]:
        text = _info(str(_odd_bundle(tmp_path, {"metrics": {"evaluations": measured}}))).stdout
        return [" ".join(line.split()) for line in text.splitlines()]

    shown = rows(*evaluations)
    assert "measured cub:cub, test split" in shown
    assert "FID 10.0 (9,000 pictures)" in shown
    assert "R-precision 31.8 % among 100 candidates (real pictures 16.5 %)" in shown
    shown = rows(*evaluations, other)
    assert "FID 1.0 (9,999 pictures)" in shown
    assert not any(row.startswith("R-precision") for row in shown)
    assert "measured cub:cub, test split, truncation 0.88" in rows(truncated)


def test_segments_of_a_run_are_a_line_each_and_the_last_four_are_shown(tmp_path: Path) -> None:
    segment = {"commit": "5640314" * 5, "hardware": "a CPU, 2 cores", "torch": "2.14.1", "hours": 0.25}
    long = "NVIDIA H100 80GB HBM3, AMD EPYC 9R14 96-Core Processor, 16 cores"
    segments = [
        *[segment | {"steps": {"damsm": [0, 1000 * n], "gan": [0, 0]}} for n in range(1, 4)],
        segment | {"steps": {"damsm": [3000, 4000], "gan": [0, 1200]}},
        segment | {"steps": {"damsm": [4000, 4000], "gan": [1200, 9000]}, "note": "fresh optimizer moments"},
        {"hardware": long, "steps": {"gan": [9000, 120000]}, "hours": 6.0, "torch": "2.11.0", "commit": None},
    ]
    lines = [
        " ".join(line.split()) for line in _info(str(_odd_bundle(tmp_path, {"segments": segments}))).stdout.split("\n")
    ]
    shown = [line for line in lines if line.startswith("segment ")]
    assert [line.split(" ", 2)[1] for line in shown] == ["3", "4", "5", "6"]
    assert shown[1] == "segment 4 DAMSM 3,000–4,000, GAN 0–1,200, 0.2 h, a CPU, 2 cores, torch 2.14.1, commit 5640314"
    assert shown[2].startswith("segment 5 GAN 1,200–9,000, 0.2 h, fresh optimizer moments, a CPU, 2 cores")
    assert shown[3].startswith("segment 6 GAN 9,000–120,000, 6.0 h, NVIDIA H100 80GB HBM3")
    assert not any("steps" in line or "{" in line for line in shown)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=5,
)
KNOWN = (
    "dataset",
    "segments",
    "steps",
    "hours",
    "initial",
    "metrics",
    "note",
    "fid",
    "evaluations",
    "captions",
    "source",
    "version",
)


@settings(max_examples=200, deadline=None)
@given(st.recursive(ANYTHING, lambda inner: st.dictionaries(st.sampled_from(KNOWN), inner, max_size=4), max_leaves=9))
def test_any_provenance_fits_the_terminal(tmp_path_factory: pytest.TempPathFactory, found: object) -> None:
    provenance = found if isinstance(found, dict) else {"dataset": found}
    bundle = Bundle.open(_odd_bundle(tmp_path_factory.getbasetemp(), provenance))
    text = SystemInfo("1.0", {}, "nothing", "nothing", [], replace(bundle, folder=Path("odd"))).as_text()
    lines = text.split("\n")
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 100
    assert all(line.isprintable() for line in lines)


def test_what_does_not_fit_is_counted_and_left_to_json(tmp_path: Path) -> None:
    reasons = {f"format-{index}": "far off " * 40 for index in range(40)}
    bundle = Bundle.open(_odd_bundle(tmp_path, {}, rejected=reasons))
    statuses = {f"backend-{index}": Status(lacks="it is missing " * 30) for index in range(9)}
    lines = SystemInfo("1.0", statuses, "none: " + "reason " * 90, "else", ["birds"], bundle).as_text().splitlines()
    assert len(lines) <= 60
    assert max(len(line) for line in lines if "Bundle odd in" not in line) <= 100
    assert sum("more lines: --json" in line for line in lines) == 2


def _odd_bundle(
    folder: Path,
    provenance: Mapping[str, object],
    rejected: Mapping[str, str] | None = None,
    license: str | None = None,  # noqa: A002
) -> Path:
    vocabulary = Tokenizer(WORDS).to_json()
    files = {"vocabulary.json": FileEntry.of(vocabulary)}
    manifest = Manifest("odd", SIZES, files, rejected=rejected or {}, license=license, provenance=provenance)
    return write_bundle(folder / "odd", manifest, {"vocabulary.json": vocabulary})


def test_provenance_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    provenance = {"dataset": "\x1b[2J", "no\nte": "\ud800", "note": "\x1b[1m", "steps": None}
    text = _info(str(_odd_bundle(tmp_path, provenance))).stdout
    assert '"\\u001b[2J"' in text
    assert '"\\u001b[1m"' in text
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
