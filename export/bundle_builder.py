"""BundleBuilder: a bundle in the making, a new one or one that formats are added to."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from export.artifact import Artifact
from export.gate import GateResult
from export.model_loading import LoadedModel
from t2i_engine.backend_selection import backend_status
from t2i_engine.backends.pytorch import reference_runners
from t2i_engine.bundle import VOCABULARY, Bundle, Manifest, check_target, is_name, write_bundle
from t2i_engine.errors import OptionError, quoted
from t2i_engine.formats import Format
from t2i_engine.parity import as_parity
from t2i_engine.reference import REFERENCE, make_reference


@dataclass
class BundleBuilder:
    """Collects files in memory; `stage` writes them all for the gate, `write` those that it lets through."""

    target: Path
    """Where the bundle goes."""
    manifest: Manifest
    """Of the files so far; new ones are not yet verified."""
    files: dict[str, bytes | Path]
    adding: bool
    """Whether formats are added to an existing bundle."""
    formats: tuple[Format, ...] = ()
    """The formats that it already has."""
    _notes: dict[str, object] = field(default_factory=dict)
    _always: frozenset[str] = field(init=False)  # written whatever the gate finds

    def __post_init__(self) -> None:
        self._always = frozenset(self.files)

    def has(self, row: Format) -> bool:
        """Whether every file of a format is there."""
        return row.all_files <= self.files.keys()

    def add(self, artifact: Artifact) -> None:
        """Adds a file."""
        self.files[artifact.name] = artifact.content
        self.manifest = replace(self.manifest, files={**self.manifest.files, artifact.name: artifact.entry})
        if artifact.notes:
            self._notes[artifact.name] = dict(artifact.notes)

    def stage(self, folder: Path) -> Bundle:
        """Writes every file to a temporary bundle in `folder`."""
        return Bundle.open(write_bundle(folder, self.manifest, self.files))

    def write(
        self, rows: Sequence[Format], unverified: Mapping[str, str], gate: GateResult, versions: Mapping[str, str]
    ) -> Path:
        """Writes the bundle without those of the new `rows` that were rejected, and returns its folder."""
        accepted = [row for row in rows if row.name not in gate.rejected]
        names = {row.name for row in accepted}
        tested = [row for row in accepted if row.name not in unverified]
        needed = self._always.union(*(row.all_files for row in accepted))
        old = self.manifest
        rejected = {**old.rejected, **gate.rejected}
        manifest = replace(
            old,
            files={name: entry for name, entry in old.files.items() if name in needed},
            parity={**old.parity, **{row.name: as_parity(gate.findings, row) for row in tested}},
            unverified={**old.unverified, **{name: lacks for name, lacks in unverified.items() if name in names}},
            rejected={name: reason for name, reason in rejected.items() if name not in names},
            provenance=self._provenance(accepted, needed, versions),
        )
        return write_bundle(self.target, manifest, {name: self.files[name] for name in manifest.files})

    def _provenance(
        self, accepted: Sequence[Format], files: Container[str], versions: Mapping[str, str]
    ) -> dict[str, object]:
        statuses = [backend_status(name) for name in dict.fromkeys(row.backend for row in accepted)]
        export: dict[str, object] = {
            "versions": dict(versions),
            "verified_with": [status.version for status in statuses if status.version],
            "files": {name: notes for name, notes in self._notes.items() if name in files},
        }
        provenance = dict(self.manifest.provenance)
        added = provenance.pop("added", [])
        if not self.adding:
            return provenance | {"export": export}
        earlier = added if isinstance(added, list) else []
        return provenance | {"added": [*earlier, {"formats": [row.name for row in accepted]} | export]}


def start_bundle(loaded: LoadedModel, folder: Path | None, name: str | None) -> BundleBuilder:
    """A new bundle in `folder`; without one, the bundle that the model was read from.

    Raises `OptionError` if there is neither, or the name is not allowed, and `OutputError` if it cannot be written.
    """
    if folder is not None:
        name = check_destination(folder, name)
        pytorch, sizes = reference_runners(loaded.model), loaded.model.sizes
        reference = make_reference(pytorch, sizes, loaded.tokenizer).to_npz()
        shared = [Artifact(VOCABULARY, loaded.tokenizer.to_json()), Artifact(REFERENCE, reference)]
        entries = {file.name: file.entry for file in shared}
        manifest = Manifest(name, sizes, entries, reference=REFERENCE, provenance=loaded.provenance)
        return BundleBuilder(folder, manifest, {file.name: file.content for file in shared}, adding=False)
    bundle = loaded.bundle
    if bundle is None:
        raise OptionError("a checkpoint needs a folder for its bundle: give it with --out")
    manifest = replace(bundle.manifest, name=check_destination(bundle.folder, name or bundle.name))
    files: dict[str, bytes | Path] = {file: bundle.path(file) for file in manifest.files}
    return BundleBuilder(bundle.folder, manifest, files, adding=True, formats=bundle.formats)


def check_destination(folder: Path, name: str | None) -> str:
    """The bundle's name, by default its folder's.

    Raises `OptionError` if the name is not allowed, and `OutputError` if the folder cannot be written.
    """
    name = name or folder.resolve().name
    if not is_name(name):
        raise OptionError(f"a bundle cannot be called {quoted(name)}: use letters, digits and '._-' in --name")
    check_target(folder)
    return name
