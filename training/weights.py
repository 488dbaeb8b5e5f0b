"""The weights of a bundle as a model: the one reader of `weights.safetensors`."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from t2i_engine.bundle import Bundle
from t2i_engine.errors import BundleError
from training.models.text_to_image import TextToImage

WEIGHTS = "weights.safetensors"


def read_model(bundle: Bundle) -> TextToImage:
    """The bundle's model in evaluation mode, float32, on the CPU. Raises `BundleError` where its weights do not fit."""
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        model = TextToImage(bundle.sizes)
    try:
        model.load_state_dict(load_file(bundle.path(WEIGHTS)), assign=True)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{bundle.folder / WEIGHTS} does not hold the weights of its model: {reason}") from None
    return model.eval()
