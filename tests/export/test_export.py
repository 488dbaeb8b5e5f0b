"""`t2i-engine export`: a verified bundle or none; what was there before is never lost."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from export.artifact import Artifact
from t2i_engine.bundle import Bundle
from t2i_engine.cli import main
from t2i_engine.engine import Engine
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Format, find
from t2i_engine.manifest import MANIFEST
from t2i_engine.verify import verify
from tests.export.damage import (
    Damage,
    alter_one_bias,
    forget_a_dimension,
    keep_gates_in_pytorchs_order,
    leave_alone,
    make_nan,
    read_padding,
    truncate_pixels,
)
from tests.tiny_model import RUNS_HERE, SIZES, SMALL_GATE, WORDS, make_model
from training.checkpoint import save_checkpoint
from training.models.text_to_image import TextToImage

ONNX = find("onnx")


def export(checkpoint: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["export", str(checkpoint), "--out", str(out), *options], obj=SMALL_GATE)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.fixture
def old_bundle(plain_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that must not be lost."""
    return Path(shutil.copytree(plain_bundle, tmp_path / "old"))


@pytest.fixture
def graphs_as_before(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Damage], None]:
    """Replaces tracing with the tiny bundle's graphs, one of them damaged."""

    def use(damaged: str, damage: Damage) -> None:
        def build(_: TextToImage, row: Format) -> Iterator[Artifact]:
            for graph, name in row.files.items():
                proto = onnx.load(tiny_bundle / name)
                if graph == damaged:
                    damage(proto)
                yield Artifact(name, proto.SerializeToString(), row, graph, 18)

        monkeypatch.setattr("export.onnx_graphs.build", build)

    return use


def test_bundle_holds_every_format_with_its_parity(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.formats == RUNS_HERE
    assert verify(bundle, lambda _: None, SMALL_GATE).passed
    for row in RUNS_HERE:
        parity = bundle.manifest.parity[row.name]
        assert parity.worst.within(row.tolerance)
        assert parity.tolerance == row.tolerance
        assert parity.cases > 190
    assert (bundle.manifest.parity["onnx"].worst.image or 0) > 0  # exact agreement would mean that nothing was compared


def test_manifest_says_where_the_model_and_its_files_come_from(tiny_bundle: Path) -> None:
    provenance = json.loads((tiny_bundle / MANIFEST).read_bytes())["provenance"]
    assert provenance["dataset"] == "none"
    assert provenance["export"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert provenance["export"]["versions"].keys() >= {"onnx", "onnxscript"}
    assert any("onnxruntime" in runtime for runtime in provenance["export"]["verified_with"])


def test_bundle_carries_the_terms_of_its_data_on(
    tiny_checkpoint: Path, tmp_path: Path, graphs_as_before: Callable[[str, Damage], None]
) -> None:
    graphs_as_before(GENERATOR, leave_alone)
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["provenance"] = {"dataset": {"source": "cub:birds"}}
    torch.save(content, tmp_path / "cub.pt")
    assert export(tmp_path / "cub.pt", tmp_path / "cub").exit_code == 0
    bundle = Bundle.open(tmp_path / "cub")
    assert bundle.license
    assert "CUB-200-2011" in bundle.license
    own = replace(bundle.manifest, license="agreed with the photographers")
    (bundle.folder / MANIFEST).write_bytes(own.to_json())
    assert export(bundle.folder, tmp_path / "other").exit_code == 0
    assert Bundle.open(tmp_path / "other").license == own.license


def test_steps_go_to_standard_error_and_the_path_to_standard_output(
    tiny_checkpoint: Path, tmp_path: Path, graphs_as_before: Callable[[str, Damage], None]
) -> None:
    graphs_as_before(GENERATOR, leave_alone)
    out = tmp_path / "my birds"
    result = export(tiny_checkpoint, out, "--name", "birds-2")
    assert result.exit_code == 0
    assert result.stdout == f"{out}\n"
    built = [name for name, entry in Bundle.open(out).manifest.files.items() if entry.format]
    assert len(built) == 3
    for name in (*built, f"t2i-engine verify '{out}'", "t2i-engine generate"):
        assert name in result.stderr
    assert Bundle.open(out).name == "birds-2"


def test_a_second_export_replaces_the_first_with_the_same_bytes(
    tiny_checkpoint: Path, old_bundle: Path, graphs_as_before: Callable[[str, Damage], None]
) -> None:
    before = digests(old_bundle)
    graphs_as_before(GENERATOR, leave_alone)
    (old_bundle / "reference.npz").write_bytes(b"damaged")
    assert export(tiny_checkpoint, old_bundle, "--name", "tiny").exit_code == 0
    after = digests(old_bundle)
    del before[MANIFEST], after[MANIFEST]  # its figures of parity may differ in the last digit
    assert after == before


@pytest.mark.parametrize(
    ("graph", "damage", "output"),
    [
        (TEXT_ENCODER, read_padding, "sentence"),
        (TEXT_ENCODER, keep_gates_in_pytorchs_order, "sentence"),
        (TEXT_ENCODER, forget_a_dimension, "sentence"),
        (GENERATOR, alter_one_bias, "image"),
        (GENERATOR, make_nan, "image"),
        (GENERATOR, truncate_pixels, "pixels"),
    ],
)
def test_a_graph_that_differs_from_pytorch_gives_no_bundle(
    tiny_checkpoint: Path,
    old_bundle: Path,
    graphs_as_before: Callable[[str, Damage], None],
    graph: str,
    damage: Damage,
    output: str,
) -> None:
    before = digests(old_bundle)
    graphs_as_before(graph, damage)
    result = export(tiny_checkpoint, old_bundle)
    assert result.exit_code == 1
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert f"format onnx, graph {graph}, output {output}" in last
    assert f"{getattr(ONNX.tolerance, output):g} allowed, in batch" in last
    assert digests(old_bundle) == before
    assert [path.name for path in old_bundle.parent.iterdir()] == [old_bundle.name]


def test_weights_that_are_not_the_models_give_no_bundle(
    tiny_checkpoint: Path,
    tmp_path: Path,
    graphs_as_before: Callable[[str, Damage], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from export import artifact

    graphs_as_before(GENERATOR, leave_alone)
    build = artifact.build_weights
    other = make_model()
    with torch.no_grad():
        other.generator.fc.bias[0] += 0.1
    monkeypatch.setattr(artifact, "build_weights", lambda _, row: build(other, row))
    result = export(tiny_checkpoint, tmp_path / "new")
    assert result.exit_code == 1
    assert "format pytorch, graph generator, output image" in result.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_the_previous_bundle(tiny_checkpoint: Path, old_bundle: Path) -> None:
    before = digests(old_bundle)
    script = (
        "import os, signal, sys; from export import onnx_graphs; from t2i_engine.cli import main;"
        "onnx_graphs.build = lambda *_: os.kill(os.getpid(), signal.SIGKILL); main(sys.argv[1:])"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, "export", str(tiny_checkpoint), "--out", str(old_bundle)], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert digests(old_bundle) == before


def test_df_gans_generator_has_no_condition_noise(tmp_path: Path) -> None:
    sizes = replace(SIZES, conditioning_augmentation=False, adaptive_block=False)
    save_checkpoint(tmp_path / "df-gan.pt", sizes, WORDS, make_model(sizes).state_dict(), {})
    result = export(tmp_path / "df-gan.pt", tmp_path / "df-gan")
    assert result.exit_code == 0, result.stderr
    graph = onnx.load(tmp_path / "df-gan" / ONNX.files[GENERATOR]).graph
    assert [tensor.name for tensor in graph.input] == ["noise", "sentence"]
    assert "condition_noise" not in np.load(tmp_path / "df-gan" / "reference.npz")
    assert verify(Bundle.open(tmp_path / "df-gan"), lambda _: None, SMALL_GATE).passed
    first, second = Engine.open(tmp_path / "df-gan").generate_all(["a red bird", "a blue bird"], [0])
    assert (first.pixels != second.pixels).any()


def test_a_file_of_the_users_own_is_never_deleted(tiny_checkpoint: Path, old_bundle: Path, tmp_path: Path) -> None:
    (old_bundle / "notes.txt").write_text("mine")
    result = export(tiny_checkpoint, old_bundle)
    assert result.exit_code == 2
    assert "'notes.txt', which is not part of the bundle" in result.stderr
    assert (old_bundle / "notes.txt").read_text() == "mine"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    result = export(tiny_checkpoint, tmp_path / "home")
    assert result.exit_code == 2
    assert "exists and is not a bundle" in result.stderr
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("content", [None, b"", b"a text", b"PK\x03\x04", "half"], ids=str)
def test_a_checkpoint_that_cannot_be_read_is_named(
    tiny_checkpoint: Path, tmp_path: Path, content: bytes | str | None
) -> None:
    checkpoint = tmp_path / "model.pt"
    if content == "half":
        checkpoint.write_bytes(tiny_checkpoint.read_bytes()[:50_000])
    elif isinstance(content, bytes):
        checkpoint.write_bytes(content)
    result = export(checkpoint, tmp_path / "out")
    assert_user_error(result, str(checkpoint))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_ours_is_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    assert_user_error(export(tmp_path / "other.pt", tmp_path / "out"), "other.pt")


def test_words_that_do_not_fit_the_model_are_found(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.pt", SIZES, WORDS[:-1], make_model().state_dict(), {})
    assert_user_error(export(tmp_path / "model.pt", tmp_path / "out"), f"has {len(WORDS) - 1} words")


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("a-file/bundle", (), "cannot be written"),
        ("two words", (), "'two words'"),
        ("out", ("--name", "../up"), "'../up'"),
    ],
)
def test_a_bad_target_is_refused_before_the_work(
    tiny_checkpoint: Path, tmp_path: Path, out: str, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "a-file").write_text("")
    assert_user_error(export(tiny_checkpoint, tmp_path / out, *options), message)
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_the_folder_one_is_in_is_not_replaced(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_user_error(export(tiny_checkpoint, Path()), "the current folder")


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_a_missing_package_is_one_line_with_the_extra(tiny_checkpoint: Path, tmp_path: Path, package: str) -> None:
    script = f"import sys; sys.modules[{package!r}] = None; from t2i_engine.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", script, "export", str(tiny_checkpoint), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f'Error: t2i-engine export needs the package {package}: pip install "t2i-engine[export]"'
    ]


def test_onnxscript_which_pytorch_exports_with_is_asked_for(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "onnxscript":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr("export.pipeline.version", version)
    assert_user_error(export(tiny_checkpoint, tmp_path / "out"), 'the package onnxscript: pip install "t2i-engine[')


def assert_user_error(result: Result, message: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert message in result.stderr
