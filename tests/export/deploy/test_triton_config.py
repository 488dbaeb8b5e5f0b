"""Every config.pbtxt is a `ModelConfig` to Triton's own protobuf, and agrees with the manifest and the ONNX files."""

import runpy
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from export.deploy.triton import deploy_triton
from export.deploy.triton_config import FRONT, configs, text_format
from t2i_engine.bundle import Bundle
from t2i_engine.formats import GENERATOR, TEXT_ENCODER
from t2i_engine.manifest import TensorSpec

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")

TYPES = {"int64": "TYPE_INT64", "float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
BYTES = {"TYPE_INT64": 8, "TYPE_FP32": 4, "TYPE_UINT32": 4}
NAME = "birds"


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    """The backend of the repository."""
    return str(request.param)


@pytest.fixture(scope="module")
def models(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of birds; not to be written to."""
    return deploy_triton(NAME, tmp_path_factory.mktemp("triton") / NAME, backend, lambda _: None) / "models"


def parsed(models: Path) -> dict[str, Any]:
    """Each model's config by the folder's name."""
    return {file.parent.name: model_config(file.read_text("utf-8")) for file in models.glob("*/config.pbtxt")}


def model_config(text: str) -> Any:  # noqa: ANN401
    """A field that Triton does not know, or a value of another type, is an error."""
    from google.protobuf.text_format import Parse

    return Parse(text, triton.model_config_pb2.ModelConfig())


def declared(tensors: Iterable[Any]) -> dict[str, tuple[str, list[int]]]:
    """What the graph gets or gives: type and shape without the batch, by name."""
    enum = triton.model_config_pb2.DataType
    return {
        one.name: (enum.Name(one.data_type), list(one.reshape.shape if one.HasField("reshape") else one.dims))
        for one in tensors
    }


def expected(tensors: Iterable[TensorSpec]) -> dict[str, tuple[str, list[int]]]:
    return {
        one.name: (TYPES[one.dtype], [-1 if isinstance(size, str) else size for size in one.shape[1:]])
        for one in tensors
    }


def test_the_repository_has_the_ensemble_and_its_parts_in_version_1(models: Path) -> None:
    found = parsed(models)
    assert {*found} == {NAME, *(f"{NAME}_{part}" for part in (FRONT, TEXT_ENCODER, GENERATOR))}
    for name, config in found.items():
        assert config.name == name
        assert any((models / name / "1").iterdir())
    assert found[NAME].platform == "ensemble"
    assert found[f"{NAME}_{FRONT}"].backend == "python"


def test_graphs_have_the_manifests_inputs_and_outputs_and_those_of_their_files(models: Path) -> None:
    parts = parsed(models)
    for name, graph in Bundle.open(NAME).graphs.items():
        config = parts[f"{NAME}_{name}"]
        assert declared(config.input) == expected(graph.inputs)
        assert declared(config.output) == expected(graph.outputs)
        session = onnxruntime.InferenceSession(models / config.name / "1" / "model.onnx")
        for tensors, in_file in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            found = {
                one.name: (
                    {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32", "tensor(uint8)": "TYPE_UINT8"}[
                        one.type
                    ],
                    [-1 if isinstance(size, str) else size for size in one.shape[1:]],
                )
                for one in in_file
            }
            assert declared(tensors) == found


def test_the_ensemble_connects_what_fits(models: Path) -> None:
    parts = parsed(models)
    ensemble = parts[NAME]
    known = {one.name: (one.data_type, list(one.dims)) for one in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        config = parts[step.model_name]
        assert config.max_batch_size == ensemble.max_batch_size
        assert {*step.input_map} == {one.name for one in config.input}
        for one in config.input:
            assert known[step.input_map[one.name]] == (one.data_type, list(one.dims))
        outputs = {one.name: (one.data_type, list(one.dims)) for one in config.output}
        known |= {tensor: outputs[name] for name, tensor in step.output_map.items()}
    assert {one.name: (one.data_type, list(one.dims)) for one in ensemble.output}.items() <= known.items()


def test_batches_are_dynamic_where_the_backend_takes_any_size(models: Path, backend: str) -> None:
    largest = {"onnxruntime": 16, "openvino": 1}[backend]
    for name, config in parsed(models).items():
        assert config.max_batch_size == largest
        assert config.HasField("dynamic_batching") == (largest > 1 and name != NAME)


def test_configs_for_tensorrt_have_the_manifests_inputs_and_outputs() -> None:
    bundle = Bundle.open(NAME)
    messages = configs(bundle, "tensorrt")
    for name, graph in bundle.graphs.items():
        config = model_config(text_format(messages[f"{NAME}_{name}"]))
        assert (config.backend, config.max_batch_size) == ("tensorrt", 16)
        assert declared(config.input) == expected(graph.inputs)
        assert declared(config.output) == expected(graph.outputs)


@pytest.mark.parametrize("name", ["7.", "x.1-y_Z", "n" * 100])  # a real Triton served the three of them
def test_models_have_the_name_of_the_bundle_whatever_it_is(name: str) -> None:
    bundle = Bundle.open(NAME)
    messages = configs(replace(bundle, manifest=replace(bundle.manifest, name=name)), "onnxruntime")
    ensemble = model_config(text_format(messages[name]))
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == [*messages][1:]
    assert [*messages] == [name, *(f"{name}_{part}" for part in (FRONT, TEXT_ENCODER, GENERATOR))]


def test_every_model_is_warmed_up_with_what_it_takes(models: Path) -> None:
    for name, config in parsed(models).items():
        assert [one.batch_size for one in config.model_warmup] == (
            [] if name == NAME else sorted({1, config.max_batch_size})
        )
        inputs = {one.name: one for one in config.input if not one.optional}
        for warmup in config.model_warmup:
            assert {*warmup.inputs} == {*inputs}
            for tensor, given in warmup.inputs.items():
                assert given.data_type == inputs[tensor].data_type
                assert len(given.dims) == len(inputs[tensor].dims)
                assert -1 not in given.dims
                if given.input_data_file:
                    content = (models / name / "warmup" / given.input_data_file).read_bytes()
                    kind = triton.model_config_pb2.DataType.Name(given.data_type)
                    length = 4 + int.from_bytes(content[:4], "little") if kind == "TYPE_STRING" else BYTES[kind]
                    assert len(content) == length


def test_the_client_sends_what_the_ensemble_takes_and_writes_the_picture(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[Any] = []

    class Client:
        def __init__(self, url: str) -> None:
            assert url == "localhost:8001"

        def __enter__(self) -> "Client":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def infer(self, model: str, inputs: list[Any]) -> "Client":
            sent.extend((model, inputs))
            return self

        def as_numpy(self, name: str) -> Any:  # noqa: ANN401
            assert name == "PIXELS"
            return np.asarray(Image.open(models.parent / "reference.png"))[None] ^ 1

    monkeypatch.setattr(triton, "InferenceServerClient", Client)
    out, reference = tmp_path / "bird.png", models.parent / "reference.png"
    arguments = ["client.py", "a réd bird", "--seed", "7", "--out", str(out), "--compare", str(reference)]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(models.parent / "client.py"), run_name="__main__")
    model, inputs = sent
    enum = triton.model_config_pb2.DataType
    kinds = {"BYTES": "TYPE_STRING", "UINT32": "TYPE_UINT32", "FP64": "TYPE_FP64"}
    ensemble = parsed(models)[model]
    assert {one.name(): kinds[one.datatype()] for one in inputs} == {
        one.name: enum.Name(one.data_type) for one in ensemble.input
    }
    assert all(one.shape() == [1, 1] for one in inputs)
    assert capsys.readouterr().out.splitlines() == [
        str(out),
        f"differs from {reference} by 1 levels of 255 at most, 1.00 on average",
    ]
    assert Image.open(out).size == (128, 128)
