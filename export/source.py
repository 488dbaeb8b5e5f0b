"""Where an export starts: a checkpoint, or a bundle's own weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from t2i_engine.bundle import Bundle
from t2i_engine.errors import CaptionError
from t2i_engine.tokenizer import Tokenizer, split
from training.checkpoint import CheckpointError, TrainedModel, load_model
from training.models.text_to_image import TextToImage, read_model

_SYNTHBIRDS = "synthbirds"
_DESCRIBED = 64  # birds, of the ten captions of each


@dataclass(frozen=True)
class Source:
    """A model to export, with what a bundle says of it."""

    model: TextToImage
    """In evaluation mode, float32, on the CPU."""
    tokenizer: Tokenizer
    provenance: Mapping[str, object]
    given_captions: Sequence[str] = ()
    """Captions of the data set, where the user gave some."""
    bundle: Bundle | None = None
    """The bundle that the model is from."""

    def calibration(self) -> list[tuple[int, ...]]:
        """Token ids of real captions: those that were given, or synthbirds' where the model was trained on it.

        Raises `CaptionError` where there are none.
        """
        if self.given_captions:
            captions = self.given_captions
        elif _SYNTHBIRDS in str(self.provenance.get("dataset")):
            captions = _described_birds()
        else:
            raise CaptionError("int8 is calibrated on captions of the model's data set: give some with --captions-file")
        encoded = [ids for caption in captions for ids in _encoded(caption, self.tokenizer)]
        if not encoded:
            raise CaptionError("no caption to calibrate int8 with has a word that the model knows; give others")
        return encoded


def read_source(origin: str, captions: Sequence[str] = ()) -> Source:
    """Reads a checkpoint (a file, or a name that ends with .pt), or a bundle by name or folder.

    Raises a `UserError` where that fails.
    """
    if origin.endswith(".pt") or Path(origin).is_file():
        trained = load_model(Path(origin))
        return Source(trained.model, _tokenizer(trained, origin), trained.provenance, captions)
    bundle = Bundle.open(origin)
    return Source(read_model(bundle), bundle.tokenizer(), bundle.manifest.provenance, captions, bundle)


def _tokenizer(trained: TrainedModel, checkpoint: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer(trained.words)
    except ValueError as error:
        raise CheckpointError(f"checkpoint '{checkpoint}' has no vocabulary ({error}); train again") from None
    if len(tokenizer.words) != trained.model.sizes.vocabulary_size:
        raise CheckpointError(
            f"checkpoint '{checkpoint}' has {len(tokenizer.words)} words, its model "
            f"{trained.model.sizes.vocabulary_size}: they belong to different models; take another"
        )
    if not any(split(word) == [word] for word in tokenizer.words):
        raise CheckpointError(f"checkpoint '{checkpoint}' knows no word that a caption can have; train again")
    return tokenizer


def _encoded(caption: str, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    try:
        return [tokenizer.encode(caption).ids]
    except CaptionError:  # no word of it is known
        return []


def _described_birds() -> list[str]:
    from training.data.synthbirds import SynthBirds

    birds = SynthBirds("train", _DESCRIBED, 32)
    return [caption for number in range(_DESCRIBED) for caption in birds.captions(number)]
