"""The gate of reduced precision: damage that PSNR might pass is refused, whatever the format allows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.gate import picture_reference, run_gate
from t2i_engine.backends.base import Array
from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Format, find
from t2i_engine.manifest import FileEntry
from t2i_engine.picture_reference import PictureReference
from tests.export.damage import Damage, keep_gates_in_pytorchs_order, leave_alone, make_nan, read_padding
from tests.tiny_model import SMALL_GATE, make_model

FP16 = replace(find("onnx-fp16"), emulator=None)
LAXEST = replace(
    FP16, name="laxest", tolerance=replace(find("openvino-int8").tolerance, sentence=None, sentence_share=0.1)
)

Gate = Callable[[str, Damage, Format], set[str]]


def quantize_a_layer_to_4_bits(proto: onnx.ModelProto) -> None:
    layer = max((one for one in proto.graph.initializer if len(one.dims) == 4), key=lambda one: np.prod(one.dims))
    weights = numpy_helper.to_array(layer)
    step = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 7
    layer.CopyFrom(numpy_helper.from_array((np.round(weights / step) * step).astype(np.float32), layer.name))


def after_pixels(proto: onnx.ModelProto, operator: str, value: Array, **attributes: Any) -> None:  # noqa: ANN401
    """Puts a node between the graph and its pixels."""
    node = next(node for node in proto.graph.node if "pixels" in node.output)
    node.output[0] = "sound"
    proto.graph.initializer.append(numpy_helper.from_array(value, "damage"))
    proto.graph.node.append(onnx.helper.make_node(operator, ["sound", "damage"], ["pixels"], **attributes))


def swap_channels(proto: onnx.ModelProto) -> None:
    after_pixels(proto, "Gather", np.array([2, 1, 0]), axis=3)


def blacken(proto: onnx.ModelProto) -> None:
    after_pixels(proto, "Mul", np.array(0, np.uint8))


@pytest.fixture(scope="module")
def pictures(plain_bundle: Path) -> PictureReference:
    return picture_reference(make_model(), Bundle.open(plain_bundle), lambda _: None, SMALL_GATE)


@pytest.fixture
def gate(plain_bundle: Path, pictures: PictureReference, tmp_path: Path) -> Gate:
    """Runs a format whose files are fp32's, one of them damaged, through the gate; gives what it was refused for."""

    def run(damaged: str, damage: Damage, row: Format) -> set[str]:
        manifest = Bundle.open(plain_bundle).manifest
        contents: dict[str, bytes | Path] = {name: plain_bundle / name for name in manifest.files}
        for graph, name in row.files.items():
            proto = onnx.load(plain_bundle / find("onnx").files[graph])
            if graph == damaged:
                damage(proto)
            contents[name] = proto.SerializeToString()
        files = {name: FileEntry.of(content) for name, content in contents.items()}
        staged = Bundle.open(write_bundle(tmp_path / "staged", replace(manifest, files=files), contents))
        found = run_gate(make_model(), staged, [row], lambda _: None, SMALL_GATE, pictures)
        assert bool(found.rejected) == any(not one.ok for one in found.findings)
        return {one.output for one in found.findings if not one.ok}

    return run


def test_the_table_tells_the_median_psnr_of_the_pictures(plain_bundle: Path) -> None:
    lines: list[str] = []
    run_gate(make_model(), Bundle.open(plain_bundle), [find("onnx")], lines.append, SMALL_GATE)
    (row,) = (line for line in lines if "median psnr" in line)
    assert 60 < float(row.replace("median psnr", "").split()[2]) <= 200  # fp32's: few values differ, by a level


def test_fp32_itself_passes_as_any_format(gate: Gate) -> None:
    assert gate(GENERATOR, leave_alone, FP16) == set()


def test_nothing_passes_unjudged(plain_bundle: Path) -> None:
    with pytest.raises(ValueError, match="openvino-int8 cannot be judged without pictures"):
        run_gate(make_model(), Bundle.open(plain_bundle), [find("openvino-int8")], lambda _: None, SMALL_GATE)


@pytest.mark.parametrize("row", [FP16, LAXEST], ids=lambda row: row.name)
@pytest.mark.parametrize(
    ("graph", "damage", "measure"),
    [
        (TEXT_ENCODER, read_padding, "sentence_share"),
        (TEXT_ENCODER, keep_gates_in_pytorchs_order, "sentence_share"),
        (GENERATOR, quantize_a_layer_to_4_bits, "mean_share"),
        (GENERATOR, make_nan, "image"),
        (GENERATOR, make_nan, "worst_share"),
        (GENERATOR, blacken, "worst_share"),
        (GENERATOR, swap_channels, "frechet_share"),
    ],
)
def test_damage_is_refused(gate: Gate, graph: str, damage: Damage, measure: str, row: Format) -> None:
    assert measure in gate(graph, damage, row)


def test_overflow_that_the_backend_hides_is_refused(tiny_bundle: Path, pictures: PictureReference) -> None:
    model = make_model()
    model.generator.fc.weight.data *= 1e6
    found = run_gate(model, Bundle.open(tiny_bundle), [find("onnx-fp16")], lambda _: None, SMALL_GATE, pictures)
    overflown = {one.output for one in found.findings if one.failure and "FP16 holds at most 65504" in one.failure}
    assert overflown >= {"image", "worst_share"}
    assert "onnx-fp16" in found.rejected
