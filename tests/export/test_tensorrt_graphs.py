"""TensorRT's graphs compute what PyTorch computes, and become engines whose heavy layers are in the precision."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export import tensorrt_graphs
from export.artifact import Artifact
from export.gate import run_gate
from export.tensorrt_graphs import build, build_with_engines
from t2i_engine.backends.base import Array
from t2i_engine.backends.pytorch import exact_runners
from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.errors import ParityError
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, find
from t2i_engine.info import system_info
from t2i_engine.manifest import FileEntry, Manifest, graphs_of
from t2i_engine.parity import Case, GateSize, picture_case, sentence_case
from t2i_engine.tensorrt.builder import Profile, build_engine
from t2i_engine.tensorrt.record import PrecisionError
from t2i_engine.tensorrt.variant import TENSORRT_RTX, load_variant
from tests.tiny_model import SIZES, make_model

PRECISIONS = {"fp16": "Half", "fp32": "Float"}
GRAPHS = (TEXT_ENCODER, GENERATOR)

Built = dict[tuple[str, str], Artifact]


@pytest.fixture(scope="module")
def built() -> Built:
    """Every graph by its precision and name."""
    files = [
        (precision, file) for precision in PRECISIONS for file in build(make_model(), find(f"tensorrt-{precision}"))
    ]
    return {(precision, str(file.graph)): file for precision, file in files}


def cases() -> list[Case]:
    """Mixed lengths with words past a caption's end, and pictures."""
    pytorch, random = exact_runners(make_model()), np.random.default_rng(0)
    lengths = [np.array([1]), np.array([7, 1, 4]), random.integers(1, 41, 7)]
    read = [sentence_case(pytorch, random.integers(1, 13, (len(one), int(one.max()) + 2)), one) for one in lengths]
    sentences = [case.expected["sentence"] for case in read]
    return read + [picture_case(pytorch, SIZES, sentence, range(len(sentence))) for sentence in sentences]


def run(file: Artifact, case: Case) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(file.content, providers=["CPUExecutionProvider"])
    return dict(zip(case.expected, session.run(list(case.expected), dict(case.feeds)), strict=True))


def test_fp32_graphs_are_equal_to_pytorch(built: Built) -> None:
    for case in cases():
        found = run(built["fp32", case.graph], case)
        for name, tolerance in (("sentence", 1e-5), ("image", 1e-4), ("pixels", 1)):
            if name in found:
                np.testing.assert_allclose(
                    found[name].astype(np.float64), case.expected[name].astype(np.float64), rtol=0, atol=tolerance
                )


def test_fp16_graphs_are_equal_to_pytorch_but_for_rounding(built: Built) -> None:
    """ONNX Runtime rounds the weights here but computes in fp32: this tests the graph, not the arithmetic."""
    for case in cases():
        found = run(built["fp16", case.graph], case)
        if case.graph == TEXT_ENCODER:
            np.testing.assert_allclose(found["sentence"], case.expected["sentence"], rtol=0, atol=2e-3)
        else:
            error = np.square(found["image"].astype(np.float64) - case.expected["image"]).mean()
            assert 10 * np.log10(4 / error) > 55
            assert np.abs(found["pixels"].astype(int) - case.expected["pixels"]).max() <= 4


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_names_dtypes_and_shapes_are_those_of_the_contract(built: Built, precision: str, graph: str) -> None:
    found = onnx.load_from_string(built[precision, graph].content).graph
    for values, declared in (
        (found.input, graphs_of(SIZES)[graph].inputs),
        (found.output, graphs_of(SIZES)[graph].outputs),
    ):
        assert [spec(value) for value in values] == [(one.name, one.dtype, len(one.shape)) for one in declared]
    assert {axis.dim_param for value in found.input for axis in value.type.tensor_type.shape.dim} - {""} == {
        size for one in graphs_of(SIZES)[graph].inputs for size in one.shape if isinstance(size, str)
    }


def spec(value: onnx.ValueInfoProto) -> tuple[str, str, int]:
    tensor = value.type.tensor_type
    return value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, len(tensor.shape.dim)


def test_weights_are_stored_in_the_precision(built: Built) -> None:
    for graph in GRAPHS:
        half, full = (len(built[precision, graph].content) for precision in ("fp16", "fp32"))
        assert half < 0.8 * full


def test_no_file_tells_where_it_was_made(built: Built) -> None:
    for file in built.values():
        assert not [text for text in (b"site-packages", b".py", b"/tmp", b"/home", b"/root") if text in file.content]


def test_the_same_model_gives_the_same_bytes(built: Built) -> None:
    again = next(file for file in build(make_model(), find("tensorrt-fp16")) if file.graph == TEXT_ENCODER)
    assert again.content == built["fp16", TEXT_ENCODER].content


def test_the_model_that_is_exported_stays_in_fp32() -> None:
    model = make_model()
    next(build(model, find("tensorrt-fp16")))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_both_networks_become_engines_with_every_heavy_layer_in_the_precision(
    built: Built, precision: str, graph: str
) -> None:
    pytest.importorskip("tensorrt_rtx", reason='pip install "t2i-engine[tensorrt-rtx]"')
    variant, onnx_file = load_variant(TENSORRT_RTX), built[precision, graph].content
    key, declared = {"precision": precision}, graphs_of(SIZES)[graph]
    record = build_engine(variant, onnx_file, declared, precision, Profile(), key, ("sm89",)).record
    products = [layer for layer in record.network if layer.type == "MATRIX_MULTIPLY"]
    assert products
    assert all(layer.datatypes == {PRECISIONS[precision]} for layer in products)
    assert [binding.name for binding in record.outputs] == [one.name for one in declared.outputs]
    assert bool(record.exceptions) == (precision == "fp16")
    other = next(name for name in PRECISIONS if name != precision)
    with pytest.raises(PrecisionError, match="heavy layers are not in"):
        build_engine(variant, onnx_file, declared, other, Profile(), key, ("sm89",))


def test_engines_built_ahead_are_in_the_bundle_and_info_shows_their_records(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason='pip install "t2i-engine[tensorrt-rtx]"')
    row = find("tensorrt-rtx-fp16")
    monkeypatch.setattr(tensorrt_graphs, "build", lambda *_: [built["fp16", graph] for graph in GRAPHS])
    files = {file.name: file for file in build_with_engines(make_model(), row)}
    assert files.keys() == row.all_files
    records = {name: file.entry for name, file in files.items()} | {"vocabulary.json": FileEntry.of(b"[]")}
    contents: dict[str, bytes | Path] = {name: file.content for name, file in files.items()}
    manifest = Manifest("b", SIZES, records, unverified={row.name: "no GPU"})
    bundle = Bundle.open(write_bundle(tmp_path / "b", manifest, contents | {"vocabulary.json": b"[]"}))
    assert [one.name for one in bundle.formats] == [row.name]
    text = system_info(bundle).as_text()
    assert "built, not run: no GPU" in text
    engines = " ".join(text.partition("\nEngines\n")[2].split())
    for graph in GRAPHS:
        engine = engines.partition(f"{graph}.tensorrt-rtx-fp16.engine bundle, ")[2].partition(".engine")[0]
        assert "sm89" in engine
        assert "heavy layers of" in engine
        assert "in Half" in engine


def test_an_engine_that_misses_the_reference_is_rejected_and_the_export_goes_on(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_runner(*_: object) -> None:
        raise ParityError("the engine is rejected: too far from PyTorch")

    monkeypatch.setattr("t2i_engine.backends.tensorrt.open_runner", open_runner)
    rows = [find("tensorrt-fp32"), find("onnx")]
    result = run_gate(make_model(), Bundle.open(tiny_bundle), rows, lambda _: None, GateSize(1, 2))
    assert result.rejected == {"tensorrt-fp32": "the engine is rejected: too far from PyTorch"}


def test_an_lstm_is_two_loops_of_products_in_half(built: Built) -> None:
    api = pytest.importorskip("tensorrt_rtx", reason='pip install "t2i-engine[tensorrt-rtx]"')
    from t2i_engine.tensorrt.record import network_layers

    variant = load_variant(TENSORRT_RTX)
    builder = variant.start("Builder")
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert api.OnnxParser(network, variant.log.logger).parse(built["fp16", TEXT_ENCODER].content)
    layers = network_layers(network)
    recurrent = [layer for layer in layers if layer.type == "RECURRENCE"]
    assert len([layer for layer in layers if layer.type == "TRIP_LIMIT"]) == 2
    assert len(recurrent) == 4  # state and cell of each direction
    assert all(layer.datatypes == {"Half"} for layer in recurrent)
