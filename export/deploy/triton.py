"""A bundle as a model repository for NVIDIA Triton (docs/deploying.md, "NVIDIA Triton").

An ensemble of three models: a front in Python, which carries this project's tokenizer and noise, the text encoder, and
the generator.
"""

import json
import shlex
import struct
from collections.abc import Callable
from pathlib import Path
from string import Template

import t2i_engine
from export.deploy.folder import check_folder, write_folder
from export.deploy.triton_config import (
    BACKENDS,
    FRONT,
    PROFILE,
    SHORTEST,
    WARM_CAPTION,
    WARM_LENGTH,
    configs,
    drawn,
    text_format,
)
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BundleError
from t2i_engine.formats import TEXT_ENCODER, Format
from t2i_engine.manifest import MANIFEST, Graph
from t2i_engine.pictures import Picture
from t2i_engine.reference import read_reference

RELEASE = "26.06"
"""The release of NVIDIA's Triton and TensorRT images, which must be the same."""
FILES = Path(__file__).parent / "triton_repository"
CARRIED = ("errors.py", "latents.py", "tokenizer.py")
"""The modules of t2i_engine that the front needs; they need only NumPy."""

Files = dict[str, bytes | Path]


def deploy_triton(name_or_folder: str | Path, folder: Path, backend: str, progress: Callable[[str], None]) -> Path:
    """Writes the model repository of a bundle, a client and a README to a new or empty folder, and returns it.

    `backend` is one of `BACKENDS`. Raises a `UserError` if the bundle has no format that it runs or no reference, or if
    the folder cannot be written.
    """
    bundle = Bundle.open(name_or_folder)
    check_folder(folder)
    row = _format(bundle, backend, shlex.quote(str(name_or_folder)))
    reference = read_reference(bundle)
    caption, seed = str(reference.captions[-1]), int(reference.seeds[-1])
    files: Files = {
        "README.md": _readme(bundle, backend, row, caption, seed).encode(),
        "client.py": (FILES / "client.py").read_text("utf-8").replace("BUNDLE", bundle.name).encode(),
        "reference.png": Picture(reference.pixels[-1], caption, seed, bundle.name).to_png(),
    }
    for name, file in _repository(bundle, backend, row, caption).items():
        files[f"models/{name}"] = file
    progress(f"Triton's backend {backend} will run the format {row.name}")
    return write_folder(folder, files)


def _format(bundle: Bundle, backend: str, shown: str) -> Format:
    """The format that the backend will run."""
    runs = BACKENDS[backend].formats
    found = [row for row in bundle.formats if row.name in runs]
    if not found:
        raise BundleError(
            f"bundle {bundle.name!r} has no format {' or '.join(runs)}, which Triton's backend {backend} runs: "
            f"t2i-engine export {shown} --formats {runs[0]}"
        )
    return found[0]


def _repository(bundle: Bundle, backend: str, row: Format, caption: str) -> Files:
    """The files of each model. The ensemble's only version holds the manifest: Triton needs the folder, but no file."""
    front, encoder = f"{bundle.name}_{FRONT}", f"{bundle.name}_{TEXT_ENCODER}"
    encoded = caption.encode()
    files: Files = {
        f"{bundle.name}/1/{MANIFEST}": bundle.folder / MANIFEST,
        f"{front}/warmup/{WARM_CAPTION}": struct.pack("<I", len(encoded)) + encoded,
        f"{encoder}/warmup/{WARM_LENGTH}": struct.pack("<q", SHORTEST),
    }
    for name, message in configs(bundle, backend).items():
        files[f"{name}/config.pbtxt"] = text_format(message).encode() + b"\n"
    for name, file in _front(bundle, backend).items():
        files[f"{front}/1/{name}"] = file
    for graph, source in row.files.items():
        files[f"{bundle.name}_{graph}/1/model.onnx"] = bundle.path(source)
    return files


def _front(bundle: Bundle, backend: str) -> Files:
    """What the front runs and reads."""
    words, package = bundle.manifest.tokenizer, Path(t2i_engine.__file__).parent
    settings = {
        "outputs": [tensor.name for tensor in drawn(bundle)],
        "noise_width": bundle.sizes.noise_width,
        "sentence_width": bundle.sizes.sentence_width,
        "shortest": BACKENDS[backend].shortest,
        "longest": BACKENDS[backend].longest,
        "examples": bundle.sample_captions,
    }
    files: Files = {
        "model.py": FILES / "model.py",
        "front.json": json.dumps(settings, indent=2).encode() + b"\n",
        "vocabulary.json": bundle.path(words.vocabulary),
        "t2i_engine/__init__.py": f'"""What the front needs of t2i-engine {t2i_engine.__version__}."""\n'.encode(),
    }
    if words.near_words:
        files["near_words.json"] = bundle.path(words.near_words)
    return files | {f"t2i_engine/{name}": package / name for name in CARRIED}


def _readme(bundle: Bundle, backend: str, row: Format, caption: str, seed: int) -> str:
    sections = {"build": "", "note": "", "gpus": "--gpus=all "}
    if backend == "tensorrt":
        commands = "\n".join(_trtexec(bundle, name, graph) for name, graph in bundle.graphs.items())
        sections["build"] = _BUILD.format(commands=commands)
    elif backend == "openvino":
        sections |= {"gpus": "", "note": _OPENVINO}
    else:
        sections["note"] = _ONNXRUNTIME
    exact, largest = row.tolerance.pixels, BACKENDS[backend].largest_batch
    return Template((FILES / "README.md").read_text("utf-8")).substitute(
        sections,
        name=bundle.name,
        side=bundle.sizes.resolution,
        format=row.name,
        backend=backend,
        batch="1" if largest == 1 else f"1 to {largest}",
        license=f"\nThe model's licence: {bundle.license}\n" if bundle.license else "",
        release=RELEASE,
        version=t2i_engine.__version__,
        caption=shlex.quote(caption),
        seed=seed,
        tolerance=f"at most {exact} level" if exact else "more than the one level of fp32",
    )


_BUILD = """
## Build

TensorRT's engines are built on the machine that runs them, once, with TensorRT of the same release:

```bash
{commands}
```
"""
_ONNXRUNTIME = "\nWithout a GPU, leave out `--gpus=all`.\n"
_OPENVINO = """
This backend runs on the CPU and draws one picture at a time. On a processor with bf16 instructions, OpenVINO uses them
by default, and the backend has no option to prevent that: pictures are those of `openvino-bf16` there.
"""


def _trtexec(bundle: Bundle, name: str, graph: Graph) -> str:
    """The command that builds a graph's engine for the sizes that this project's own engines have."""
    shapes = {tensor.name: ["x".join(map(str, shape)) for shape in PROFILE.shapes(tensor)] for tensor in graph.inputs}
    ranges = [
        f"--{bound}Shapes=" + ",".join(f"{name}:{shape[index]}" for name, shape in shapes.items())
        for index, bound in enumerate(("min", "opt", "max"))
    ]
    model = f"/models/{bundle.name}_{name}/1/model"
    lines = [
        f'docker run --rm --gpus=all -v "$PWD/models:/models" nvcr.io/nvidia/tensorrt:{RELEASE}-py3',
        f"trtexec --onnx={model}.onnx --saveEngine={model}.plan --stronglyTyped --noTF32 --skipInference",
        *ranges,
    ]
    return " \\\n    ".join(lines)
