"""The model's tensors as `weights.safetensors`: there and back, without anything that could be executed."""

from collections.abc import Iterator

from safetensors import SafetensorError
from safetensors.torch import load, save

from export.built import BuiltFile
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BundleError
from t2i_engine.formats import GENERATOR, Format, find
from training.models.text_to_image import TextToImage


def build(model: TextToImage, row: Format) -> Iterator[BuiltFile]:
    """Every tensor of the model under its name in the state dict; the same bytes for the same tensors."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    yield BuiltFile(row.files[GENERATOR], save(tensors), row)


def read(bundle: Bundle) -> TextToImage:
    """The bundle's model in evaluation mode, float32, on the CPU. Raises `BundleError` where its weights do not fit."""
    file = find("pytorch").files[GENERATOR]
    model = TextToImage(bundle.sizes)
    try:
        model.load_state_dict(load(bundle.read(file)))
    except (SafetensorError, RuntimeError) as error:
        raise BundleError(f"{bundle.folder / file} does not hold the weights of its model: {error}") from None
    return model.eval()
