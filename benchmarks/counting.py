"""Work counted from an ONNX file: FLOP of every matrix product and convolution, and the bytes that these must move.

A multiplication and an addition count as two. Everything between the products is taken as free and fused into them:
what is counted is the least that the graph's arithmetic asks for, not what a runtime does. Each product reads its
inputs and weights and writes its output once. PyTorch's own work is counted alike, from a model without data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from onnx import helper, shape_inference

from t2i_engine.bundle import ModelSizes, graphs_of
from t2i_engine.formats import GENERATOR, Form

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Work:
    """Of one call."""

    flop: float
    int8_flop: float
    """The part of `flop` whose operands are 8 bits wide."""
    bytes: float
    weight_bytes: float
    """The part of `bytes` that does not grow with the batch."""


class UncountedError(ValueError):
    """A product whose shapes are not known: nothing is guessed."""


def count_work(file: Path, sizes: Mapping[str, int], float_bytes: int = 4) -> Work:
    """Counts a graph for sizes of its letters, such as `{"B": 1, "T": 12}`.

    `float_bytes` is what a float32 takes where the file is computed in fewer bits. Raises `UncountedError`.
    """
    graph = _sized(onnx.load(file), sizes)
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.output, *graph.value_info)}
    weights = {tensor.name for tensor in graph.initializer}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    widths = {tensor.name: _width(tensor.data_type) for tensor in graph.initializer}
    widths |= {value.name: _width(value.type.tensor_type.elem_type) for value in graph.value_info}
    quantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    constants = weights | {output for output, source in quantized.items() if source in weights}

    def moved(name: str) -> float:
        width = widths.get(quantized.get(name, name), 4)
        return prod(_known(shapes, name)) * (float_bytes if width == 4 else width)

    flop = int8 = moving = constant = 0.0
    for node in graph.node:
        products = _flop(node, shapes)
        if products:
            flop += products
            int8 += products if all(name in quantized for name in node.input[:2]) else 0
            read = [name for name in node.input if name and _is_data(name, shapes)]
            moving += sum(map(moved, [*read, *(name for name in node.output if name)]))
            constant += sum(moved(name) for name in read if name in constants)
    return Work(flop, int8, moving, constant)


def count_pytorch(sizes: ModelSizes, batch: int, float_bytes: int = 4) -> Work:
    """Counts the generator as PyTorch runs it, on the meta device: FLOPs by PyTorch, bytes layer by layer."""
    import torch
    from torch import Tensor, nn
    from torch.utils.flop_counter import FlopCounterMode

    from training.models.generator import Generator

    moved = constant = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved, constant
        weights = sum(parameter.numel() for parameter in layer.parameters())
        moved += sum(tensor.numel() for tensor in (*inputs, output)) + weights
        constant += weights

    with torch.device("meta"):
        generator = Generator(sizes).eval()
        inputs = [torch.empty(batch, *tensor.shape[1:]) for tensor in graphs_of(sizes)[GENERATOR].inputs]  # type: ignore[arg-type]
    for layer in generator.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator(*inputs)
    return Work(counter.get_total_flops(), 0, float_bytes * moved, float_bytes * constant)


def form_of(file: Path) -> Form:
    """How a generator's graph computes upsample + convolution."""
    nodes = onnx.load(file, load_external_data=False).graph.node
    kernels = [
        list(attribute.ints) for node in nodes for attribute in node.attribute if attribute.name == "kernel_shape"
    ]
    if [2, 2] in kernels:  # a phase sees two by two pixels of what is not upsampled
        return Form.PHASES
    return Form.TRANSPOSED if any(node.op_type == "ConvTranspose" for node in nodes) else Form.TRAINED


def _flop(node: onnx.NodeProto, shapes: Shapes) -> float:
    if node.op_type == "Conv":
        return 2 * prod(_known(shapes, node.output[0])) * prod(_known(shapes, node.input[1])[1:])
    if node.op_type == "ConvTranspose":
        return 2 * prod(_known(shapes, node.input[0])) * prod(_known(shapes, node.input[1])[1:])
    if node.op_type == "MatMul":
        return 2 * prod(_known(shapes, node.output[0])) * _known(shapes, node.input[0])[-1]
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * prod(_known(shapes, node.output[0])) * _known(shapes, node.input[0])[0 if transposed else 1]
    if node.op_type == "LSTM":
        steps, batch, _ = _known(shapes, node.input[0])
        return 2 * steps * batch * sum(prod(_known(shapes, name)) for name in node.input[1:3])
    return 0


def _sized(model: onnx.ModelProto, sizes: Mapping[str, int]) -> onnx.GraphProto:
    """The graph with its letters replaced by sizes, and the shapes of everything in it."""
    for value in model.graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_value = _size(sizes, dimension.dim_param)
    for value in model.graph.output:  # inferred anew
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return shape_inference.infer_shapes(model, data_prop=True).graph


def _size(sizes: Mapping[str, int], letter: str) -> int:
    if letter not in sizes:
        raise UncountedError(f"the size {letter} is not given")
    return sizes[letter]


def _known(shapes: Shapes, name: str) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or 0 in shape:
        raise UncountedError(f"the shape of {name!r} is not known")
    return shape


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)


def _width(kind: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _is_data(name: str, shapes: Shapes) -> bool:
    return 0 not in shapes.get(name, (0,))
