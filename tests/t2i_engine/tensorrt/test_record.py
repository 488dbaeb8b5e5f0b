"""What a record reads out of a builder's log, whose wording differs between the variants of TensorRT."""

from dataclasses import replace

import pytest

from t2i_engine.tensorrt.record import EngineRecord, Layer, PrecisionError, check_precision, compiled_layers

NETWORK = (Layer("conv", "CONVOLUTION", ("Half",), ("Half",)),)
PLAIN = (
    "Name: conv1 + relu, LayerType: CaskConvolution, "
    "Inputs: [ {{ Name: x, Location: Device, Dimensions: [-1,8,4,4], Format/Datatype: {0} }}], "
    "Outputs: [ {{ Name: y, Location: Device, Dimensions: [-1,8,4,4], Format/Datatype: {0} }}], "
    "ParameterType: Convolution, Kernel: [3,3], TacticName: sm80_xmma_fprop"
)


@pytest.mark.parametrize(
    ("described", "datatype"),
    [
        ("Half", "Half"),
        ("Channel major FP16 format where channel % 8 == 0", "Half"),
        ("Row major linear FP16 format", "Half"),
        ("Row major linear FP32", "Float"),
        ("Channel major FP32 format where channel % 4 == 0", "Float"),
        ("Row major linear BF16", "BFloat16"),
        ("Row major linear INT8 format", "Row"),
    ],
)
def test_a_datatype_is_read_out_of_its_description(described: str, datatype: str) -> None:
    (layer,) = compiled_layers([PLAIN.format(described)])
    assert layer == Layer("conv1 + relu", "CaskConvolution", (datatype,), (datatype,))


def test_a_compiled_layer_in_another_precision_is_rejected_whatever_its_layout() -> None:
    half, full = (PLAIN.format(f"Channel major {name} format where channel % 4 == 0") for name in ("FP16", "FP32"))
    assert check_precision(NETWORK, compiled_layers([half]), "fp16") == {}
    with pytest.raises(PrecisionError, match=r"1 heavy layers are not in Half: conv1 \+ relu .* is in Float"):
        check_precision(NETWORK, compiled_layers([full]), "fp16")


def test_the_summary_counts_the_layers_that_prove_the_precision() -> None:
    known, unknown = (compiled_layers([PLAIN.format(described)])[0] for described in ("Half", "something new"))
    record = EngineRecord({"precision": "fp16"}, "", 1.0, (), (), NETWORK, (known, unknown), {})
    assert "1 heavy layers of 1 in Half, as compiled 1 of 2" in record.summary()


def test_records_that_say_flavour_are_still_read() -> None:
    record = EngineRecord({"variant": "tensorrt"}, "", 1.0, (), (), NETWORK, (), {})
    assert EngineRecord.from_json(replace(record, key={"flavour": "tensorrt"}).to_json()) == record
