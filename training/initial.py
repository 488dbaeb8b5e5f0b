"""Weights to start a run from: a checkpoint's, or a bundle's."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from t2i_engine.bundle import Bundle, ModelSizes
from t2i_engine.errors import UserError
from training.checkpoint import load_model
from training.config import RunConfig
from training.data.corpus import Batches
from training.growth import grown, grown_discriminator, grown_sizes
from training.judges import Judges
from training.models.discriminator import Discriminator
from training.models.image_encoder import ImageEncoder
from training.models.text_to_image import TextToImage, read_model

EMBEDDING = "text_encoder.encoder.weight"
GROWTH_BATCH = 16
ENCODER_SIZES = ("sentence_width", "embedding_width", "vocabulary_size")


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
    judges: Judges
    encoders_only: bool = False
    """Words and encoders are taken from it, and nothing else."""

    def knowing(self, words: Iterable[str]) -> "InitialModel":
        """The same model with those of `words` besides that it lacks: its ids stay, new ones get random embeddings."""
        lacking = tuple(word for word in words if word not in self.words)
        model = TextToImage(replace(self.model.sizes, vocabulary_size=len(self.words) + len(lacking)))
        state = self.model.state_dict()
        embedding = model.text_encoder.encoder.weight.detach().clone()
        embedding[: len(self.words)] = state[EMBEDDING]
        model.load_state_dict(state | {EMBEDDING: embedding})
        return replace(self, words=self.words + lacking, model=model)

    def require_fits(self, sizes: ModelSizes) -> None:
        """Raises `InitialError` naming what differs from `sizes`, once it is grown to their side."""
        name, theirs = f"'{self.name}'", self.model.sizes
        if not self.encoders_only and sizes.resolution > theirs.resolution:
            name = f"{name}, grown to {sizes.resolution}²,"
            try:
                theirs = grown_sizes(theirs, sizes.resolution)
            except ValueError as error:
                raise InitialError(f"{name} is beyond what can be: {error}") from None
        keys = ENCODER_SIZES if self.encoders_only else tuple(asdict(sizes))
        pairs = [(key, asdict(sizes)[key], asdict(theirs)[key]) for key in keys]
        differing = [f"{key} {their} instead of {our}" for key, our, their in pairs if our != their]
        if differing:
            raise InitialError(f"{name} does not fit the config: it has {', '.join(differing)}")

    def grown(self, side: int, batches: Batches) -> "InitialModel":
        """The same model for pictures of a larger side, fitted to captions of `batches`; the same side is no change."""
        if self.encoders_only or side == self.model.sizes.resolution:
            return self
        encoder = self.model.text_encoder.eval()

        def sentences(number: int) -> Tensor:
            batch = batches.batch(0, number, GROWTH_BATCH)
            sentence: Tensor = encoder(batch.tokens, batch.lengths).sentence
            return sentence

        return replace(self, model=grown(self.model, side, sentences))

    def load_model_into(self, model: TextToImage) -> None:
        """Copies text encoder and generator into a model that it fits."""
        mine, theirs = (self.model.text_encoder, model.text_encoder) if self.encoders_only else (self.model, model)
        theirs.load_state_dict(mine.state_dict())

    def load_judges_into(self, image_encoder: ImageEncoder, discriminator: Discriminator) -> None:
        """Copies image encoder and discriminator, where it has them. Raises `InitialError` for another encoder."""
        if self.judges.discriminator is not None:
            discriminator.load_state_dict(grown_discriminator(self.judges.discriminator, discriminator.state_dict()))
        if self.judges.image_encoder is None:
            return
        try:
            image_encoder.load_state_dict(self.judges.image_encoder)
        except RuntimeError as error:
            raise InitialError(f"'{self.name}' has another image encoder than damsm.image_encoder asks for") from error


def starting_model(config: RunConfig) -> InitialModel | None:
    """What a run starts from, if it does not start from nothing. Raises `UserError` where that cannot be read."""
    if config.initial:
        return load_initial(config.initial)
    if config.damsm.initial:
        found = load_initial(config.damsm.initial)
        origin = found.origin | {"part": "encoders"}
        return replace(found, origin=origin, judges=Judges(found.judges.image_encoder), encoders_only=True)
    return None


def load_initial(path: str) -> InitialModel:
    """Reads a checkpoint (a .pt file) or a bundle (its name or folder). Raises `UserError` where that fails."""
    if not path.endswith(".pt"):
        bundle = Bundle.open(path)
        origin = _origin({"bundle": bundle.name, **bundle.manifest.provenance})
        return InitialModel(path, origin, bundle.tokenizer().words, read_model(bundle), Judges())
    trained = load_model(Path(path))
    origin = _origin(trained.provenance)
    return InitialModel(path, origin, trained.words, trained.model, trained.judges)


def _origin(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a model trained from another says of that, and through it of all before it."""
    keys = ("bundle", "run", "dataset", "steps", "hours", "commit", "initial")
    return {key: provenance[key] for key in keys if provenance.get(key) is not None}
