"""Checkpoint to bundle, or further formats for a bundle: read, build graphs in each precision, verify, then write."""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from export.artifact import Artifact
from export.bundle_builder import BundleBuilder
from export.gate import GateResult, picture_reference, run_gate
from export.half_weights import round_to_half
from export.near_words import near_words_file
from t2i_engine.backend_selection import backend_status, row_lacks
from t2i_engine.backends.pytorch import exact_runners
from t2i_engine.bundle import Bundle, check_target
from t2i_engine.errors import BackendError, OptionError, ParityError, needs_extra, quoted
from t2i_engine.formats import Form, Format, all_formats, find, load
from t2i_engine.manifest import NEAR_WORDS, VOCABULARY, Manifest, TokenizerSpec, is_name
from t2i_engine.parity import GATE, GateSize, verification_device
from t2i_engine.picture_reference import PICTURES
from t2i_engine.provenance import data_terms
from t2i_engine.reference import REFERENCE, make_reference
from t2i_engine.table import size
from t2i_engine.tokenizer import Tokenizer, split
from training.checkpoint import CheckpointError, TrainedModel
from training.models.text_to_image import TextToImage, read_model
from training.state import is_trained, load_trained

ALL = "all"
DEFAULT = "onnx"
WEIGHTS = "pytorch"  # in every bundle: the others are verified against it, and further formats made from it
TOOLS = ("t2i-engine", "torch", "onnx", "onnxscript", "safetensors")


@dataclass(frozen=True)
class LoadedModel:
    """A model and what its bundle will say about it."""

    model: TextToImage
    """In evaluation mode, float32, on the CPU."""
    tokenizer: Tokenizer
    provenance: Mapping[str, object]
    bundle: Bundle | None = None
    """The bundle it was read from."""

    @property
    def license(self) -> str | None:
        """The bundle's licence, or the terms of the data that the model has learned from."""
        return (self.bundle.license if self.bundle else None) or data_terms(self.provenance)


@dataclass(frozen=True)
class Exported:
    """A bundle that was written."""

    folder: Path
    rejected: Mapping[str, str]
    """The requested formats that were outside their tolerance, and by how much."""


def export_bundle(
    origin: str | Path,
    folder: Path | None,
    name: str | None,
    on_progress: Callable[[str], None],
    formats: str = DEFAULT,
    folded: bool = True,
    gate_size: GateSize = GATE,
    half_weights: bool = False,
) -> Exported:
    """Makes a bundle from a checkpoint or a bundle's weights; without a folder, adds formats to that bundle.

    `on_progress` gets a line per step. With `half_weights`, a new bundle's weights are rounded to half precision first,
    and take half the space.

    Formats outside their tolerance are rejected: the manifest says so, the others are written. If the weights are off,
    or a new bundle would hold nothing else, it raises `ParityError` and writes nothing. Raises a `UserError` if the
    origin, the folder or this machine cannot be used.
    """
    if folder is not None:
        _check_destination(folder, name)
    selection = select_formats(formats)
    with needs_extra("t2i-engine export", "export"):
        builders = {row.builder: load(row.builder) for row in map(builder_row, selection.rows)}
        versions = {tool: version(tool) for tool in TOOLS}

    loaded = _load_origin(str(origin))
    if half_weights:
        if folder is None:
            raise OptionError("--half-weights would change the bundle's other formats: make a new one with --out")
        on_progress("rounding the weights to half precision")
        round_to_half(loaded.model, gate_size)
    bundle = _start_bundle(loaded, folder, name)
    for unavailable, lacks in selection.unavailable.items():
        on_progress(f"skipping {unavailable}: {lacks}")
    unfolded = "--no-fold would change nothing; make a new one with --out"
    rows = [row for row in selection.rows if row not in bundle.formats]
    if not rows:
        if not folded:
            raise OptionError(f"the bundle has these formats, so {unfolded}")
        if loaded.bundle and bundle.manifest.name != loaded.bundle.name:
            raise OptionError("the bundle has these formats, so --name would change nothing; rename a copy with --out")
        on_progress(f"nothing to do: {bundle.target} already has these formats")
        return Exported(bundle.target, {})

    to_build = [builder_row(row) for row in rows if not bundle.has(row)]
    if not folded:
        if len(to_build) < len(rows):
            raise OptionError(f"the bundle has this format's files, so {unfolded}")
        rows, to_build = ([replace(row, form=Form.TRAINED) for row in table] for table in (rows, to_build))
    for row in to_build:
        if not bundle.has(row):  # formats share files
            _add(bundle, row, builders[row.builder](loaded.model, row), on_progress)

    with tempfile.TemporaryDirectory(prefix="t2i-engine-") as staging:
        # Files of a bundle, opened through their backends: what the gate runs is what the user's engine will run.
        staged = bundle.stage(Path(staging) / "bundle")
        tested = [row for row in rows if row.name not in selection.unverified]
        pictures = None
        if any(row.judged_by_pictures for row in rows):
            pictures = picture_reference(loaded.model, staged, on_progress, gate_size)
            if PICTURES not in bundle.files:
                bundle.add(Artifact(PICTURES, pictures.to_npz()))
        gate = run_gate(loaded.model, staged, tested, on_progress, gate_size, pictures)

    _require_success(bundle, rows, gate)
    return Exported(bundle.write(rows, selection.unverified, gate, versions), gate.rejected)


@dataclass(frozen=True)
class FormatSelection:
    """The formats to make, in the table's order."""

    rows: tuple[Format, ...]
    unverified: Mapping[str, str]
    """Those of `rows` that are built here but cannot run here, and what is lacking."""
    unavailable: Mapping[str, str]
    """Those that `all` skips, and what is lacking."""


def select_formats(formats: str) -> FormatSelection:
    """Parses comma-separated names, or `all`; the weights are always included.

    Raises `OptionError`, with a suggestion, for an unknown name, and `BackendError` if a named format cannot be made
    here.
    """
    names = [name.strip() for name in formats.split(",")]
    named = {find(name).name for name in names if name != ALL} | {WEIGHTS}
    rows, unverified, unavailable = [], {}, {}
    for row in all_formats():
        if row.name not in named and ALL not in names:
            continue
        lacks = row_lacks(row, verification_device(row))
        if lacks is None:
            rows.append(row)
        elif row.built_ahead and (row.name in named or backend_status(row.backend).lacks is None):
            rows.append(row)
            unverified[row.name] = lacks
        elif row.name in named:
            raise BackendError(f"format {row.name!r} cannot be built and verified here: {lacks}")
        else:
            unavailable[row.name] = lacks
    return FormatSelection(tuple(rows), unverified, unavailable)


def builder_row(row: Format) -> Format:
    """The row whose builder makes a format's files: the format's own, or the one that it shares them with.

    Raises `OptionError` if there is none.
    """
    for other in (row, *all_formats()):
        if other.builder and row.all_files <= other.all_files:
            return other
    raise OptionError(f"format {row.name!r} names no builder, and no other format has its files; add one to its row")


def _add(bundle: BundleBuilder, row: Format, artifacts: Iterable[Artifact], on_progress: Callable[[str], None]) -> None:
    """Adds the artifacts that the bundle lacks until it has the format, reporting the size and time of each.

    Raises `OptionError` if the bundle has another version of a file that an artifact belongs to.
    """
    started = time.perf_counter()
    for artifact in artifacts:
        if row.extra_files and artifact.entry.sha256 != bundle.manifest.files.get(artifact.name, artifact.entry).sha256:
            raise OptionError(
                f"the bundle's {artifact.name} is not the one that this format's engines are built from: it is of an "
                "earlier version, or was exported with --no-fold; make a new bundle with --out"
            )
        if artifact.name not in bundle.files:
            seconds = time.perf_counter() - started
            on_progress(f"{artifact.name:<42}  {size(len(artifact.content)):>8}  {seconds:5.1f} s")
            bundle.add(artifact)
        if bundle.has(row):
            break
        started = time.perf_counter()


def _require_success(bundle: BundleBuilder, rows: Sequence[Format], gate: GateResult) -> None:
    """Raises `ParityError` if the weights themselves are off, or a new bundle would hold nothing else."""
    others = {row.name for row in rows} - {WEIGHTS}
    if WEIGHTS in gate.rejected or (others and not bundle.adding and others <= gate.rejected.keys()):
        raise ParityError(f"nothing was written: {next(iter(gate.rejected.values()))}")


def _load_origin(origin: str) -> LoadedModel:
    """Reads a checkpoint, a state (by file, or by a name with the suffix of one) or a bundle, by name or folder.

    Raises a `UserError` if it cannot be read.
    """
    if is_trained(origin) or Path(origin).is_file():
        trained = load_trained(Path(origin))
        return LoadedModel(trained.model, _tokenizer(trained, origin), trained.provenance)
    bundle = Bundle.open(origin)
    return LoadedModel(read_model(bundle), bundle.tokenizer(exact_words=True), bundle.manifest.provenance, bundle)


def _tokenizer(trained: TrainedModel, checkpoint: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer(trained.words)
    except ValueError as error:
        raise CheckpointError(f"checkpoint '{checkpoint}' has no valid vocabulary ({error}); train again") from None
    if len(tokenizer.words) != trained.model.sizes.vocabulary_size:
        raise CheckpointError(
            f"checkpoint '{checkpoint}' has {len(tokenizer.words)} words, its model "
            f"{trained.model.sizes.vocabulary_size}: they do not belong together; use another checkpoint"
        )
    if not any(split(word) == [word] for word in tokenizer.words):
        raise CheckpointError(f"checkpoint '{checkpoint}' knows no word that a caption can contain; train again")
    return tokenizer


def _start_bundle(loaded: LoadedModel, folder: Path | None, name: str | None) -> BundleBuilder:
    """A new bundle in `folder`; without one, the bundle that the model was read from.

    Raises `OptionError` if there is neither, or the name is not allowed, and `OutputError` if it cannot be written.
    """
    if folder is not None:
        name, sizes = _check_destination(folder, name), loaded.model.sizes
        reference = make_reference(exact_runners(loaded.model), sizes, loaded.tokenizer).to_npz()
        words = loaded.tokenizer
        shared = [Artifact(VOCABULARY, words.to_json()), near_words_file(words), Artifact(REFERENCE, reference)]
        manifest = Manifest(
            name,
            sizes,
            {file.name: file.entry for file in shared},
            tokenizer=TokenizerSpec(near_words=NEAR_WORDS),
            reference=REFERENCE,
            license=loaded.license,
            provenance=loaded.provenance,
        )
        return BundleBuilder(folder, manifest, {file.name: file.content for file in shared}, adding=False)
    bundle = loaded.bundle
    if bundle is None:
        raise OptionError("a checkpoint needs a folder for its bundle: give it with --out")
    name = _check_destination(bundle.folder, name or bundle.name)
    manifest = replace(bundle.manifest, name=name, license=loaded.license)
    files: dict[str, bytes | Path] = {file: bundle.path(file) for file in manifest.files}
    return BundleBuilder(bundle.folder, manifest, files, adding=True, formats=bundle.formats)


def _check_destination(folder: Path, name: str | None) -> str:
    """The bundle's name, by default its folder's.

    Raises `OptionError` if the name is not allowed, and `OutputError` if the folder cannot be written.
    """
    name = name or folder.resolve().name
    if not is_name(name):
        raise OptionError(f"a bundle cannot be called {quoted(name)}: use letters, digits and '._-' in --name")
    check_target(folder)
    return name
