"""A bundle of a few kilobytes whose graphs are made by hand; every input shows in every output."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from t2i_engine.bundle import VOCABULARY, FileRecord, Manifest, ModelSizes, TensorSpec, graphs_of, write_bundle
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, find
from t2i_engine.tokenizer import Tokenizer

WORDS = ("<end>", *"this bird a has yellow red blue belly wings black and short bill".split())
SIZES = ModelSizes(
    picture_side=32,
    base_width=4,
    noise_width=8,
    sentence_width=6,
    embedding_width=300,
    vocabulary_size=len(WORDS),
    conditioning_augmentation=True,
    adaptive_block=True,
)
_OPSET = 18


def write_tiny_bundle(folder: Path, sizes: ModelSizes = SIZES) -> Path:
    """Writes the bundle and returns its folder."""
    row = find("onnx")
    contents = {row.files[TEXT_ENCODER]: _text_encoder(sizes), row.files[GENERATOR]: _generator(sizes)}
    records = {
        row.files[graph]: FileRecord.of(contents[row.files[graph]], graph, row.name, row.precision, _OPSET)
        for graph in (TEXT_ENCODER, GENERATOR)
    }
    contents[VOCABULARY] = Tokenizer(WORDS).to_json()
    records[VOCABULARY] = FileRecord.of(contents[VOCABULARY])
    manifest = Manifest("tiny", sizes, records, provenance={"dataset": "none", "training": {"steps": 0}})
    return write_bundle(folder, manifest, contents)


def _text_encoder(sizes: ModelSizes) -> bytes:
    """Sentence = tanh of the sum of the words' embeddings within the caption's length."""
    constants = {
        "table": _weights(1, sizes.vocabulary_size, sizes.sentence_width),
        "zero": np.array(0),
        "one": np.array(1),
        "time": np.array([1]),
        "last": np.array([-1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
        helper.make_node("Shape", ["tokens"], ["length"], start=1, end=2),
        helper.make_node("Squeeze", ["length"], ["longest"]),
        helper.make_node("Range", ["zero", "longest", "one"], ["positions"]),
        helper.make_node("Unsqueeze", ["lengths", "time"], ["column"]),
        helper.make_node("Less", ["positions", "column"], ["inside"]),
        helper.make_node("Cast", ["inside"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["embedded", "weights"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "time"], ["summed"], keepdims=0),
        helper.make_node("Tanh", ["summed"], ["sentence"]),
    ]
    return _model(TEXT_ENCODER, sizes, nodes, constants)


def _generator(sizes: ModelSizes) -> bytes:
    """Image = tanh of a linear map of all inputs."""
    side, values = sizes.picture_side, 3 * sizes.picture_side**2
    inputs = graphs_of(sizes)[GENERATOR].inputs
    constants = {
        f"{tensor.name}_map": _weights(index, int(tensor.shape[1]), values) for index, tensor in enumerate(inputs)
    }
    constants |= {
        "shape": np.array([-1, 3, side, side]),
        "one": np.array(1, np.float32),
        "half": np.array(127.5, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", [tensor.name, f"{tensor.name}_map"], [f"{tensor.name}_part"]) for tensor in inputs
    ]
    nodes += [
        helper.make_node("Sum", [f"{tensor.name}_part" for tensor in inputs], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["image"]),
        helper.make_node("Add", ["image", "one"], ["positive"]),
        helper.make_node("Mul", ["positive", "half"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["levels"]),
        helper.make_node("Cast", ["levels"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["bytes"], ["pixels"], perm=[0, 2, 3, 1]),
    ]
    return _model(GENERATOR, sizes, nodes, constants)


def _model(name: str, sizes: ModelSizes, nodes: list[NodeProto], constants: dict[str, npt.NDArray[Any]]) -> bytes:
    declared = graphs_of(sizes)[name]
    graph = helper.make_graph(
        nodes,
        name,
        [_value(tensor) for tensor in declared.inputs],
        [_value(tensor) for tensor in declared.outputs],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _value(tensor: TensorSpec) -> ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(tensor.name, kind, tensor.shape)


def _weights(seed: int, rows: int, columns: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.3, (rows, columns)).astype(np.float32)
