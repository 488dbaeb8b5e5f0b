"""BundleBuilder: a bundle under construction, either new or one that formats are added to."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from export.artifact import Artifact
from export.gate import GateResult
from t2i_engine.backend_selection import backend_status
from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.formats import Format
from t2i_engine.manifest import Manifest
from t2i_engine.parity import as_parity
from t2i_engine.picture_reference import PICTURES


@dataclass
class BundleBuilder:
    """Collects files in memory; `stage` writes them all for the gate, `write` those that pass it."""

    target: Path
    """Where the bundle goes."""
    manifest: Manifest
    """The manifest of the files so far; new ones are not yet verified."""
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
        if any(row.judged_by_pictures for row in accepted):
            needed |= {PICTURES}
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
        if self.adding and not accepted:
            return provenance
        added = provenance.pop("added", [])
        if not self.adding:
            return provenance | {"export": export}
        earlier = added if isinstance(added, list) else []
        return provenance | {"added": [*earlier, {"formats": [row.name for row in accepted]} | export]}
