"""What holds for a target at any batch size: first opening, files, differences from PyTorch, and work.

Work is the FLOPs of every convolution and matrix product, a multiply-add as two, and the bytes that they move: inputs,
weights and outputs, each once. Whatever lies between them counts as free and fused. That is the least that the graph's
arithmetic asks for, not what a runtime does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from onnx import helper, shape_inference

from benchmarks.fixtures import WORDS, Fixtures
from benchmarks.measurement import Worker, WorkerError
from benchmarks.report import Differences, Roofline, StaticMetrics
from benchmarks.targets import EAGER, Case, find_target
from t2i_engine.bundle import Bundle, ModelSizes, graphs_of
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Form

_WIDTHS = {"bf16": 2, "fp16": 2}  # bytes that a float32 of the file, or of PyTorch, takes in computation

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
    """A product with unknown shapes; nothing is guessed."""


def measure_static(case: Case, fixtures: Fixtures, on_progress: Callable[[str], None]) -> StaticMetrics:
    """Opens a target in a process of its own, with empty caches. Raises `WorkerError` where that fails.

    A failing profiler costs the target nothing but its profile; `on_progress` gets a line.
    """
    target = find_target(case.target)
    folder = fixtures.folder(case.network, target)
    pictures = {"expected": str(fixtures.expected(case.network)), "batch": case.batch}
    operators: list[tuple[str, float]] = []
    worker = Worker(fixtures.scratch, case.threads)
    try:
        opened = worker.ask("open", folder=str(folder), target=case.target, device=case.device, threads=case.threads)
        differences = worker.ask("differences", **pictures)
        try:
            operators = worker.ask("operators", **pictures)
        except WorkerError as error:
            on_progress(f"no profile of {case.target}: {error}")
    finally:
        worker.close()
    work, form = _generator_work(case, folder)
    return StaticMetrics(
        target=case.target,
        title=target.title,
        network=case.network,
        resolution=case.resolution,
        precision=case.precision,
        form=form,
        first_opening=opened["importing"] + opened["opening"],
        file_size=sum(Bundle.open(folder).manifest.files[name].size for name in target.format.all_files),
        differences=Differences(**differences),
        gflop=work.flop / 1e9,
        int8_gflop=work.int8_flop / 1e9,
        megabytes=work.bytes / 1e6,
        weight_megabytes=work.weight_bytes / 1e6,
        text_encoder_gflop=_text_encoder_gflop(case, folder),
        operators=tuple((kind, f"{milliseconds:.3f}") for kind, milliseconds in operators),
    )


def roofline_time(static: StaticMetrics, case: Case, roofline: Roofline) -> float | None:
    """Milliseconds that the generator's products take at peak rates, or their bytes at peak bandwidth, if longer.

    ONNX Runtime computes FP16 graphs on a CPU in fp32. None where a rate is not known.
    """
    fp32 = case.precision == "int8" or (case.precision, case.device) == ("fp16", "cpu")
    rate: float | None = getattr(roofline, "fp32" if fp32 else case.precision)
    bandwidth = roofline.bandwidth
    if not rate or not bandwidth or (static.int8_gflop and not roofline.int8):
        return None
    seconds = case.batch * (static.gflop - static.int8_gflop) / rate
    if static.int8_gflop and roofline.int8:
        seconds += case.batch * static.int8_gflop / roofline.int8
    moved = static.weight_megabytes + case.batch * (static.megabytes - static.weight_megabytes)
    return 1000 * max(seconds, moved / 1000 / bandwidth)


def _generator_work(case: Case, folder: Path) -> tuple[Work, str]:
    """For one picture, counted from the file, or from the model for PyTorch; and the form of the graph."""
    format_, width = find_target(case.target).format, _WIDTHS.get(case.precision, 4)
    if format_.backend == EAGER:
        return count_pytorch(Bundle.open(folder).sizes, 1, width), Form.TRAINED
    file = folder / format_.files[GENERATOR]
    return count_work(file, {"B": 1}, width), form_of(file)


def _text_encoder_gflop(case: Case, folder: Path) -> float | None:
    format_ = find_target(case.target).format
    if format_.backend == EAGER:
        return None
    return count_work(folder / format_.files[TEXT_ENCODER], {"B": 1, "T": WORDS}).flop / 1e9


def count_work(file: Path, sizes: Mapping[str, int], float_bytes: int = 4) -> Work:
    """Counts a graph with its symbolic dimensions set, such as `{"B": 1, "T": 12}`. Raises `UncountedError`.

    `float_bytes` is what a float32 takes where the file is computed in fewer bits.
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
    if [2, 2] in kernels:  # a phase sees 2 × 2 pixels of the map before upsampling
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
    """The graph with its symbolic dimensions set, and the shapes of all its values."""
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
        raise UncountedError(f"the size of dimension {letter} is not given")
    return sizes[letter]


def _known(shapes: Shapes, name: str) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or 0 in shape:
        raise UncountedError(f"the shape of {name!r} is unknown")
    return shape


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)


def _width(kind: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _is_data(name: str, shapes: Shapes) -> bool:
    return 0 not in shapes.get(name, (0,))
