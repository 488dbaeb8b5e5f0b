"""Weights to start a run from: a checkpoint's, or a bundle's."""

from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from t2i_engine.bundle import Bundle, ModelSizes
from t2i_engine.errors import UserError
from training.checkpoint import load_checkpoint
from training.models.image_encoder import ImageEncoder
from training.models.text_to_image import TextToImage

IMAGE_ENCODER = "image_encoder."


class InitialError(UserError):
    """Weights that do not fit the model to be trained."""


@dataclass(frozen=True)
class InitialModel:
    """A model to start from, with the words it knows."""

    name: str
    sizes: ModelSizes
    words: tuple[str, ...]
    weights: dict[str, Tensor]
    """TextToImage's state dict."""
    image_encoder: dict[str, Tensor] | None
    """The state of the DAMSM image encoder; None where it comes from a bundle, which has none."""

    def load_into(self, model: TextToImage, image_encoder: ImageEncoder) -> None:
        """Copies the weights. Raises `InitialError` naming the sizes that differ."""
        ours, theirs = asdict(model.sizes), asdict(self.sizes)
        differing = [f"{name} {theirs[name]} instead of {ours[name]}" for name in ours if ours[name] != theirs[name]]
        if differing:
            raise InitialError(f"--init '{self.name}' does not fit the config: it has {', '.join(differing)}")
        model.load_state_dict(self.weights)
        if self.image_encoder is None:
            return
        try:
            image_encoder.load_state_dict(self.image_encoder)
        except RuntimeError as error:
            raise InitialError(
                f"--init '{self.name}' has another image encoder than damsm.image_encoder asks for"
            ) from error


def load_initial(path: str) -> InitialModel:
    """Reads a checkpoint (a .pt file) or a bundle (its name or folder). Raises `UserError` where that fails."""
    if not path.endswith(".pt"):
        bundle = Bundle.open(path)
        weights = load_file(bundle.path("weights.safetensors"))
        return InitialModel(bundle.manifest.name, bundle.manifest.model, bundle.tokenizer().words, weights, None)
    content = load_checkpoint(Path(path))
    networks = content["state"].get("damsm", {}).get("networks", {})
    encoder = {
        key.removeprefix(IMAGE_ENCODER): value for key, value in networks.items() if key.startswith(IMAGE_ENCODER)
    }
    return InitialModel(
        Path(path).name, ModelSizes(**content["sizes"]), tuple(content["words"]), content["weights"], encoder or None
    )
