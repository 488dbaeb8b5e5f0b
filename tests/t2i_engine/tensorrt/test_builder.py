"""Engines are built on this machine, for GPUs that it does not have; what was built is proved by its record."""

import pytest

from t2i_engine.errors import OptionError
from t2i_engine.tensorrt.builder import BuildError, BuiltEngine, Profile, build_engine
from t2i_engine.tensorrt.record import EngineRecord, PrecisionError
from t2i_engine.tensorrt.variant import TENSORRT_RTX, Variant, load_variant
from tests.t2i_engine.tensorrt.graphs import GRAPH, SIDE, drawing, light

pytest.importorskip("tensorrt_rtx", reason='TensorRT for RTX is not installed: pip install "t2i-engine[tensorrt-rtx]"')

TARGETS = ("sm89", "sm120")


@pytest.fixture(scope="module")
def variant() -> Variant:
    return load_variant(TENSORRT_RTX)


def build(variant: Variant, onnx: bytes, precision: str, targets: tuple[str, ...] = TARGETS) -> BuiltEngine:
    return build_engine(variant, onnx, GRAPH, precision, Profile(), {"precision": precision}, targets)


@pytest.mark.parametrize(("precision", "datatype"), [("fp16", "Half"), ("fp32", "Float")])
def test_every_heavy_layer_is_in_the_precision_asked_for(variant: Variant, precision: str, datatype: str) -> None:
    built = build(variant, drawing(precision), precision)
    record = built.record
    assert len(built.content) > 10_000
    heavy = {
        layer.type: layer.datatypes for layer in record.network if layer.type in ("MATRIX_MULTIPLY", "CONVOLUTION")
    }
    assert heavy == {"MATRIX_MULTIPLY": {datatype}, "CONVOLUTION": {datatype}}
    compiled = [layer for layer in record.compiled if layer.type in ("gemm", "correlation", "runtime_fusion")]
    assert compiled
    assert all(layer.datatypes == {datatype} for layer in compiled)
    assert datatype in record.summary()


def test_the_record_tells_inputs_outputs_and_exceptions_with_their_reason(variant: Variant) -> None:
    record = build(variant, drawing("fp16"), "fp16").record
    assert {binding.name: binding.datatype for binding in record.inputs} == dict.fromkeys(
        ["noise", "sentence", "condition_noise"], "Float"
    )
    outputs = {binding.name: (binding.datatype, binding.shape) for binding in record.outputs}
    assert outputs == {"image": ("Float", (-1, 3, SIDE, SIDE)), "pixels": ("Uint8", (-1, SIDE, SIDE, 3))}
    assert record.exceptions
    assert all("float32 inputs or outputs" in reason for reason in record.exceptions.values())
    assert EngineRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    ("graph", "precision", "message"),
    [
        (drawing("fp32"), "fp16", r"2 heavy layers are not in Half: .* is in Float"),
        (drawing("fp16"), "fp32", r"2 heavy layers are not in Float: .* is in Half"),
        (drawing("fp16", convolution="fp32"), "fp16", r"1 heavy layers are not in Half: .*\(CONVOLUTION\) is in Float"),
        (light(), "fp32", "no convolution or matrix product"),
    ],
)
def test_a_build_in_another_precision_is_refused(variant: Variant, graph: bytes, precision: str, message: str) -> None:
    with pytest.raises(PrecisionError, match=message):
        build(variant, graph, precision)


def test_a_graph_that_cannot_be_read_is_an_error_with_the_reason(variant: Variant) -> None:
    with pytest.raises(BuildError, match=r"cannot read the graph: .*parse"):
        build(variant, b"nonsense", "fp16")


def test_an_unknown_architecture_is_an_error_with_those_there_are(variant: Variant) -> None:
    with pytest.raises(OptionError, match=r"unknown architecture 'sm90'.*sm89"):
        build(variant, drawing("fp16"), "fp16", ("sm90",))


def test_what_tensorrt_logs_is_in_the_error(variant: Variant) -> None:
    """Without a GPU there is no current one; the builder gives None, and the reason is in its log."""
    from t2i_engine.backends.base import cuda_device_count

    if cuda_device_count():
        pytest.skip("there is a GPU")
    with pytest.raises(BuildError, match="cudaError"):
        build(variant, drawing("fp16"), "fp16", ("current",))
