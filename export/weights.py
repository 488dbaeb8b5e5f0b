"""The model's tensors as `weights.safetensors`: without anything that could be executed."""

from collections.abc import Iterator, Mapping

from safetensors.torch import save
from torch import Tensor

from export.built import BuiltFile
from t2i_engine.formats import GENERATOR, Format
from training.models.text_to_image import TextToImage


def build(model: TextToImage, row: Format) -> Iterator[BuiltFile]:
    """Every tensor of the model under its name in the state dict."""
    yield BuiltFile(row.files[GENERATOR], to_safetensors(model.state_dict()), row)


def to_safetensors(state: Mapping[str, Tensor]) -> bytes:
    """The content of a .safetensors file: the same bytes for the same tensors, whatever their layout in memory."""
    return save({name: tensor.detach().contiguous() for name, tensor in state.items()})
