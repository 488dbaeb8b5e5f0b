"""Checkpoint to bundle, or more formats to a bundle: build each, prove it equal to PyTorch, and only then write."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from export.built import BuiltFile
from export.draft import Draft, check_name, start_draft
from export.gate import GateResult, run_gate
from export.selection import ALWAYS, DEFAULT, select
from export.source import Source, read_source
from t2i_engine.bundle import Bundle, check_target, write_bundle
from t2i_engine.errors import MissingExtra, ParityError
from t2i_engine.formats import Form, Format, load
from t2i_engine.parity import GATE, GateSize
from t2i_engine.table import size

TOOLS = ("t2i-engine", "torch", "onnx", "onnxscript", "safetensors")

Report = Callable[[str], None]
Builder = Callable[..., Iterator[BuiltFile]]


@dataclass(frozen=True)
class Exported:
    """A bundle that was written."""

    folder: Path
    rejected: Mapping[str, str]
    """The formats that were asked for and missed their tolerance, and by how much."""


def export_bundle(
    origin: str | Path,
    folder: Path | None,
    name: str | None,
    report: Report,
    formats: str = DEFAULT,
    folded: bool = True,
    captions: Sequence[str] = (),
    gate_size: GateSize = GATE,
) -> Exported:
    """Makes a bundle of a checkpoint or of a bundle's weights; without a folder, formats are added to the bundle.

    `report` gets a line per step. A format that misses its tolerance is left out, and the manifest says so; where none
    is left, `ParityError` is raised and the folder is as it was. Raises a `UserError` where the source, the folder or
    this machine cannot be used.
    """
    if folder is not None:
        check_name(name or folder.resolve().name)
    selection = select(formats)
    builders, versions = {row.name: _builder(row) for row in selection.rows}, _versions()
    if folder is not None:
        check_target(folder)
    source = read_source(str(origin), captions)
    draft = start_draft(source, folder, name)
    check_target(draft.target)
    for impossible, lacks in selection.impossible.items():
        report(f"left out {impossible}: {lacks}")
    rows = [row for row in selection.rows if row not in draft.formats]
    if not rows:
        report(f"{draft.target} has these formats already")
        return Exported(draft.target, {})
    forms = [row if folded else replace(row, form=Form.TRAINED) for row in rows]
    for file in _reported(_build(source, draft, forms, builders), report):
        draft.add(file)
    with tempfile.TemporaryDirectory(prefix="t2i-engine-") as staging:
        # The gate runs what the user's engine will run: files of a bundle, opened through their backends.
        staged = Bundle.open(write_bundle(Path(staging) / "bundle", draft.manifest, draft.files))
        tested = [row for row in forms if row.name not in selection.unverified]
        gate = run_gate(source.model, staged, tested, report, gate_size)
    _check_worth_writing(draft, rows, gate)
    manifest = draft.proved(rows, selection.unverified, gate, versions)
    write_bundle(draft.target, manifest, {name: draft.files[name] for name in manifest.files})
    return Exported(draft.target, gate.rejected)


def _build(
    source: Source, draft: Draft, rows: Iterable[Format], builders: Mapping[str, Builder]
) -> Iterator[BuiltFile]:
    """The files that the draft does not have; formats that share files are built once."""
    for row in rows:
        if row.all_files <= draft.files.keys():
            continue
        arguments = [source.calibration(), draft.files] if row.calibrated else []
        for file in builders[row.name](source.model, row, *arguments):
            if file.name not in draft.files:
                yield file
            if row.all_files <= draft.files.keys():
                break


def _check_worth_writing(draft: Draft, rows: Sequence[Format], gate: GateResult) -> None:
    """Raises `ParityError` where the weights themselves are off, or a new bundle would have nothing else."""
    missed = gate.rejected
    others = [row.name for row in rows if row.name != ALWAYS]
    if ALWAYS in missed or (others and not draft.adding and missed.keys() >= set(others)):
        raise ParityError(f"no bundle is written: {next(iter(missed.values()))}")


def _reported(files: Iterable[BuiltFile], report: Report) -> Iterator[BuiltFile]:
    """The files as they are built, each with its size and time."""
    started = time.perf_counter()
    for file in files:
        seconds = time.perf_counter() - started
        report(f"{file.name:<42}  {size(len(file.content)):>8}  {seconds:5.1f} s")
        yield file
        started = time.perf_counter()


def _builder(row: Format) -> Builder:
    """The builder of a format. Raises `MissingExtra` where a package that it needs is not there."""
    try:
        return load(row.builder)
    except ModuleNotFoundError as error:
        raise MissingExtra("t2i-engine export", f"the package {error.name}", "export") from None


def _versions() -> dict[str, str]:
    """What takes part in the export. Raises `MissingExtra` where a package is not installed."""
    try:
        return {tool: version(tool) for tool in TOOLS}
    except PackageNotFoundError as error:
        raise MissingExtra("t2i-engine export", f"the package {error.name}", "export") from None
