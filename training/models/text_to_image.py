"""The model a bundle holds: text encoder and generator under one roof; its state dict is `weights.safetensors`."""

from torch import nn

from t2i_engine.bundle import ModelSizes
from training.models.generator import Generator
from training.models.text_encoder import TextEncoder


class TextToImage(nn.Module):
    """Text encoder and generator of one set of sizes, with tensors named `text_encoder.*` and `generator.*`."""

    def __init__(self, sizes: ModelSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.text_encoder = TextEncoder(sizes.vocabulary_size, sizes.embedding_width, sizes.sentence_width)
        self.generator = Generator(sizes)
