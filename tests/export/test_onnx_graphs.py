"""The exported graphs: a public contract, reproducible to the byte, free of anything about the machine."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from export import onnx_graphs
from export.artifact import Artifact
from t2i_engine.bundle import Bundle
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, find
from t2i_engine.manifest import Graph, TensorSpec
from tests.tiny_model import SIZES, WORDS, make_model

ROW = find("onnx")


@pytest.fixture(scope="module")
def rebuilt() -> dict[str, Artifact]:
    """The tiny model's graphs by file, built a second time from a generator left in its folded form."""
    model = make_model()
    model.generator.folded = True
    files = {file.name: file for file in onnx_graphs.build(model, ROW)}
    assert model.generator.folded
    return files


def declared(model: onnx.ModelProto) -> Graph:
    return Graph(tuple(map(spec, model.graph.input)), tuple(map(spec, model.graph.output)))


def spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(value.name, dtype, tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim))


def session(folder: Path, graph: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / ROW.files[graph], providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("graph", [TEXT_ENCODER, GENERATOR])
def test_names_dtypes_and_shapes_are_those_of_the_contract(tiny_bundle: Path, graph: str) -> None:
    bundle = Bundle.open(tiny_bundle)
    model = onnx.load(bundle.path(ROW.files[graph]))
    onnx.checker.check_model(model, full_check=True)
    assert declared(model) == bundle.graphs[graph]
    file = bundle.manifest.files[ROW.files[graph]]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", file.opset)]
    assert (file.graph, file.format, file.precision) == (graph, "onnx", "fp32")


def test_the_same_model_gives_the_same_bytes_whatever_form_it_was_trained_in(
    tiny_bundle: Path, rebuilt: dict[str, Artifact]
) -> None:
    assert rebuilt.keys() == set(ROW.files.values())
    for name, file in rebuilt.items():
        assert file.content == (tiny_bundle / name).read_bytes()


def test_the_generator_is_exported_optimized(tiny_bundle: Path) -> None:
    graph = onnx.load(tiny_bundle / ROW.files[GENERATOR]).graph
    sides = [list(tensor.dims)[2:] for tensor in graph.initializer if len(tensor.dims) == 4]
    assert sides.count([2, 2]) == 4 * 3  # four phases of each block's first convolution
    assert sides.count([3, 3]) == 3  # its second one
    assert sides.count([3, 4]) == 1  # the last layer, two pixels at a time


def test_no_file_tells_where_it_was_made(tiny_bundle: Path) -> None:
    private = [str(Path.cwd()), str(Path.home()), str(Path(__file__).parents[2]), "site-packages", ".py", "/tmp"]
    for file in tiny_bundle.iterdir():
        content = file.read_bytes()
        assert [text for text in private if text.encode() in content] == []


def test_nothing_is_noted_on_any_level_of_a_graph(tiny_bundle: Path) -> None:
    def notes(message: onnx.ModelProto) -> Iterator[str]:
        for field, value in message.ListFields():
            if field.name in ("metadata_props", "doc_string"):
                yield f"{field.full_name}: {value}"
            elif field.message_type is not None:
                for child in [value] if hasattr(value, "ListFields") else value:
                    yield from notes(child)

    for file in ROW.files.values():
        assert list(notes(onnx.load(tiny_bundle / file))) == []


def test_a_caption_has_the_same_sentence_whatever_follows_its_end(tiny_bundle: Path) -> None:
    encoder = session(tiny_bundle, TEXT_ENCODER)
    alone = encoder.run(["sentence"], {"tokens": np.array([[3, 5, 2]]), "lengths": np.array([3])})[0]
    tokens = np.full((3, 9), len(WORDS) - 1)
    tokens[:, :3] = [3, 5, 2]
    padded = encoder.run(["sentence"], {"tokens": tokens, "lengths": np.array([3, 9, 4])})[0]
    np.testing.assert_allclose(padded[0], alone[0], atol=1e-6)
    assert np.abs(padded[1:] - alone).max() > 1e-3


def test_pixels_are_the_image_rounded_half_to_even(tiny_bundle: Path) -> None:
    random = np.random.default_rng(0)
    shapes = {"noise": SIZES.noise_width, "sentence": SIZES.sentence_width, "condition_noise": SIZES.sentence_width}
    feeds = {name: random.standard_normal((5, width), dtype=np.float32) for name, width in shapes.items()}
    image, pixels = session(tiny_bundle, GENERATOR).run(["image", "pixels"], feeds)
    assert pixels.dtype == np.uint8
    assert np.ptp(pixels) > 100
    assert np.abs(image).max() <= 1
    np.testing.assert_array_equal(pixels, np.rint((image.transpose(0, 2, 3, 1) + 1) * np.float32(127.5)))
