"""Rewrites a bundle's ONNX graphs into the form that OpenVINO runs fastest: the same function.

The files hold what ONNX Runtime prefers: four 2×2 convolutions whose results are interleaved along rows and columns.
OpenVINO keeps channels last, and would transpose every map to interleave them.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from openvino import Model

VERSION = "2"  # raised with every change, so that no graph compiled before it is used


def rewrite(model: "Model") -> None:
    """Rewrites a model in place: equal within rounding in fp32, more precise in int8."""
    _keep_sums(model)
    _join_phases(model)


def _keep_sums(model: "Model") -> None:
    """Removes the rounding of a convolution's sums to 8 bits: ONNX Runtime needs it, OpenVINO keeps them in fp32."""
    for rounding in _nodes(model, "FakeQuantize"):
        biased = _sources(rounding)[0]
        if _kinds(biased) != ["Add"] or _sources(biased)[0].get_type_name() != "Convolution":
            continue
        last = rounding
        while last.get_type_name() in ("FakeQuantize", "Convert", "Subtract"):
            last = next(iter(last.output(0).get_target_inputs())).get_node()
        if last.get_type_name() == "Multiply":
            last.output(0).replace(rounding.input_value(0))


def _join_phases(model: "Model") -> None:
    from openvino import opset8 as ops

    for result in _nodes(model, "Reshape"):
        phases = _alternating(result)
        if phases is None:
            continue
        joined = _transposed_convolution([phase.get_node() for phase in phases])
        if joined is None:
            joined = ops.depth_to_space(ops.concat(phases, 1), "blocks_first", 2)
        result.output(0).replace(joined.output(0))


def _alternating(result: Any) -> list[Any] | None:  # noqa: ANN401  (OpenVINO's Node)
    """The four maps that are interleaved in a result, row by row; None if it is something else."""
    rows = _stacked(result)
    columns = [_stacked(row.get_node()) for row in rows or []]
    return [phase for pair in columns for phase in pair] if columns and all(columns) else None  # type: ignore[union-attr]


def _stacked(result: Any) -> list[Any] | None:  # noqa: ANN401
    """The two maps that are interleaved along one axis of a result: unsqueezed, concatenated, reshaped."""
    if result.get_type_name() != "Reshape" or _sources(result)[0].get_type_name() != "Concat":
        return None
    parts = _sources(_sources(result)[0])
    return [part.input_value(0) for part in parts] if _kinds(*parts) == ["Unsqueeze"] * 2 else None


def _transposed_convolution(biased: list[Any]) -> Any:  # noqa: ANN401
    """One transposed convolution for four 2×2 ones in fp32, with their taps reordered; None if they are not that."""
    from openvino import opset8 as ops

    if _kinds(*biased) != ["Add"] * 4:
        return None
    convolutions = [_sources(node)[0] for node in biased]
    if _kinds(*convolutions) != ["Convolution"] * 4:
        return None
    weights = [_sources(node)[1] for node in convolutions]
    bias = _sources(_sources(biased[0])[1])[0]  # behind a reshape that asks the convolution for its shape
    if _kinds(*weights, bias) != ["Constant"] * 5:
        return None
    channels_out, channels_in = weights[0].get_output_shape(0)[:2]
    kernel = np.empty((channels_in, channels_out, 4, 4), np.float32)
    for number, weight in enumerate(weights):
        row, column = divmod(number, 2)
        kernel[:, :, 3 - row :: -2, 3 - column :: -2] = weight.get_data().swapaxes(0, 1)
    sizes = {"strides": [2, 2], "pads_begin": [1, 1], "pads_end": [1, 1]}
    convolved = ops.convolution_backprop_data(convolutions[0].input_value(0), ops.constant(kernel), **sizes)
    return ops.add(convolved, ops.constant(bias.get_data().reshape(1, -1, 1, 1)))


def _nodes(model: "Model", kind: str) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == kind]


def _kinds(*nodes: Any) -> list[str]:  # noqa: ANN401
    return [node.get_type_name() for node in nodes]


def _sources(node: Any) -> list[Any]:  # noqa: ANN401
    return [tensor.get_source_output().get_node() for tensor in node.inputs()]
