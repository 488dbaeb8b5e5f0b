"""The model's tensors as `weights.safetensors`: without anything that could be executed."""

from collections.abc import Iterator

from safetensors.torch import save

from export.built import BuiltFile
from t2i_engine.formats import GENERATOR, Format
from training.models.text_to_image import TextToImage


def build(model: TextToImage, row: Format) -> Iterator[BuiltFile]:
    """Every tensor of the model under its name in the state dict; the same bytes for the same tensors."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    yield BuiltFile(row.files[GENERATOR], save(tensors), row)
