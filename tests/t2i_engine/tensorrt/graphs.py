"""Small ONNX graphs with the generator's inputs and outputs, in the precision that is asked for, or not quite."""

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from t2i_engine.formats import GENERATOR
from t2i_engine.manifest import graphs_of
from tests.tiny_model import SIZES

SIDE = SIZES.resolution
GRAPH = graphs_of(SIZES)[GENERATOR]
_HALF = {"fp16": (TensorProto.FLOAT16, np.float16), "fp32": (TensorProto.FLOAT, np.float32)}
_BORDERS = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}


def drawing(precision: str, convolution: str | None = None) -> bytes:
    """A product of matrices, a convolution, perhaps in another precision, and the rounding to pixels."""
    random = np.random.default_rng(0)
    first, kind = _HALF[precision]
    second, other = _HALF[convolution or precision]
    width = sum(int(tensor.shape[1]) for tensor in GRAPH.inputs)
    weights = {
        "product": random.normal(0, 0.1, (width, 3 * SIDE * SIDE)).astype(kind),
        "kernel": random.normal(0, 0.2, (3, 3, 3, 3)).astype(other),
        "shape": np.array([-1, 3, SIDE, SIDE]),
        "one": np.array(1, np.float32),
        "scale": np.array(127.5, np.float32),
    }
    nodes = [
        helper.make_node("Concat", [tensor.name for tensor in GRAPH.inputs], ["inputs"], axis=1),
        helper.make_node("Cast", ["inputs"], ["cast"], to=first),
        helper.make_node("MatMul", ["cast", "product"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["map"]),
        helper.make_node("Cast", ["map"], ["other"], to=second),
        helper.make_node("Conv", ["other", "kernel"], ["drawn"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["drawn"], ["squashed"]),
        helper.make_node("Cast", ["squashed"], ["image"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["image", "one"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["levels"]),
        helper.make_node("Transpose", ["levels"], ["transposed"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["transposed"], ["pixels"], to=TensorProto.UINT8),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(tensor.name, _BORDERS[tensor.dtype], tensor.shape) for tensor in tensors]
        for tensors in (GRAPH.inputs, GRAPH.outputs)
    )
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "drawing", inputs, outputs, constants)
    return _serialised(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def light() -> bytes:
    """A graph without a heavy layer."""
    inputs = [helper.make_tensor_value_info(x.name, TensorProto.FLOAT, x.shape) for x in GRAPH.inputs]
    output = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["B", SIZES.noise_width])
    names = [tensor.name for tensor in GRAPH.inputs]
    rest = helper.make_node("Concat", names[1:], ["rest"], axis=1)
    graph = helper.make_graph(
        [rest, helper.make_node("Tanh", [names[0]], ["image"])],
        "light",
        inputs,
        [output, helper.make_tensor_value_info("rest", TensorProto.FLOAT, ["B", 2 * SIZES.sentence_width])],
    )
    return _serialised(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def _serialised(model: ModelProto) -> bytes:
    content: bytes = model.SerializeToString()
    return content
