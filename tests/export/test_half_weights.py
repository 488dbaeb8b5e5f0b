"""Weights in half precision: half the space, the same pictures, and nothing that is not exact."""

from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from click.testing import CliRunner

from export.half_weights import is_half, round_to_half
from export.pipeline import export_bundle
from t2i_engine.backends.openvino import rewrite
from t2i_engine.bundle import Bundle
from t2i_engine.cli import main
from t2i_engine.engine import Engine
from t2i_engine.errors import OptionError, ParityError
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, find
from t2i_engine.manifest import Graph
from tests.tiny_model import SMALL_GATE, make_model
from training.models.text_to_image import read_model

ONNX = find("onnx")


@pytest.fixture(scope="module")
def half_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_bundle: Path) -> Path:
    """The tiny model with rounded weights. Its graphs are not traced again: only their constants are new."""

    def traced(module: torch.nn.Module, graph: Graph) -> onnx.ModelProto:
        file = ONNX.files[TEXT_ENCODER if graph.outputs[0].name == "sentence" else GENERATOR]
        proto, weights = onnx.load(tiny_bundle / file), module.state_dict()
        for constant in proto.graph.initializer:
            if constant.name in weights:
                constant.CopyFrom(onnx.numpy_helper.from_array(weights.pop(constant.name).numpy(), constant.name))
        assert not weights
        return proto

    folder = tmp_path_factory.mktemp("half") / "half"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.onnx_graphs.traced", traced)
        exported = export_bundle(
            tiny_checkpoint, folder, "half", lambda _: None, "onnx,openvino", gate_size=SMALL_GATE, half_weights=True
        )
    assert exported.rejected == {}
    return exported.folder


def test_large_constants_take_half_the_space(half_bundle: Path, tiny_bundle: Path) -> None:
    sizes = [(folder / "weights.safetensors").stat().st_size for folder in (half_bundle, tiny_bundle)]
    assert sizes[0] < 0.6 * sizes[1]
    for file in ONNX.files.values():
        constants = onnx.load(half_bundle / file).graph.initializer
        assert not [
            one.name for one in constants if one.data_type == onnx.TensorProto.FLOAT and np.prod(one.dims) > 255
        ]
    assert "half precision" in str(Bundle.open(half_bundle).manifest.provenance["export"])


def test_fp32_is_exact_for_the_rounded_weights(half_bundle: Path) -> None:
    assert Bundle.open(half_bundle).manifest.parity.keys() == {"onnx", "openvino", "pytorch"}
    model, expected = read_model(Bundle.open(half_bundle)), make_model()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.half().float()), name
    assert is_half(model)


def test_pictures_are_those_of_the_unrounded_model(half_bundle: Path, tiny_bundle: Path) -> None:
    one, other = (
        Engine.open(folder, "onnxruntime", "fp32").generate("a red bird").pixels.astype(int)
        for folder in (half_bundle, tiny_bundle)
    )
    assert 0 < np.abs(one - other).max() <= 8


def test_openvino_still_joins_the_phases(half_bundle: Path) -> None:
    model = openvino.Core().read_model(half_bundle / ONNX.files[GENERATOR])
    rewrite(model)
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    assert kinds.count("ConvolutionBackpropData") == 3  # one for each block


def test_graphs_compute_in_fp32(half_bundle: Path) -> None:
    for file in ONNX.files.values():
        graph = onnx.shape_inference.infer_shapes(onnx.load(half_bundle / file)).graph
        halves = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT16}
        assert halves
        read = [node.op_type for node in graph.node if halves & set(node.input)]
        assert set(read) == {"Cast"}
        assert not [one.name for one in graph.value_info if one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16]


def test_unrounded_weights_are_stored_as_they_are(tiny_bundle: Path) -> None:
    for file in ONNX.files.values():
        graph = onnx.load(tiny_bundle / file).graph
        assert not [one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT16]


def test_weights_that_do_not_fit_are_an_error() -> None:
    model = make_model()
    model.text_encoder.encoder.weight.data[2, 3] = 1e6
    with pytest.raises(
        ParityError, match=r"text_encoder\.encoder\.weight does not fit half precision; .*--half-weights"
    ):
        round_to_half(model, SMALL_GATE)


def test_weights_whose_rounding_shows_are_an_error() -> None:
    model = make_model()
    for name, scale in (("fc.weight", 3e-5), ("fc.bias", 3e-5), ("to_rgb.1.weight", 1 / 3e-5)):
        model.generator.get_parameter(name).data *= scale  # half precision has few bits left below 6e-5
    with pytest.raises(ParityError, match=r"the weights cannot be rounded: .* of the way"):
        round_to_half(model, SMALL_GATE)


def test_sentences_whose_rounding_shows_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.half_weights.sentence_reach", lambda pictures: 1e-3)  # a picture that hangs on them
    with pytest.raises(ParityError, match=r"cannot be rounded: .* output sentence_share: .* of the way from its own"):
        round_to_half(make_model(), SMALL_GATE)


def test_a_bundles_other_formats_are_not_changed_under_them(tiny_bundle: Path) -> None:
    with pytest.raises(OptionError, match="make a new one with --out"):
        export_bundle(tiny_bundle, None, None, lambda _: None, "onnx", half_weights=True)
    result = CliRunner().invoke(main, ["export", str(tiny_bundle), "--half-weights"])
    assert result.exit_code == 2
    assert "--out" in result.stderr
