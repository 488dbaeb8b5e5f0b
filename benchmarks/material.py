"""What is measured with: captions, PyTorch's pictures of them, and the bundles that no user has.

Those are the graph as trained, what `torch.onnx.export` makes of the generator by itself, and the paper's network at
other sides. They are not proved when they are made; every row's differences from PyTorch are in the report.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.rows import BUNDLE, PLAIN, Row
from t2i_engine.backends.pytorch import reference_runners
from t2i_engine.bundle import VOCABULARY, Bundle, Manifest, graphs_of, write_bundle
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Form, find
from t2i_engine.parity import Case, picture_case, sentence_case
from t2i_engine.tokenizer import Tokenizer, pad, split

if TYPE_CHECKING:
    from export.artifact import Artifact
    from training.models.text_to_image import TextToImage

WORDS = 12  # of each caption
PICTURES = 8  # compared with PyTorch
PAPER = "paper"


@dataclass(frozen=True)
class Material:
    """The captions of the largest request, and where everything lies."""

    captions: tuple[str, ...]
    folders: dict[str, Path]
    """Of the user's bundle and its unfolded and plain exports."""
    papers: dict[str, Path]
    """Of the paper's networks at other sides."""
    scratch: Path

    def folder(self, network: str, row: Row) -> Path:
        """The bundle that has a row's files."""
        return self.papers.get(network) or self.folders[row.material]

    def reference(self, network: str) -> Path:
        """PyTorch's pictures of a network."""
        paper = self.papers.get(network)
        return _reference_beside(paper) if paper else self.scratch / "reference.npz"


def make_captions(tokenizer: Tokenizer, count: int) -> tuple[str, ...]:
    """Captions of `WORDS` words that the model knows, the same ones every time."""
    known = [word for word in tokenizer.words if split(word) == [word]]
    random = np.random.default_rng(0)
    return tuple(" ".join(random.choice(known, WORDS)) for _ in range(count))


def prepare(bundle: Bundle, materials: Sequence[str], sides: Sequence[int], batch: int, scratch: Path) -> Material:
    """Makes what is needed in `scratch`: of the unfolded and plain exports those that `materials` names."""
    from training.models.text_to_image import read_model

    model, tokenizer = read_model(bundle), bundle.tokenizer()
    material = Material(make_captions(tokenizer, batch), {BUNDLE: bundle.folder.absolute()}, {}, scratch)
    _write_reference(material.reference(bundle.name), model, tokenizer)
    for name in materials:
        folder = scratch / name
        material.folders[name] = write_bundle_of(folder, model, tokenizer, Form.TRAINED, plain=name == PLAIN)
    for side in sides:
        material.papers[paper_name(side)] = write_paper(scratch / f"{PAPER}-{side}", tokenizer, side)
    return material


def paper_name(side: int) -> str:
    """What the paper's network at another side is called; no bundle can be called so."""
    return f"{PAPER} R={side}"


def write_paper(folder: Path, tokenizer: Tokenizer, side: int) -> Path:
    """The paper's network for pictures of another side, with random weights, as ONNX and for PyTorch."""
    from benchmarks.paper import make_paper_model

    model = make_paper_model(len(tokenizer.words), side)
    _write_reference(_reference_beside(folder), model, tokenizer)
    return write_bundle_of(folder, model, tokenizer, Form.PHASES)


def write_bundle_of(folder: Path, model: "TextToImage", tokenizer: Tokenizer, form: Form, plain: bool = False) -> Path:
    """A bundle of a model, with its generator in one form, or as a plain export, and its weights; nothing is proved."""
    from export import onnx_graphs
    from export.artifact import Artifact, build_weights

    generator = _plain_generator(model) if plain else onnx_graphs.build_generator(model, form)
    files = [onnx_graphs.build_text_encoder(model), generator]
    files += [*build_weights(model, find("pytorch")), Artifact(VOCABULARY, tokenizer.to_json())]
    manifest = Manifest(folder.name, model.sizes, {file.name: file.entry for file in files})
    return write_bundle(folder, manifest, {file.name: file.content for file in files})


def read_cases(reference: Path, batch: int) -> Iterator[Case]:
    """PyTorch's pictures, `batch` at once: the text encoder's inputs and outputs, then the generator's."""
    with np.load(reference, allow_pickle=False) as file:
        arrays = dict(file.items())
    feeds = {
        TEXT_ENCODER: ("tokens", "lengths"),
        GENERATOR: tuple(name for name in ("noise", "sentence", "condition_noise") if name in arrays),
    }
    outputs = {TEXT_ENCODER: ("sentence",), GENERATOR: ("image", "pixels")}
    for graph, inputs in feeds.items():
        for first in range(0, PICTURES, batch):
            part = {name: array[first : first + batch] for name, array in arrays.items()}
            if len(part["noise"]) == min(
                batch, PICTURES
            ):  # a shape of its own would be compiled, or built, for nothing
                given, expected = ({name: part[name] for name in names} for names in (inputs, outputs[graph]))
                yield Case(graph, f"pictures from {first}", given, expected)


def _write_reference(file: Path, model: "TextToImage", tokenizer: Tokenizer) -> None:
    """Draws `PICTURES` pictures in PyTorch, in fp32."""
    captions = make_captions(tokenizer, PICTURES)
    tokens, lengths = pad([tokenizer.encode(caption).ids for caption in captions])
    pytorch = reference_runners(model)
    text = sentence_case(pytorch, tokens, lengths)
    drawn = picture_case(pytorch, model.sizes, text.expected["sentence"], range(PICTURES))
    arrays: dict[str, Any] = {**text.feeds, **drawn.feeds, **drawn.expected}
    np.savez(file, **arrays)


def _reference_beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.npz")


def _plain_generator(model: "TextToImage") -> "Artifact":
    """What `torch.onnx.export` makes of the generator as trained, with names for its inputs and a free B."""
    import torch
    from torch.export import Dim

    from export.artifact import Artifact
    from export.onnx_graphs import example

    row, inputs = find("onnx"), graphs_of(model.sizes)[GENERATOR].inputs
    gaussian = ["mean", "log_variance"] if model.sizes.conditioning_augmentation else []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"# The axis name: \w+ will not be used")
        program = torch.onnx.export(
            model.generator,
            tuple(example(tensor) for tensor in inputs),
            dynamo=True,
            dynamic_shapes=[{0: Dim("B")} for _ in inputs],
            input_names=[tensor.name for tensor in inputs],
            output_names=["image", *gaussian],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return Artifact(row.files[GENERATOR], program.model_proto.SerializeToString(), row, GENERATOR)
