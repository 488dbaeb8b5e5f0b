"""`t2i-engine deploy triton`: the front's numbers are the engine's. What a real Triton does with it: real_triton.py."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from export.deploy.triton_config import BACKENDS, configs, drawn
from t2i_engine import latents
from t2i_engine.backends.openvino import kept_signal_stack
from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.cli import main
from t2i_engine.engine import Engine
from t2i_engine.errors import CaptionError
from t2i_engine.formats import find
from t2i_engine.manifest import FileEntry
from t2i_engine.sampler import text_encoder_feeds
from tests.export.deploy.captions import AWKWARD, made_captions

STUB = """
class Tensor:
    def __init__(self, name, array):
        self.name, self.array = name, array

    def as_numpy(self):
        return self.array

class TritonError(str):
    pass

class InferenceResponse:
    def __init__(self, tensors=(), error=None):
        self.tensors, self.error = tensors, error

def get_input_tensor_by_name(request, name):
    return request.get(name)
"""
"""What the front uses of Triton's module; requests are its inputs by name."""

DRIVER = """
import json, sys
stub, folder, asked, answers = sys.argv[1:]
sys.path[:0] = [stub, folder]
import numpy as np
import model, triton_python_backend_utils as backend

front = model.TritonPythonModel()
front.initialize({})
found = {}
requests = [
    {"CAPTION": np.array([[caption.encode("utf-8", "surrogateescape")] for caption in captions], object),
     "SEED": np.array([[seed] for seed in seeds], np.uint32)}
    | ({"TRUNCATION": np.array([[one] for one in truncations])} if truncations else {})
    for captions, seeds, truncations in json.loads(open(asked).read())
]
requests = [{name: backend.Tensor(name, array) for name, array in request.items()} for request in requests]
for index, response in enumerate(front.execute(requests)):
    for tensor in response.tensors:
        found[f"{index} {tensor.name}"] = tensor.array
    if response.error is not None:
        found[f"{index} error"] = np.array(str(response.error))
names = {name.partition(".")[0] for name in sys.modules if "cython" not in name and name[0] != "_"}
found["modules"] = np.array(sorted(names - sys.stdlib_module_names))
found["project"] = np.array([one.__file__ for name, one in sys.modules.items() if name.startswith("t2i_engine")])
np.savez(answers, **found)
"""

Request = tuple[list[str], list[int], list[float] | None]


def deploy(bundle: str | Path, folder: Path, *options: str) -> Path:
    """Runs `t2i-engine deploy triton`; the folder that it prints."""
    result = CliRunner().invoke(main, ["deploy", "triton", str(bundle), "--out", str(folder), *options])
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


def refused(*arguments: object) -> str:
    """The one line of an error."""
    result = CliRunner().invoke(main, ["deploy", "triton", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def ask(deployed: Path, requests: list[Request], folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the front answers in a process without this project: per request, and what it has imported."""
    [front] = deployed.glob("models/*_front/1")
    (folder / "triton_python_backend_utils.py").write_text(STUB, "utf-8")
    (folder / "asked.json").write_text(json.dumps(requests), "utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = [folder, front, folder / "asked.json", folder / "answers.npz"]
    subprocess.run([sys.executable, "-c", DRIVER, *arguments], check=True, cwd=folder, env=environment)
    answers: list[dict[str, Any]] = [{} for _ in requests]
    with np.load(folder / "answers.npz") as arrays:
        found = dict(arrays.items())
    for key in [key for key in found if " " in key]:
        index, name = key.split()
        answers[int(index)][name] = found.pop(key)
    return answers, found


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of birds; not to be written to."""
    return deploy("birds", tmp_path_factory.mktemp("triton") / "birds")


@pytest.fixture(scope="module")
def tensorrt_bundle(plain_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with files under the names of TensorRT's graphs."""
    bundle, row = Bundle.open(plain_bundle), find("tensorrt-fp16")
    copies: dict[str, bytes | Path] = {
        row.files[graph]: plain_bundle / file for graph, file in find("onnx").files.items()
    }
    entries = {name: FileEntry.of(content, row=row) for name, content in copies.items()}
    manifest = replace(bundle.manifest, files={**bundle.manifest.files, **entries}, unverified={row.name: "no GPU"})
    files = {name: plain_bundle / name for name in bundle.manifest.files} | copies
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tensorrt", manifest, files)


@pytest.mark.parametrize("name", ["birds", "cub"])
def test_the_front_reads_and_draws_as_the_engine_without_it(name: str, birds: Path, tmp_path: Path) -> None:
    deployed = birds if name == "birds" else deploy(name, tmp_path / "deployed")
    bundle = Bundle.open(name)
    tokenizer, sizes = bundle.tokenizer(), bundle.sizes
    captions = [*AWKWARD, "a bird " * 600, *made_captions(tokenizer, 500)]
    seeds = [0, 1, latents.LARGEST_SEED, *np.random.default_rng(0).integers(2**32, size=len(captions)).tolist()]
    truncations = (None, 1.0, 0.35, 0.7)
    requests: list[Request] = [
        ([caption], [seed], None if (one := truncations[index % 4]) is None else [one])
        for index, (caption, seed) in enumerate(zip(captions, seeds, strict=False))
    ]
    answers, imported = ask(deployed, requests, tmp_path)
    for ([caption], [seed], truncation), answer in zip(requests, answers, strict=True):
        if "error" in answer:
            with pytest.raises(CaptionError, match=f"^{re.escape(str(answer['error']))}$"):
                tokenizer.encode(caption)
            continue
        ids = tokenizer.encode(caption).ids
        expected = latents.draw([seed], sizes.noise_width, sizes.sentence_width, *(truncation or ()))
        assert (answer["tokens"].dtype, answer["lengths"].dtype) == (np.int64, np.int64)
        assert answer["lengths"].tolist() == [len(ids)]
        assert answer["tokens"][0].tolist() == [*ids, *[0] * (answer["tokens"].shape[1] - len(ids))]
        assert answer["tokens"].shape[1] in (16, 32, 2048)
        for noise in ("noise", "condition_noise"):
            assert answer[noise].dtype == np.float32
            np.testing.assert_array_equal(answer[noise], getattr(expected, noise))
    assert sum("error" in answer for answer in answers) < 10
    assert imported["modules"].tolist() == ["model", "numpy", "t2i_engine", "triton_python_backend_utils"]
    assert all(Path(file).is_relative_to(deployed) for file in imported["project"].tolist())


def test_one_request_may_ask_for_several_pictures_and_fails_as_one(birds: Path, tmp_path: Path) -> None:
    bundle = Bundle.open("birds")
    captions, seeds, truncations = ["a red bird", "a bird " * 20], [7, 8], [0.5, 1.0]
    [good, bad], _ = ask(birds, [(captions, seeds, truncations), ([*captions, "xylophone"], [7, 8, 9], None)], tmp_path)
    assert good["tokens"].shape == (2, 64)
    assert good["lengths"].tolist() == [3, 40]
    for row, (seed, truncation) in enumerate(zip(seeds, truncations, strict=True)):
        alone = latents.draw([seed], bundle.sizes.noise_width, bundle.sizes.sentence_width, truncation)
        np.testing.assert_array_equal(good["noise"][row], alone.noise[0])
    assert [*bad] == ["error"]
    assert "no word in the caption 'xylophone' is known" in str(bad["error"])


def test_what_cannot_be_drawn_is_an_error_of_its_request(tensorrt_bundle: Path, tmp_path: Path) -> None:
    deployed = deploy(tensorrt_bundle, tmp_path / "deployed", "--backend", "tensorrt")
    requests: list[Request] = [
        (["a red bird"], [0], None),
        (["a bird \udcff"], [0], None),
        (["a red bird"], [0], [0.0]),
        (["bird " * 257], [0], None),
        (["bird " * 256], [0], None),
    ]
    answers, _ = ask(deployed, requests, tmp_path)
    assert [str(answer["error"]) if "error" in answer else answer["tokens"].shape for answer in answers] == [
        (1, 16),
        "the caption is not UTF-8; encode it as UTF-8",
        "truncation 0.0 is out of range; above 0 and at most 1 expected",
        "the caption has 257 known words; shorten it to 256 at most",
        (1, 256),
    ]


def test_padding_and_batches_leave_sentence_vectors_as_they_are() -> None:
    engine = Engine.open("birds", backend="onnxruntime", threads=1)
    ids = [engine.tokenizer.encode(caption).ids for caption in made_captions(engine.tokenizer, 48)]
    alone = np.concatenate([engine.encode_tokens([one]) for one in ids])
    feeds = text_encoder_feeds(ids)
    for steps in (16, 64):
        padded = np.pad(feeds["tokens"], ((0, 0), (0, steps - feeds["tokens"].shape[1])))
        found = engine.text_encoder.run({"tokens": padded, "lengths": feeds["lengths"]}, ["sentence"])["sentence"]
        np.testing.assert_array_equal(found, alone)


def test_models_without_conditioning_augmentation_get_no_condition_noise(plain_bundle: Path) -> None:
    bundle = Bundle.open(plain_bundle)
    plain = replace(bundle.manifest, model=replace(bundle.sizes, conditioning_augmentation=False))
    assert [tensor.name for tensor in drawn(Bundle(plain_bundle, plain))] == ["tokens", "lengths", "noise"]
    assert "condition_noise" not in str(configs(Bundle(plain_bundle, plain), "onnxruntime"))


def test_the_readme_says_how_to_build_start_and_draw(birds: Path, tensorrt_bundle: Path, tmp_path: Path) -> None:
    text = (birds / "README.md").read_text("utf-8")
    assert "$" not in text.replace('"$PWD/', "")
    assert "--gpus=all" in text
    assert "trtexec" not in text
    [command] = re.findall(r"^python client.py '(.+)' --seed 3 --compare reference.png$", text, re.MULTILINE)
    assert Bundle.open("birds").tokenizer().encode(command).unknown == ()
    assert (birds / "reference.png").is_file()
    built = (deploy(tensorrt_bundle, tmp_path / "deployed", "--backend", "tensorrt") / "README.md").read_text("utf-8")
    model = "/models/tiny_text_encoder/1/model"
    assert f"trtexec --onnx={model}.onnx --saveEngine={model}.plan --stronglyTyped --noTF32" in built
    assert "--maxShapes=tokens:16x256,lengths:16\n" in built
    assert "--minShapes=noise:1x8,sentence:1x6,condition_noise:1x6 \\\n" in built
    assert built.count("nvcr.io/nvidia/tensorrt:26.06-py3") == 2
    assert "nvcr.io/nvidia/tritonserver:26.06-py3" in built


def test_openvino_draws_the_engines_pictures_from_what_tritons_backend_makes_of_the_graphs(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    deployed = deploy("birds", tmp_path / "birds", "--backend", "openvino")
    [feeds], _ = ask(deployed, [(["a small red bird"], [7], None)], tmp_path)

    @kept_signal_stack()
    def run(name: str, *inputs: str) -> Any:  # noqa: ANN401
        """As that backend does: the first dimension is the batch, which is fixed to the largest."""
        core = openvino.Core()
        model = core.read_model(deployed / "models" / f"birds_{name}" / "1" / "model.onnx")
        steps = openvino.preprocess.PrePostProcessor(model)
        for tensor in inputs:
            steps.input(tensor).tensor().set_layout(openvino.Layout("N..."))
        model = steps.build()
        openvino.set_batch(model, BACKENDS["openvino"].largest_batch)
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return compiled({tensor: feeds[tensor] for tensor in inputs})

    feeds["sentence"] = run("text_encoder", "tokens", "lengths")["sentence"]
    [pixels] = run("generator", "sentence", "noise", "condition_noise")["pixels"]
    expected = Engine.open("birds", backend="onnxruntime", threads=1).generate("a small red bird", 7).pixels
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_deploying_again_gives_the_same_bytes(birds: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    again = deploy("birds", tmp_path / "empty")
    assert {file.relative_to(again): file.read_bytes() for file in again.rglob("*") if file.is_file()} == {
        file.relative_to(birds): file.read_bytes() for file in birds.rglob("*") if file.is_file()
    }


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "kept").write_text("kept", "utf-8")
    assert "is not an empty folder; choose a new one, or delete it" in refused("birds", "--out", full)
    assert "cannot write" in refused("birds", "--out", full / "kept" / "triton")
    assert [file.name for file in tmp_path.rglob("*")] == ["full", "kept"]


@pytest.mark.parametrize(
    ("backend", "formats", "first"),
    [
        ("onnxruntime", "onnx", "onnx"),
        ("openvino", "openvino", "openvino"),
        ("tensorrt", "tensorrt-fp16 or tensorrt-fp32", "tensorrt-fp16"),
    ],
)
def test_a_bundle_without_the_format_is_refused_with_the_cure(
    backend: str, formats: str, first: str, plain_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "my bundle"
    shutil.copytree(plain_bundle, bundle)
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    del manifest["parity"]["onnx"]
    (bundle / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    assert refused(bundle, "--out", tmp_path / "triton", "--backend", backend).endswith(
        f"has no format {formats}, which Triton's backend {backend} runs: "
        f"t2i-engine export '{bundle}' --formats {first}"
    )
    assert not (tmp_path / "triton").exists()


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    assert "'pytorch' is not one of 'onnxruntime', 'openvino', 'tensorrt'" in refused(
        "birds", "--out", tmp_path / "triton", "--backend", "pytorch"
    )
    assert [*BACKENDS] == ["onnxruntime", "openvino", "tensorrt"]
