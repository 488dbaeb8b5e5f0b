"""Ways to damage an exported graph."""

from collections.abc import Callable

import numpy as np
import onnx

from tests.tiny_model import SIZES

Damage = Callable[[onnx.ModelProto], None]


def leave_alone(_: onnx.ModelProto) -> None:
    pass


def node(proto: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in proto.graph.node if node.op_type == operator)
    return found


def read_padding(proto: onnx.ModelProto) -> None:
    """The LSTM runs over all of T, as if sequence_lens were forgotten."""
    node(proto, "LSTM").input[4] = ""


def keep_gates_in_pytorchs_order(proto: onnx.ModelProto) -> None:
    weights = next(tensor for tensor in proto.graph.initializer if tensor.name == "weights")
    i, o, f, c = np.split(onnx.numpy_helper.to_array(weights), 4, axis=1)
    weights.CopyFrom(onnx.numpy_helper.from_array(np.concatenate([i, f, c, o], axis=1), "weights"))


def alter_one_bias(proto: onnx.ModelProto) -> None:
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "generator.to_rgb.1.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(1e-3), bias.name))


def make_nan(proto: onnx.ModelProto) -> None:
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "generator.to_rgb.1.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, dtype=np.float32), bias.name))


def truncate_pixels(proto: onnx.ModelProto) -> None:
    """Levels are truncated and shifted, by at most two, while the image itself stays right."""
    proto.graph.node.remove(round_node := node(proto, "Round"))
    shift = onnx.numpy_helper.from_array(np.array(-2, dtype=np.float32), "shift")
    proto.graph.initializer.append(shift)
    cast = node(proto, "Cast")
    cast_index = list(proto.graph.node).index(cast)
    proto.graph.node.insert(cast_index, onnx.helper.make_node("Add", [round_node.input[0], "shift"], round_node.output))


def forget_a_dimension(proto: onnx.ModelProto) -> None:
    """Batches of one are right, larger ones fail in the runtime."""
    shape = next(tensor for tensor in proto.graph.initializer if tensor.dims == [2] and tensor.data_type == 7)
    shape.CopyFrom(onnx.numpy_helper.from_array(np.array([1, SIZES.sentence_width]), shape.name))
