"""Artifact: a bundle's file in memory, as builders yield it. The simplest builder, of the weights, is here too."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from safetensors.torch import save

from export.half_weights import is_half
from t2i_engine.formats import GENERATOR, Format
from t2i_engine.manifest import FileEntry
from training.models.text_to_image import TextToImage


@dataclass(frozen=True)
class Artifact:
    """A file and what the manifest says about it; a field that does not apply is None."""

    name: str
    content: bytes
    row: Format | None = None
    graph: str | None = None
    opset: int | None = None
    notes: Mapping[str, object] = field(default_factory=dict)
    """How it was made, for the manifest's provenance."""

    @property
    def entry(self) -> FileEntry:
        """The manifest's entry for the file."""
        return FileEntry.of(self.content, self.graph, self.row, self.opset)


def build_weights(model: TextToImage, row: Format) -> Iterator[Artifact]:
    """Yields every tensor of the state dict as safetensors, in half precision if that is exact for all of them.

    Equal tensors give equal bytes, whatever their strides.
    """
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    notes = {}
    if is_half(model):
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
        notes = {"stored_in": "half precision"}
    yield Artifact(row.files[GENERATOR], save(tensors), row, notes=notes)
