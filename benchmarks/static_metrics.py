"""Metrics of a target that hold at any batch size: first opening, files, differences from PyTorch, and work.

Work is the FLOPs of every convolution and matrix product, a multiply-add as two, and the bytes that they move: inputs,
weights and outputs, each once. Everything between them counts as free and fused. That is the minimum the graph's
arithmetic requires, not what a runtime does.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from onnx import helper, shape_inference

from benchmarks.fixtures import Fixtures
from benchmarks.measurement import Worker, WorkerError, open_case
from benchmarks.report import Roofline, StaticMetrics
from benchmarks.targets import EAGER, Case, find_target
from t2i_engine.backends.openvino import in_8_bits
from t2i_engine.bundle import Bundle
from t2i_engine.formats import GENERATOR, Differences, Form
from t2i_engine.manifest import ModelSizes, graphs_of

_WIDTHS = {"bf16": 2, "fp16": 2, "int8": 2}  # bytes that a float32 of the file, or of PyTorch, takes, at least


@dataclass(frozen=True)
class Work:
    """The work of one call; `int8_flop` are those with 8-bit operands, `weight_bytes` do not grow with the batch."""

    flop: float
    int8_flop: float
    bytes: float
    weight_bytes: float


class UncountedError(ValueError):
    """A product with unknown shapes; nothing is guessed."""


def measure_static(case: Case, fixtures: Fixtures, on_progress: Callable[[str], None]) -> StaticMetrics:
    """Opens a target in a process of its own, with empty caches. Raises `WorkerError` if that fails.

    If the profiler fails, the target only lacks its profile; `on_progress` gets a line.
    """
    target = find_target(case.target)
    pictures = {"expected": str(fixtures.expected(case.network)), "batch": case.batch}
    operators: dict[str, float] = {}
    with closing(Worker(fixtures.scratch, case.threads, case.caches)) as worker:
        opened = open_case(worker, case, fixtures)
        differences = worker.ask("differences", **pictures)
        try:
            operators = worker.ask("operators", **pictures)
        except WorkerError as error:
            on_progress(f"no profile of {case.target}: {error}")
    bundle, width = Bundle.open(fixtures.folder(case.network, target)), _WIDTHS.get(case.precision, 4)
    if target.format.backend == EAGER:
        work, form = count_pytorch(bundle.sizes, 1, width), Form.TRAINED
    else:
        file = bundle.folder / target.format.files[GENERATOR]
        work, form = count_work(file, {"B": 1}, width, case.precision == "int8"), form_of(file)
    return StaticMetrics(
        target=case.target,
        title=target.title,
        network=case.network,
        precision=case.precision,
        form=form,
        first_opening=opened["importing"] + opened["opening"],
        file_size=sum(bundle.manifest.files[name].size for name in target.format.all_files),
        differences=Differences(**differences),
        gflop=work.flop / 1e9,
        int8_gflop=work.int8_flop / 1e9,
        megabytes=work.bytes / 1e6,
        weight_megabytes=work.weight_bytes / 1e6,
        operators={kind: round(milliseconds, 3) for kind, milliseconds in operators.items()},
        device=case.device,
    )


def roofline_time(static: StaticMetrics, case: Case, roofline: Roofline) -> float | None:
    """Milliseconds that the generator's products take at peak rates, or their bytes at peak bandwidth, if longer.

    ONNX Runtime computes FP16 graphs on a CPU in fp32; what int8 does not cover is bf16 if the CPU has it. None if a
    rate is not known.
    """
    precision = "fp32" if (case.precision, case.device) == ("fp16", "cpu") else case.precision
    rate: float | None = (roofline.bf16 or roofline.fp32) if precision == "int8" else getattr(roofline, precision)
    if not rate or not roofline.bandwidth or (static.int8_gflop and not roofline.int8):
        return None
    seconds = case.batch * (static.gflop - static.int8_gflop) / rate
    if roofline.int8:
        seconds += case.batch * static.int8_gflop / roofline.int8
    return 1000 * max(seconds, static.moved(case.batch) / 1000 / roofline.bandwidth)


def count_work(file: Path, sizes: Mapping[str, int], float_bytes: int = 4, int8: bool = False) -> Work:
    """Counts a graph with its symbolic dimensions set, such as `{"B": 1}`. Raises `UncountedError`.

    `float_bytes` is what a float32 takes where the file is computed in fewer bits; with `int8`, operands of the
    convolutions that OpenVINO rounds to 8 bits take one byte.
    """
    graph = _sized(onnx.load(file), sizes)
    weights = {tensor.name for tensor in graph.initializer}
    values = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output, *graph.value_info)}
    shapes = {name: tuple(size.dim_value for size in kind.shape.dim) for name, kind in values.items()}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    kinds = {name: kind.elem_type for name, kind in values.items()}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}

    def shape(name: str) -> tuple[int, ...]:
        if 0 in shapes.get(name, (0,)):
            raise UncountedError(f"the shape of {name!r} is unknown")
        return shapes[name]

    def moved(name: str, rounded: bool) -> float:
        width = helper.tensor_dtype_to_np_dtype(kinds.get(name, onnx.TensorProto.FLOAT)).itemsize
        return prod(shape(name)) * (1 if rounded else float_bytes if width == 4 else width)

    flop = int8_flop = moving = constant = 0.0
    for node in graph.node:
        if node.input and all(name in weights for name in node.input if name):
            weights.update(node.output)  # computed once, when the file is opened: half_weights.py
            continue
        if products := _flop(node, shape):
            convolves = int8 and node.op_type == "Conv"
            rounded = node.input[:2] if convolves and in_8_bits(shape(node.input[1]), shape(node.input[0])[2]) else ()
            flop += products
            int8_flop += products if rounded else 0
            moving += sum(moved(name, name in rounded) for name in (*node.input, *node.output) if name)
            constant += sum(moved(name, name in rounded) for name in node.input if name in weights)
    return Work(flop, int8_flop, moving, constant)


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
    kernels = [helper.get_node_attr_value(node, "kernel_shape") for node in nodes if node.op_type == "Conv"]
    if [2, 2] in kernels:  # a phase sees 2 × 2 pixels of the map before upsampling
        return Form.PHASES
    return Form.TRANSPOSED if any(node.op_type == "ConvTranspose" for node in nodes) else Form.TRAINED


def _flop(node: onnx.NodeProto, shape: Callable[[str], tuple[int, ...]]) -> float:
    """Two per multiply-add: of a product, one per output and per element that it sums over."""
    match node.op_type:
        case "Conv":
            return 2 * prod(shape(node.output[0])) * prod(shape(node.input[1])[1:])
        case "ConvTranspose":
            return 2 * prod(shape(node.input[0])) * prod(shape(node.input[1])[1:])
        case "MatMul" | "Gemm":  # the exporter transposes no first operand
            return 2 * prod(shape(node.output[0])) * shape(node.input[0])[-1]
    return 0


def _sized(model: onnx.ModelProto, sizes: Mapping[str, int]) -> onnx.GraphProto:
    """The graph with its symbolic dimensions set, and the shapes of all its values."""
    for value in model.graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            if letter := dimension.dim_param:
                if letter not in sizes:
                    raise UncountedError(f"the size of dimension {letter} is not given")
                dimension.dim_value = sizes[letter]
    for value in model.graph.output:  # inferred anew
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return shape_inference.infer_shapes(model, data_prop=True).graph
