"""Checkpoint to bundle: build every format, prove each equal to PyTorch, and only then write."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from export.built import BuiltFile
from export.parity import gate_cases
from export.reference import make_reference
from t2i_engine.bundle import VOCABULARY, Bundle, Manifest, Parity, check_target, is_name, write_bundle
from t2i_engine.choice import backend_names, backend_status
from t2i_engine.errors import BackendError, MissingExtra, OptionError, quoted
from t2i_engine.formats import FORMATS, Format, load
from t2i_engine.parity import OpenFormat, ParityError, as_parity, as_table, compare
from t2i_engine.reference import REFERENCE
from t2i_engine.table import size
from t2i_engine.tokenizer import Tokenizer, split
from training.checkpoint import CheckpointError, TrainedModel, load_model
from training.models.text_to_image import TextToImage

TOOLS = ("t2i-engine", "torch", "onnx", "onnxscript", "safetensors")

Report = Callable[[str], None]
Builder = Callable[[TextToImage, Format], Iterator[BuiltFile]]


def export_bundle(checkpoint: Path, folder: Path, name: str, report: Report) -> Path:
    """Writes the checkpoint's model to `folder` as a bundle called `name`, in every format, and returns the folder.

    `report` gets a line per step. Raises `ParityError` where a format misses its tolerance, and a `UserError` where the
    checkpoint, the folder or this machine cannot be used; `folder` is then as it was.
    """
    if not is_name(name):
        raise OptionError(
            f"a bundle cannot be called {quoted(name)}: letters, digits and '._-' expected; give a --name"
        )
    builders, versions, runtimes = _builders(), _versions(), _runtimes()
    check_target(folder)
    trained = load_model(checkpoint)
    tokenizer = _tokenizer(trained, checkpoint)
    built = list(_reported(_build(trained, tokenizer, builders), report))
    provenance = trained.provenance | {"export": {"versions": versions, "proved_with": runtimes}}
    records = {file.name: file.record for file in built}
    manifest = Manifest(name, trained.model.sizes, records, reference=REFERENCE, provenance=provenance)
    files = {file.name: file.content for file in built}
    with tempfile.TemporaryDirectory(prefix="t2i-engine-") as staging:
        # The gate runs what the user's engine will run: files of a bundle, opened through their backends.
        staged = Bundle.open(write_bundle(Path(staging) / "bundle", manifest, files))
        parity = _prove(trained, staged, report)
    return write_bundle(folder, replace(manifest, parity=parity), files)


def _build(trained: TrainedModel, tokenizer: Tokenizer, builders: Iterable[Builder]) -> Iterator[BuiltFile]:
    yield BuiltFile(VOCABULARY, tokenizer.to_json())
    for row, builder in zip(FORMATS, builders, strict=True):
        yield from builder(trained.model, row)
    yield BuiltFile(REFERENCE, make_reference(trained.model, tokenizer).to_npz())


def _prove(trained: TrainedModel, staged: Bundle, report: Report) -> dict[str, Parity]:
    """The gate: the worst differences by format. Raises `ParityError` for the first output that is off by too much."""
    report("comparing with PyTorch")
    started = time.perf_counter()
    opened = [OpenFormat.open(staged, row) for row in staged.formats]
    worst = compare(opened, gate_cases(trained.model), "PyTorch")
    for line in as_table(worst):
        report(line)
    report(f"compared in {time.perf_counter() - started:.1f} s")
    for found in worst:
        if not found.ok:
            raise ParityError(f"no bundle is written: {found}")
    return {row.name: as_parity(worst, row) for row in staged.formats}


def _reported(files: Iterable[BuiltFile], report: Report) -> Iterator[BuiltFile]:
    """The files as they are built, each with its size and time."""
    started = time.perf_counter()
    for file in files:
        seconds = time.perf_counter() - started
        report(f"{file.name:<20}  {size(len(file.content)):>8}  {seconds:5.1f} s")
        yield file
        started = time.perf_counter()


def _tokenizer(trained: TrainedModel, checkpoint: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer(trained.words)
    except ValueError as error:
        raise CheckpointError(f"checkpoint '{checkpoint}' has no vocabulary ({error}); train again") from None
    if len(tokenizer.words) != trained.model.sizes.vocabulary_size:
        raise CheckpointError(
            f"checkpoint '{checkpoint}' has {len(tokenizer.words)} words, its model "
            f"{trained.model.sizes.vocabulary_size}: they belong to different models; take another"
        )
    if not any(split(word) == [word] for word in tokenizer.words):
        raise CheckpointError(f"checkpoint '{checkpoint}' knows no word that a caption can have; train again")
    return tokenizer


def _builders() -> list[Builder]:
    """A builder per format. Raises `MissingExtra` where a package that one needs is not there."""
    try:
        return [load(row.builder) for row in FORMATS]
    except ModuleNotFoundError as error:
        raise MissingExtra("t2i-engine export", f"the package {error.name}", "export") from None


def _versions() -> dict[str, str]:
    """What takes part in the export. Raises `MissingExtra` where a package is not installed."""
    try:
        return {tool: version(tool) for tool in TOOLS}
    except PackageNotFoundError as error:
        raise MissingExtra("t2i-engine export", f"the package {error.name}", "export") from None


def _runtimes() -> list[str]:
    """What proves the formats here, with versions. Raises `BackendError` where a backend cannot run."""
    statuses = [backend_status(name) for name in backend_names()]
    for status in statuses:
        if status.lacks:
            raise BackendError(f"every format is proved before it is written: {status.lacks}")
    return [status.version for status in statuses if status.version]
