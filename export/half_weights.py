"""Half the size: weights rounded to half precision once, before anything is exported, and stored that way.

Graphs in fp32 cast these constants when they are opened, which runtimes do once. The results are those of the
rounded weights in fp32, so every fp32 format stays exact.
"""

from collections.abc import Mapping
from itertools import takewhile
from types import MappingProxyType

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from t2i_engine.backends.base import Array
from t2i_engine.backends.pytorch import exact_runners
from t2i_engine.errors import ParityError
from t2i_engine.formats import TEXT_ENCODER, find
from t2i_engine.parity import GateSize, OpenFormat, compare, gate_cases
from t2i_engine.picture_reference import make_picture_reference, sentence_reach
from training.models.text_to_image import TextToImage

SMALLEST = 256  # fewest numbers in a constant that is worth a cast

_JUDGED_AS = find("onnx-fp16")
# Along one axis: what a 2-tap kernel of even and of odd results takes of a, b and c (optimized_generator.py).
_TAPS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


def round_to_half(model: TextToImage, size: GateSize) -> None:
    """Rounds every weight in place, and compares sentences and pictures before and after.

    Raises `ParityError` if they are further apart than FP16 allows, or a weight does not fit half precision.
    """
    before = exact_runners(model)
    pictures = make_picture_reference(before, before, model.sizes, size.emulated)
    sentences = list(takewhile(lambda case: case.graph == TEXT_ENCODER, gate_cases(before, model.sizes, size)))
    for name, tensor in model.state_dict().items():
        tensor.copy_(tensor.half())
        if not tensor.isfinite().all():
            raise ParityError(f"{name} does not fit half precision; export without --half-weights")
    rounded = OpenFormat(_JUDGED_AS, exact_runners(model))
    findings = compare([rounded], sentences, "its own with unrounded weights", sentence_reach=sentence_reach(pictures))
    findings += pictures.judge(rounded, model.sizes, "its pictures with unrounded weights")
    for found in findings:
        if not found.ok:
            raise ParityError(f"the weights cannot be rounded: {found}; export without --half-weights")


def is_half(model: TextToImage) -> bool:
    """Whether half precision holds every weight exactly."""
    return all(torch.equal(tensor, tensor.half().float()) for tensor in model.state_dict().values())


def store_in_half(proto: onnx.ModelProto, kernels: Mapping[str, Array] = MappingProxyType({})) -> None:
    """Stores the large constants of a graph in half precision if that is exact.

    `kernels` are 3×3 kernels (out, in, 3, 3) by the name of a layer whose constants `NAME.weights.0` to `.3` are the
    2×2 kernels of its phases: sums, which half precision cannot hold. They are computed when the graph is opened.
    """
    graph, nodes = proto.graph, []
    constants = {one.name: one for one in graph.initializer}

    def stored(name: str, values: Array) -> None:
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], f"cast {name}", to=TensorProto.FLOAT))

    for layer, kernel in kernels.items():
        stored(f"{layer}.kernel", kernel.reshape(*kernel.shape[:2], 9))
        shape = f"{layer}.phase"
        graph.initializer.append(numpy_helper.from_array(np.array([*kernel.shape[:2], 2, 2]), shape))
        for phase in range(4):
            name = f"{layer}.weights.{phase}"
            graph.initializer.remove(constants.pop(name))
            row, column = divmod(phase, 2)
            taps = numpy_helper.from_array(np.kron(_TAPS[row], _TAPS[column]).T.copy(), f"{name}.taps")  # (9, 4)
            graph.initializer.append(taps)
            nodes.append(helper.make_node("MatMul", [f"{layer}.kernel", taps.name], [f"{name}.sums"], f"sum {name}"))
            nodes.append(helper.make_node("Reshape", [f"{name}.sums", shape], [name], f"shape {name}"))
    for name, constant in constants.items():
        if constant.data_type == TensorProto.FLOAT and np.prod(constant.dims) >= SMALLEST:
            values = numpy_helper.to_array(constant)
            if np.array_equal(values, values.astype(np.float16)):
                graph.initializer.remove(constant)
                stored(name, values)
    for node in reversed(nodes):
        graph.node.insert(0, node)
