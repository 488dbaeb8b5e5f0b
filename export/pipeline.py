"""Checkpoint to bundle, or further formats for a bundle: read, build graphs in each precision, verify, then write."""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from export.artifact import Artifact
from export.bundle_builder import BundleBuilder, check_destination, start_bundle
from export.gate import GateResult, run_gate
from export.model_loading import load_origin
from t2i_engine.backend_selection import backend_status, row_lacks
from t2i_engine.errors import BackendError, OptionError, ParityError, needs_extra
from t2i_engine.formats import Form, Format, all_formats, find, load
from t2i_engine.parity import GATE, GateSize, verification_device
from t2i_engine.table import size

ALL = "all"
DEFAULT = "onnx"
WEIGHTS = "pytorch"  # in every bundle: the others are verified against it, and further formats made from it
TOOLS = ("t2i-engine", "torch", "onnx", "onnxscript", "safetensors")


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
    captions: Sequence[str] = (),
    gate_size: GateSize = GATE,
) -> Exported:
    """Makes a bundle from a checkpoint or a bundle's weights; without a folder, adds formats to that bundle.

    `on_progress` gets a line per step; int8 is calibrated on `captions`. Formats outside their tolerance are rejected:
    the manifest says so, the others are written. If none is left, it raises `ParityError` and leaves the folder as it
    was. Raises a `UserError` if the origin, the folder or this machine cannot be used.
    """
    if folder is not None:
        check_destination(folder, name)
    selection = select_formats(formats)
    with needs_extra("t2i-engine export", "export"):
        builders = {row.builder: load(row.builder) for row in map(builder_row, selection.rows)}
        versions = {tool: version(tool) for tool in TOOLS}

    loaded = load_origin(str(origin))
    bundle = start_bundle(loaded, folder, name)
    for unavailable, lacks in selection.unavailable.items():
        on_progress(f"skipping {unavailable}: {lacks}")
    rows = [row for row in selection.rows if row not in bundle.formats]
    if not rows:
        on_progress(f"nothing to do: {bundle.target} already has these formats")
        return Exported(bundle.target, {})

    to_build = [builder_row(row) for row in rows if not bundle.has(row)]
    if not folded:
        rows, to_build = ([replace(row, form=Form.TRAINED) for row in table] for table in (rows, to_build))
    calibration = loaded.calibration_ids(captions) if any(row.calibrated for row in to_build) else []
    for row in to_build:
        if not bundle.has(row):  # formats share files
            arguments = [calibration, bundle.files] if row.calibrated else []
            _add(bundle, row, builders[row.builder](loaded.model, row, *arguments), on_progress)

    with tempfile.TemporaryDirectory(prefix="t2i-engine-") as staging:
        # Files of a bundle, opened through their backends: what the gate runs is what the user's engine will run.
        staged = bundle.stage(Path(staging) / "bundle")
        tested = [row for row in rows if row.name not in selection.unverified]
        gate = run_gate(loaded.model, staged, tested, on_progress, gate_size)

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
    """Adds the artifacts that the bundle lacks, each with a line of its size and time, until it has the format."""
    started = time.perf_counter()
    for artifact in artifacts:
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
        raise ParityError(f"nothing is written: {next(iter(gate.rejected.values()))}")
