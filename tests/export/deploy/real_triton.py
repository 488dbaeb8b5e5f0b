"""A deployed bundle in a real Triton: python -m tests.export.deploy.real_triton BUNDLE DEPLOYED PYTHON.

PYTHON is that of an environment with nvidia-pytriton, onnxruntime and no t2i-engine. Its Triton has no backend but
Python's. So the front's outputs are fed to the graphs here, and the ensemble runs with a stand-in for onnxruntime's.
"""

import logging
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from t2i_engine import latents
from t2i_engine.backends.base import Array
from t2i_engine.engine import Engine
from t2i_engine.errors import UserError
from t2i_engine.formats import GENERATOR, TEXT_ENCODER
from tests.export.deploy.captions import AWKWARD, made_captions

with socket.create_server(("127.0.0.1", 0)) as free:
    PORT = free.getsockname()[1]
URL = f"127.0.0.1:{PORT}"
CLIENTS = 8
LONG = "a bird " * 600
STAND_IN = Path(__file__).with_name("triton_stand_in.py")


@dataclass(frozen=True)
class Request:
    """What a client asks for."""

    caption: str
    seed: int
    truncation: float


def main(bundle: str, deployed: Path, python: Path) -> None:
    """Runs every check and prints what it found; an assertion fails where something differs."""
    logging.disable()  # of unknown words
    engine = Engine.open(bundle, backend="onnxruntime", threads=1)
    captions = [*AWKWARD, LONG, *made_captions(engine.tokenizer, 300)]
    seeds = np.random.default_rng(0).integers(latents.LARGEST_SEED, size=len(captions), endpoint=True).tolist()
    requests = [Request(*one, (1.0, 0.5, 0.35)[one[1] % 3]) for one in zip(captions, seeds, strict=True)]
    requests += [Request("a bird", 0, truncation) for truncation in (0.0, 2.0)]
    with tempfile.TemporaryDirectory() as folder:
        repository = with_stand_ins(deployed / "models", Path(folder) / "models")
        with served(repository, python) as version:
            print(f"{bundle}: Triton {version} with {numpy_of(python)}")
            check_front(engine, deployed / "models", requests)
            check_ensemble(engine, requests, 1)
            check_ensemble(engine, requests, CLIENTS)
            check_batch(engine, requests)
            check_captions(engine, captions[-200:])
            check_client(deployed)


def check_front(engine: Engine, models: Path, requests: Sequence[Request]) -> None:
    """The front's numbers are the engine's; and the graphs, fed with them, draw the engine's pictures."""
    name = engine.bundle.name
    encoder, generator = (
        onnxruntime.InferenceSession(models / f"{name}_{graph}" / "1" / "model.onnx")
        for graph in (TEXT_ENCODER, GENERATOR)
    )
    answers, refused = ask_all(f"{name}_front", requests), 0
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(answer, str):
            assert answer == error(engine, request), (request, answer)
            refused += 1
            continue
        ids, drawn = engine.tokenizer.encode(request.caption).ids, draw(engine, request)
        tokens, [[length]] = answer["tokens"], answer["lengths"]
        assert tuple(tokens[0, :length]) == ids and not tokens[0, length:].any()  # noqa: PT018
        assert tokens.shape[1] >= 16 and tokens.shape[1].bit_count() == 1  # noqa: PT018
        np.testing.assert_array_equal(answer["noise"], drawn.noise)
        np.testing.assert_array_equal(answer["condition_noise"], drawn.condition_noise)
        [sentence] = encoder.run(["sentence"], {"tokens": tokens, "lengths": answer["lengths"][:, 0]})
        feeds = {"sentence": sentence, "noise": answer["noise"], "condition_noise": answer["condition_noise"]}
        [pixels] = generator.run(["pixels"], feeds)
        np.testing.assert_array_equal(pixels[0], picture(engine, request))
    print(f"front: {len(requests) - refused} requests with the engine's tokens and noise, bit for bit")
    print("graphs, fed with them here: the engine's pixels, bit for bit")
    print(f"front: {refused} requests refused with the engine's words, in batches with others")


def check_ensemble(engine: Engine, requests: Sequence[Request], clients: int) -> None:
    """Pictures are the engine's; in batches, within a level, since sums may be in another order there."""
    before = batches(engine, GENERATOR)
    answers = ask_all(engine.bundle.name, requests, clients)
    batched = batches(engine, GENERATOR) - before
    off = []
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(answer, str):
            assert answer.endswith(str(error(engine, request))), (request, answer)
        else:
            off.append(np.abs(answer["PIXELS"][0].astype(int) - picture(engine, request)))
    differ, most = sum(one.any() for one in off), max(one.max() for one in off)
    print(f"ensemble, {clients} at once: {len(off)} pictures in {batched} batches; {differ} differ, by {most} levels")
    assert most <= (0 if clients == 1 else 1)
    assert batched == len(off) if clients == 1 else batched < len(off)


def check_captions(engine: Engine, captions: Sequence[str]) -> None:
    """Captions of any lengths are encoded in batches, because they are padded; their sentence vectors stay the same."""
    before, found = batches(engine, TEXT_ENCODER), [Future[Array]() for _ in captions]
    with triton.InferenceServerClient(URL) as client:
        for caption, future in zip(captions, found, strict=True):
            ids = engine.tokenizer.encode(caption).ids
            tokens = np.zeros((1, 16 if len(ids) <= 16 else 32), np.int64)
            tokens[0, : len(ids)] = ids

            def receive(result: Any, error: Any, future: Future[Array] = future) -> None:  # noqa: ANN401
                future.set_exception(error) if error else future.set_result(result.as_numpy("sentence"))

            values = {"tokens": ("INT64", tokens), "lengths": ("INT64", np.array([[len(ids)]]))}
            client.async_infer(f"{engine.bundle.name}_{TEXT_ENCODER}", inputs_of(values), receive)
        sentences = np.concatenate([future.result() for future in found])
    np.testing.assert_array_equal(sentences, np.concatenate([engine.encode([caption]) for caption in captions]))
    batched = batches(engine, TEXT_ENCODER) - before
    print(
        f"text encoder: {len(captions)} captions at once in {batched} batches, sentence vectors are equal bit for bit"
    )
    assert batched < len(captions)


def check_batch(engine: Engine, requests: Sequence[Request]) -> None:
    """One request for several pictures gets them all, or the reason why not."""
    good = [request for request in requests if request.truncation <= 1 and error(engine, request) is None][:16]
    answer = ask(engine.bundle.name, good)
    assert not isinstance(answer, str), answer
    expected = np.stack([picture(engine, request) for request in good])
    most = np.abs(answer["PIXELS"].astype(int) - expected).max()
    print(f"ensemble, {len(good)} in one request: they differ by {most} levels")
    assert most <= 1
    bad = Request("xylophone", 0, 1.0)
    assert ask(engine.bundle.name, [good[0], bad]) == f"in ensemble '{engine.bundle.name}', {error(engine, bad)}"


def check_client(deployed: Path) -> None:
    """The README's example draws the bundle's reference."""
    [line] = re.findall(r"^python client.py (.*)$", (deployed / "README.md").read_text("utf-8"), re.MULTILINE)
    command = [sys.executable, "client.py", *shlex.split(line), "--url", URL]
    ran = subprocess.run(command, cwd=deployed, capture_output=True, text=True, check=True)
    print("client.py:", ran.stdout.splitlines()[-1])
    assert re.search(r"by [01] levels", ran.stdout), ran.stdout


def batches(engine: Engine, graph: str) -> int:
    """How many batches a graph has run."""
    with triton.InferenceServerClient(URL) as client:
        [found] = client.get_inference_statistics(f"{engine.bundle.name}_{graph}").model_stats
    return int(found.execution_count)


def ask_all(model: str, requests: Sequence[Request], clients: int = CLIENTS) -> list[dict[str, Array] | str]:
    """The answer to each request, of several clients at once."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda request: ask(model, [request]), requests))


def ask(model: str, requests: Sequence[Request]) -> dict[str, Array] | str:
    """The outputs of one request for a picture or several, or the error's message."""
    values = {
        "CAPTION": ("BYTES", np.array([[request.caption.encode()] for request in requests], object)),
        "SEED": ("UINT32", np.array([[request.seed] for request in requests], np.uint32)),
        "TRUNCATION": ("FP64", np.array([[request.truncation] for request in requests], np.float64)),
    }
    if all(request.truncation == 1 for request in requests):
        del values["TRUNCATION"]  # it is optional
    with triton.InferenceServerClient(URL) as client:
        try:
            result = client.infer(model, inputs_of(values))
        except InferenceServerException as refused:
            return str(refused.message())
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def inputs_of(values: Mapping[str, tuple[str, Array]]) -> list[Any]:
    """Triton's inputs, from a type and an array per name."""
    inputs = [triton.InferInput(name, value.shape, datatype) for name, (datatype, value) in values.items()]
    for tensor, (_, value) in zip(inputs, values.values(), strict=True):
        tensor.set_data_from_numpy(value)
    return inputs


def draw(engine: Engine, request: Request) -> latents.Latents:
    """The engine's noise."""
    sizes = engine.sizes
    return latents.draw([request.seed], sizes.noise_width, sizes.sentence_width, request.truncation)


def picture(engine: Engine, request: Request) -> Array:
    """The engine's picture."""
    return engine.generate(request.caption, request.seed, request.truncation).pixels


def error(engine: Engine, request: Request) -> str | None:
    """Why the engine does not draw, if it does not."""
    try:
        engine.tokenizer.encode(request.caption)
        draw(engine, request)
    except UserError as refused:
        return refused.message
    return None


def with_stand_ins(models: Path, copy: Path) -> Path:
    """A copy of the repository in which the Python backend runs the graphs; nothing else in it is different."""
    shutil.copytree(models, copy)
    for config in copy.glob("*/config.pbtxt"):
        text = config.read_text("utf-8")
        if 'backend: "onnxruntime"' in text:
            config.write_text(text.replace('backend: "onnxruntime"', 'backend: "python"'), "utf-8")
            shutil.copyfile(STAND_IN, config.parent / "1" / "model.py")
    return copy


@contextmanager
def served(models: Path, python: Path) -> Iterator[str]:
    """A server of a repository; its version."""
    found = subprocess.check_output(
        [python, "-c", "import pytriton, sys; print(pytriton.__path__[0], *sys.version_info[:2])"]
    )
    package, major, minor = found.decode().split()
    home = Path(package) / "tritonserver"
    backend = models.parent / "backends" / "python"
    shutil.copytree(home / "backends" / "python", backend)
    shutil.copy(home / "python_backend_stubs" / f"{major}.{minor}" / "triton_python_backend_stub", backend)
    path, libraries = f"{python.parent}:{os.environ['PATH']}", Path(package).with_name("nvidia_pytriton.libs")
    environment = {"PATH": path, "LD_LIBRARY_PATH": str(libraries)}  # without PYTHONPATH
    options = [
        f"--model-repository={models}",
        f"--backend-directory={backend.parent}",
        f"--grpc-port={PORT}",
        "--grpc-address=127.0.0.1",
        "--allow-http=0",
        "--allow-metrics=0",
    ]
    log = models.parent / "log"
    with (
        log.open("wb") as lines,
        subprocess.Popen(
            [home / "bin" / "tritonserver", *options], env=environment, stdout=lines, stderr=lines
        ) as server,
    ):
        try:
            while "Started GRPCInferenceService" not in (text := log.read_text("utf-8")):
                assert server.poll() is None, text
                time.sleep(0.1)
            [version] = re.findall(r"server_version +\| ([\d.]+)", text)
            yield version
        finally:
            server.terminate()


def numpy_of(python: Path) -> str:
    """What the front finds."""
    script = "import numpy, sys; print('Python', sys.version.split()[0], 'and NumPy', numpy.__version__)"
    return subprocess.check_output([python, "-c", script], text=True).strip()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
