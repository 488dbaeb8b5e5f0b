"""The model to export, from a checkpoint or from a bundle's own weights."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from t2i_engine.bundle import Bundle
from t2i_engine.errors import CaptionError
from t2i_engine.tokenizer import Tokenizer, split
from training.checkpoint import CheckpointError, TrainedModel, load_model
from training.models.text_to_image import TextToImage, read_model

_BIRDS = 64  # of synthbirds, with ten captions each


@dataclass(frozen=True)
class LoadedModel:
    """A model and what its bundle will say about it."""

    model: TextToImage
    """In evaluation mode, float32, on the CPU."""
    tokenizer: Tokenizer
    provenance: Mapping[str, object]
    bundle: Bundle | None = None
    """The bundle it was read from."""

    def calibration_ids(self, captions: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of `captions`; without any, of synthbirds' captions if the model was trained on synthbirds.

        Raises `CaptionError` if there are none.
        """
        if not captions:
            if "synthbirds" not in str(self.provenance.get("dataset")):
                raise CaptionError("int8 needs captions of the model's data set to calibrate: give a --captions-file")
            captions = _synthbirds_captions()
        ids = []
        for caption in captions:
            with suppress(CaptionError):  # no known word
                ids.append(self.tokenizer.encode(caption).ids)
        if not ids:
            raise CaptionError("no calibration caption has a word that the model knows; give others")
        return ids


def load_origin(origin: str) -> LoadedModel:
    """Reads a checkpoint (a file, or a name ending in .pt) or a bundle, by name or folder.

    Raises a `UserError` if it cannot be read.
    """
    if origin.endswith(".pt") or Path(origin).is_file():
        trained = load_model(Path(origin))
        return LoadedModel(trained.model, _tokenizer(trained, origin), trained.provenance)
    bundle = Bundle.open(origin)
    return LoadedModel(read_model(bundle), bundle.tokenizer(), bundle.manifest.provenance, bundle)


def _tokenizer(trained: TrainedModel, checkpoint: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer(trained.words)
    except ValueError as error:
        raise CheckpointError(f"checkpoint '{checkpoint}' has no valid vocabulary ({error}); train again") from None
    if len(tokenizer.words) != trained.model.sizes.vocabulary_size:
        raise CheckpointError(
            f"checkpoint '{checkpoint}' has {len(tokenizer.words)} words, its model "
            f"{trained.model.sizes.vocabulary_size}: they do not belong together; use another checkpoint"
        )
    if not any(split(word) == [word] for word in tokenizer.words):
        raise CheckpointError(f"checkpoint '{checkpoint}' knows no word that a caption can contain; train again")
    return tokenizer


def _synthbirds_captions() -> list[str]:
    from training.data.synthbirds import SynthBirds

    birds = SynthBirds("train", _BIRDS, 32)
    return [caption for number in range(_BIRDS) for caption in birds.captions(number)]
