"""The model that a bundle holds: text encoder and generator together; its state dict is `weights.safetensors`."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from t2i_engine.bundle import Bundle
from t2i_engine.errors import BundleError
from t2i_engine.manifest import ModelSizes
from training.models.generator import Generator
from training.models.text_encoder import TextEncoder

WEIGHTS = "weights.safetensors"


class TextToImage(nn.Module):
    """Text encoder and generator of given sizes, with tensors named `text_encoder.*` and `generator.*`."""

    def __init__(self, sizes: ModelSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.text_encoder = TextEncoder(sizes.vocabulary_size, sizes.embedding_width, sizes.sentence_width)
        self.generator = Generator(sizes)


def read_model(bundle: Bundle) -> TextToImage:
    """The bundle's model in evaluation mode, float32, on the CPU. Raises `BundleError` if its weights do not fit."""
    with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced at once
        model = TextToImage(bundle.sizes)
    try:
        tensors = load_file(bundle.path(WEIGHTS))  # half precision where it is exact (export/half_weights.py)
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{bundle.folder / WEIGHTS} does not hold the weights of its model: {reason}") from None
    return model.eval()
