"""Weights to start a run from: a checkpoint's, or a bundle's."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from t2i_engine.bundle import Bundle
from t2i_engine.errors import UserError
from training.checkpoint import load_checkpoint, load_model
from training.growth import grown
from training.matching import of_bundle, of_checkpoint
from training.models.image_encoder import ImageEncoder
from training.models.text_to_image import TextToImage
from training.weights import read_model

EMBEDDING = "text_encoder.encoder.weight"


class InitialError(UserError):
    """Weights that do not fit the model to be trained."""


@dataclass(frozen=True)
class InitialModel:
    """A model to start from, with the words it knows."""

    name: str
    origin: dict[str, Any]
    """The run, data and steps it comes from, for the provenance of what is trained from it."""
    words: tuple[str, ...]
    model: TextToImage
    image_encoder: dict[str, Tensor] | None
    """The state of the DAMSM image encoder; None where there is none, as in bundles of a frozen backbone."""

    def knowing(self, words: Iterable[str]) -> "InitialModel":
        """The same model with those of `words` besides that it lacks: its ids stay, new ones get random embeddings."""
        lacking = tuple(word for word in words if word not in self.words)
        model = TextToImage(replace(self.model.sizes, vocabulary_size=len(self.words) + len(lacking)))
        state = self.model.state_dict()
        embedding = model.text_encoder.encoder.weight.detach().clone()
        embedding[: len(self.words)] = state[EMBEDDING]
        model.load_state_dict(state | {EMBEDDING: embedding})
        return replace(self, words=self.words + lacking, model=model)

    def grown(self, side: int) -> "InitialModel":
        """The same model for pictures of a larger side; one that is as large already stays as it is."""
        larger = side > self.model.sizes.picture_side
        return replace(self, model=grown(self.model, side)) if larger else self

    def load_into(self, model: TextToImage, image_encoder: ImageEncoder) -> None:
        """Copies the weights. Raises `InitialError` naming the sizes that differ."""
        ours, theirs = asdict(model.sizes), asdict(self.model.sizes)
        differing = [f"{name} {theirs[name]} instead of {ours[name]}" for name in ours if ours[name] != theirs[name]]
        if differing:
            raise InitialError(f"--init '{self.name}' does not fit the config: it has {', '.join(differing)}")
        model.load_state_dict(self.model.state_dict())
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
        origin = _origin({"bundle": bundle.name, **bundle.manifest.provenance})
        return InitialModel(path, origin, bundle.tokenizer().words, read_model(bundle), of_bundle(bundle))
    trained = load_model(Path(path))
    encoder = of_checkpoint(load_checkpoint(Path(path)))
    return InitialModel(path, _origin(trained.provenance), trained.words, trained.model, encoder)


def _origin(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {key: provenance[key] for key in ("bundle", "run", "dataset", "steps", "commit") if key in provenance}
