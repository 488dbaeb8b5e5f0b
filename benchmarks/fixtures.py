"""What the benchmark measures with: captions, PyTorch's pictures of them, and bundles that are not for users.

These bundles are the graphs exported without the fold, and `paper`, the network of the paper's size with seeded random
weights, at any resolution. Its pictures mean nothing, but have the contrast of real ones (a standard deviation near
0.6), so that formats differ on them as much. Fixtures pass no gate: the report gives every target's differences.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.targets import ALL, BUNDLE, PAPER, UNFOLDED, Target, find_target, paper_name
from t2i_engine.backends.pytorch import exact_runners
from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.errors import BundleError
from t2i_engine.files import cache_folder, sha256
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Form, find
from t2i_engine.manifest import VOCABULARY, Manifest, ModelSizes
from t2i_engine.parity import Case, GateSize, picture_case, sentence_case
from t2i_engine.reference import REFERENCE, make_reference
from t2i_engine.tokenizer import Tokenizer, pad, split

if TYPE_CHECKING:
    from export.artifact import Artifact
    from training.models.text_to_image import TextToImage

WORDS = 12  # per caption
PICTURES = 8  # compared with PyTorch
PAPER_RESOLUTION = 256
RANDOM = "random"  # what the provenance of `paper` says about its weights
SEED = 0
DESCRIBED = 200  # birds of synthbirds whose captions give `paper` its vocabulary

# Relative to what preserves variance through a leaky ReLU: a residual adds half, a condition moves scales and shifts by
# a fifth, and the last layer sets the contrast.
_GAINS = {"c2": 0.5, "linear2": 0.2, "to_rgb.1": 0.085}
_GATE = GateSize(rounds=1, longest=8, batches=(1, 2), pairs=64, emulated=4)  # of `paper`: only checks the export


@dataclass(frozen=True)
class Fixtures:
    """The captions of the largest request, and where everything is."""

    captions: tuple[str, ...]
    folders: dict[tuple[str, str], Path]
    """Bundles by network and fixture."""
    scratch: Path

    def folder(self, network: str, target: Target) -> Path:
        """The bundle with a target's files."""
        return self.folders[network, target.fixture]

    def expected(self, network: str) -> Path:
        """PyTorch's pictures of a network."""
        return self.scratch / f"{network}.npz"


def prepare(bundle: Bundle, fixtures: Iterable[str], resolutions: Iterable[int], batch: int, scratch: Path) -> Fixtures:
    """Makes what is needed in `scratch`: captions for a batch, the named `fixtures`, and `paper` at `resolutions`."""
    from training.models.text_to_image import read_model

    model, tokenizer, name = read_model(bundle), bundle.tokenizer(), bundle.name
    made = Fixtures(make_captions(tokenizer, batch), {(name, BUNDLE): bundle.folder.absolute()}, scratch)
    _write_expected(made.expected(name), model, tokenizer)
    if UNFOLDED in fixtures:
        made.folders[name, UNFOLDED] = _write_onnx(scratch / UNFOLDED, model, tokenizer, Form.TRAINED)
    for resolution in resolutions:
        name, model = paper_name(resolution), make_paper_model(len(tokenizer.words), resolution)
        _write_expected(made.expected(name), model, tokenizer)
        made.folders[name, BUNDLE] = _write_onnx(scratch / f"{PAPER}-{resolution}", model, tokenizer, Form.PHASES)
    return made


def make_captions(tokenizer: Tokenizer, count: int) -> tuple[str, ...]:
    """Captions of `WORDS` words that the model knows, always the same."""
    known = [word for word in tokenizer.words if split(word) == [word]]
    random = np.random.default_rng(0)
    return tuple(" ".join(random.choice(known, WORDS)) for _ in range(count))


def read_cases(expected: Path, batch: int) -> Iterator[Case]:
    """PyTorch's pictures, `batch` at a time: the text encoder's inputs and outputs, then the generator's."""
    with np.load(expected, allow_pickle=False) as file:
        arrays = dict(file)
    feeds = {TEXT_ENCODER: {"tokens", "lengths"}, GENERATOR: {"noise", "sentence", "condition_noise"} & arrays.keys()}
    outputs = {TEXT_ENCODER: {"sentence"}, GENERATOR: {"image", "pixels"}}
    size = min(batch, PICTURES)
    for graph in feeds:
        for first in range(
            0, PICTURES - size + 1, size
        ):  # formats are not compiled, or built, for a smaller last batch
            part = {name: array[first : first + size] for name, array in arrays.items()}
            given, wanted = ({name: part[name] for name in names[graph]} for names in (feeds, outputs))
            yield Case(graph, f"pictures from {first}", given, wanted)


def open_paper(formats: str, on_progress: Callable[[str], None]) -> Bundle:
    """The bundle `paper` from the cache, with the named formats or `all` that this machine can make.

    It is made first if it is missing, or was made by another version of the exporter. Raises `OptionError` for an
    unknown name.
    """
    from export.pipeline import export_bundle

    wanted = {ALL if name == ALL else find_target(name).format.name for name in map(str.strip, formats.split(","))}
    folder, exporter = cache_folder() / "benchmark" / PAPER, _exporter_version()
    try:
        found = Bundle.open(folder).manifest.provenance.get("exporter")
    except BundleError:
        found = None
    if found != exporter:
        on_progress(f"creating {PAPER!r} in {folder}")
        _write_paper(folder, exporter)
    export_bundle(folder, None, None, on_progress, ",".join(wanted), gate_size=_GATE)
    return Bundle.open(folder)


def paper_sizes(words: int, resolution: int = PAPER_RESOLUTION) -> ModelSizes:
    """R = 256 by default, nf = 32, Z = 100, S = 256, with both contributions to the generator."""
    return ModelSizes(resolution, 32, 100, 256, 300, words, conditioning_augmentation=True, adaptive_block=True)


def paper_words() -> tuple[str, ...]:
    """The words of synthbirds, so that its captions can be drawn."""
    from training.data.corpus import build_vocabulary
    from training.data.synthbirds import SynthBirds

    birds = SynthBirds("train", DESCRIBED, 32)
    return build_vocabulary(caption for number in range(DESCRIBED) for caption in birds.captions(number))


def make_paper_model(words: int, resolution: int = PAPER_RESOLUTION) -> "TextToImage":
    """The model with a vocabulary of that many words, in evaluation mode, always with the same weights."""
    import torch
    from torch import nn

    from training.models.text_to_image import TextToImage

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = TextToImage(paper_sizes(words, resolution))
        torch.manual_seed(SEED)  # again: draws so far depend on the vocabulary's size, which grows with synthbirds
        for name, module in model.generator.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                module.weight.data *= next((gain for end, gain in _GAINS.items() if name.endswith(end)), 1.0)
    return model.eval()


def _write_paper(folder: Path, version: str) -> None:
    """The weights alone; formats are added to them."""
    from export.artifact import Artifact

    tokenizer = Tokenizer(paper_words())
    model = make_paper_model(len(tokenizer.words))
    reference = Artifact(REFERENCE, make_reference(exact_runners(model), model.sizes, tokenizer).to_npz())
    provenance = {"dataset": "synthbirds", "weights": RANDOM, "exporter": version}
    _write(folder, model, tokenizer, [reference], reference=REFERENCE, provenance=provenance)


def _write_onnx(folder: Path, model: "TextToImage", tokenizer: Tokenizer, form: Form) -> Path:
    from export import onnx_graphs

    files = [onnx_graphs.build_text_encoder(model), onnx_graphs.build_generator(model, form)]
    return _write(folder, model, tokenizer, files)


def _write(folder: Path, model: "TextToImage", tokenizer: Tokenizer, files: list["Artifact"], **manifest: Any) -> Path:  # noqa: ANN401
    """A bundle of these files, the vocabulary and the weights, without any parity figures."""
    from export.artifact import Artifact, build_weights

    files = [*files, *build_weights(model, find("pytorch")), Artifact(VOCABULARY, tokenizer.to_json())]
    listing = Manifest(folder.name, model.sizes, {file.name: file.entry for file in files}, **manifest)
    return write_bundle(folder, listing, {file.name: file.content for file in files})


def _exporter_version() -> str:
    """The SHA-256 of the code that makes `paper`, and of the versions of what it calls."""
    root = Path(__file__).parents[1]
    files = sorted(file for name in ("export", "training/models") for file in (root / name).glob("*.py"))
    tools = "".join(version(tool) for tool in ("torch", "onnx", "onnxscript"))
    return sha256(b"".join(file.read_bytes() for file in (*files, Path(__file__))) + tools.encode())


def _write_expected(file: Path, model: "TextToImage", tokenizer: Tokenizer) -> None:
    """Draws `PICTURES` pictures in PyTorch, in fp32."""
    captions = make_captions(tokenizer, PICTURES)
    tokens, lengths = pad([tokenizer.encode(caption).ids for caption in captions])
    pytorch = exact_runners(model)
    text = sentence_case(pytorch, tokens, lengths)
    drawn = picture_case(pytorch, model.sizes, text.expected["sentence"], range(PICTURES))
    arrays: dict[str, Any] = {**text.feeds, **drawn.feeds, **drawn.expected}
    np.savez(file, **arrays)
