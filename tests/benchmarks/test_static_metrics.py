"""Work counted from ONNX files: what is known by hand, and what PyTorch counts itself."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.static_metrics import UncountedError, count_pytorch, count_work, form_of
from export.half_weights import store_in_half
from export.onnx_graphs import build_generator
from t2i_engine.formats import Form
from tests.tiny_model import SIZES, make_model


def graph_of(tmp_path: Path, node: onnx.NodeProto, x: list[int | str], weights: dict[str, tuple[int, ...]]) -> Path:
    tensors = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, x)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one", [given], [made], tensors)
    file = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), file)
    return file


def test_a_convolution(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    work = count_work(graph_of(tmp_path, node, ["B", 3, 8, 8], {"w": (5, 3, 3, 3)}), {"B": 2})
    assert work.flop == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)
    assert work.weight_bytes == 4 * 5 * 3 * 3 * 3
    assert work.bytes == 4 * (2 * 3 * 64 + 5 * 3 * 9 + 2 * 5 * 64)


def test_a_grouped_and_a_transposed_convolution(tmp_path: Path) -> None:
    grouped = helper.make_node("Conv", ["x", "w"], ["y"], group=4)
    assert count_work(graph_of(tmp_path, grouped, ["B", 4, 6, 6], {"w": (4, 1, 3, 3)}), {"B": 1}).flop == 2 * 4 * 16 * 9
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    work = count_work(graph_of(tmp_path, node, ["B", 3, 4, 4], {"w": (3, 5, 4, 4)}), {"B": 1})
    assert work.flop == 2 * (3 * 4 * 4) * (5 * 4 * 4)


def test_fewer_bits_move_fewer_bytes(tmp_path: Path) -> None:
    file = graph_of(tmp_path, helper.make_node("MatMul", ["x", "w"], ["y"]), ["B", 7], {"w": (7, 9)})
    assert count_work(file, {"B": 3}).bytes == 2 * count_work(file, {"B": 3}, float_bytes=2).bytes


def test_a_size_that_is_not_given_is_not_guessed(tmp_path: Path) -> None:
    file = graph_of(tmp_path, helper.make_node("MatMul", ["x", "w"], ["y"]), ["B", 7], {"w": (7, 9)})
    with pytest.raises(UncountedError, match="B is not given"):
        count_work(file, {})


def test_the_graph_as_trained_has_the_work_that_pytorch_counts(tmp_path: Path) -> None:
    file = tmp_path / "generator.onnx"
    file.write_bytes(build_generator(make_model(), Form.TRAINED).content)
    for batch in (1, 3):
        assert count_work(file, {"B": batch}) == count_pytorch(SIZES, batch)
    assert form_of(file) == Form.TRAINED


def test_the_fold_saves_work(tiny_bundle: Path) -> None:
    file = tiny_bundle / "generator.onnx"
    assert count_work(file, {"B": 1}).flop < count_pytorch(SIZES, 1).flop
    assert form_of(file) == Form.PHASES


def test_weights_in_half_precision_are_not_work(tiny_bundle: Path, tmp_path: Path) -> None:
    whole = tiny_bundle / "generator.onnx"
    proto = onnx.load(whole)
    layers = {
        one.name.removesuffix(".weights.0"): np.ones((*one.dims[:2], 3, 3), np.float32)
        for one in proto.graph.initializer
        if one.name.endswith(".weights.0")
    }
    assert layers
    for one in proto.graph.initializer:  # what half precision holds exactly
        if one.data_type == TensorProto.FLOAT:
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype("f2").astype("f4"), one.name))
    store_in_half(proto, layers)
    onnx.save(proto, tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx").stat().st_size < 0.7 * whole.stat().st_size
    assert count_work(tmp_path / "half.onnx", {"B": 2}) == count_work(whole, {"B": 2})


def test_what_int8_rounds_is_told_apart_and_moves_a_byte_a_value(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    for side, share in ((16, 1), (8, 0)):
        file = graph_of(tmp_path, node, ["B", 4, side, side], {"w": (16, 4, 3, 3)})
        floats, rounded = (count_work(file, {"B": 1}, 2, int8=int8) for int8 in (False, True))
        assert floats.int8_flop == 0
        assert rounded.int8_flop == share * rounded.flop == share * floats.flop
        assert floats.bytes - rounded.bytes == share * (4 * side**2 + 16 * 4 * 9)
