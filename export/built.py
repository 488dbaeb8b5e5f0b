"""What a builder gives: a file of the bundle, in memory, before anything is proved or written."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from t2i_engine.bundle import FileEntry
from t2i_engine.formats import Format


@dataclass(frozen=True)
class BuiltFile:
    """A file and what the manifest says of it; a field that does not apply is None."""

    name: str
    content: bytes
    row: Format | None = None
    graph: str | None = None
    opset: int | None = None
    notes: Mapping[str, object] = field(default_factory=dict)
    """What else is worth knowing of how it was made: goes into the manifest's provenance."""

    @property
    def record(self) -> FileEntry:
        """The manifest's record of the file."""
        format_name, precision = (self.row.name, self.row.precision) if self.row else (None, None)
        return FileEntry.of(self.content, self.graph, format_name, precision, self.opset)
