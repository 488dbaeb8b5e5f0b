"""A bundle in the making: what is there already, the files that were built, and what the gate says of them."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from export.built import BuiltFile
from export.gate import GateResult
from export.source import Source
from t2i_engine.backend_selection import backend_status
from t2i_engine.backends.pytorch import reference_runners
from t2i_engine.bundle import VOCABULARY, FileEntry, Manifest, is_name
from t2i_engine.errors import OptionError, quoted
from t2i_engine.formats import Format
from t2i_engine.reference import REFERENCE, make_reference

Content = bytes | Path


@dataclass
class Draft:
    """Where a bundle goes, and what it holds so far."""

    target: Path
    manifest: Manifest
    """Of the files so far; those that are built are not proved in it."""
    files: dict[str, Content]
    adding: bool
    """True where formats are added to a bundle that is there."""
    first_files: frozenset[str]
    """Those that are written whatever is proved: of the bundle that is added to, or common to all formats."""
    formats: tuple[Format, ...] = ()
    """Those that the bundle has already."""
    notes: dict[str, object] = field(default_factory=dict)
    """How its new files were made."""

    def add(self, file: BuiltFile) -> None:
        """Takes a file in."""
        self.files[file.name] = file.content
        self.manifest = replace(self.manifest, files={**self.manifest.files, file.name: file.record})
        if file.notes:
            self.notes[file.name] = dict(file.notes)

    def proved(
        self, rows: Iterable[Format], unverified: Mapping[str, str], gate: GateResult, versions: Mapping[str, str]
    ) -> Manifest:
        """The manifest of what is to be written: without the formats of `rows` that missed their tolerance."""
        missed = gate.rejected
        kept = [row for row in rows if row.name not in missed]
        before = self.manifest
        needed = self.first_files.union(*(row.all_files for row in kept))
        parity = {**before.parity, **{row.name: gate.parity(row) for row in kept if row.name not in unverified}}
        return replace(
            before,
            files={name: record for name, record in before.files.items() if name in needed},
            parity=parity,
            unverified={
                **before.unverified,
                **{row.name: unverified[row.name] for row in kept if row.name in unverified},
            },
            rejected={
                name: reason
                for name, reason in {**before.rejected, **missed}.items()
                if name not in [row.name for row in kept]
            },
            provenance=self._provenance(kept, needed, versions),
        )

    def _provenance(
        self, kept: Iterable[Format], files: Container[str], versions: Mapping[str, str]
    ) -> dict[str, object]:
        statuses = [backend_status(name) for name in dict.fromkeys(row.backend for row in kept)]
        made: dict[str, object] = {
            "versions": dict(versions),
            "proved_with": [status.version for status in statuses if status.version],
            "files": {name: note for name, note in self.notes.items() if name in files},
        }
        found = dict(self.manifest.provenance)
        earlier = found.pop("added", [])
        if not self.adding:
            return found | {"export": made}
        added = [*(earlier if isinstance(earlier, list) else []), {"formats": [row.name for row in kept]} | made]
        return found | {"added": added}


def start_draft(source: Source, folder: Path | None, name: str | None) -> Draft:
    """A bundle in `folder`; without one it is the bundle that the source is from.

    Raises `OptionError` where there is no folder for it, or it cannot be called so.
    """
    bundle = source.bundle
    if folder is None and bundle is not None:
        name = check_name(name or bundle.name)
        files: dict[str, Content] = {file: bundle.path(file) for file in bundle.manifest.files}
        manifest = replace(bundle.manifest, name=name)
        return Draft(bundle.folder, manifest, files, True, frozenset(files), bundle.formats)
    if folder is None:
        raise OptionError("a checkpoint becomes a bundle of its own: give its folder with --out")
    name = check_name(name or folder.resolve().name)
    common = [
        BuiltFile(VOCABULARY, source.tokenizer.to_json()),
        BuiltFile(REFERENCE, _reference(source)),
    ]
    records: dict[str, FileEntry] = {file.name: file.record for file in common}
    manifest = Manifest(name, source.model.sizes, records, reference=REFERENCE, provenance=source.provenance)
    return Draft(folder, manifest, {file.name: file.content for file in common}, False, frozenset(records))


def _reference(source: Source) -> bytes:
    return make_reference(reference_runners(source.model), source.model.sizes, source.tokenizer).to_npz()


def check_name(name: str) -> str:
    """The name itself. Raises `OptionError` where no bundle can have it."""
    if not is_name(name):
        raise OptionError(
            f"a bundle cannot be called {quoted(name)}: letters, digits and '._-' expected; give a --name"
        )
    return name
