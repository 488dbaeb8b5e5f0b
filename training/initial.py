"""What a run starts from: the weights of a checkpoint or a bundle, grown to larger pictures if need be.

Growing adds one block at a time, as in progressive growing (Karras et al., 2018): `base_channels` is halved and
`max_channel_multiple` doubled, so that everything before the new block stays as it is. The new layers first learn to
draw the smaller generator's pictures, enlarged; then the whole model goes on training. The discriminator is extended in
front by the mirror image of that block.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from t2i_engine.bundle import Bundle, ModelSizes
from t2i_engine.errors import UserError
from training.checkpoint import State, TrainedModel, load_model
from training.config import RunConfig
from training.data.corpus import Batches
from training.models.discriminator import Discriminator
from training.models.generator import Generator
from training.models.image_encoder import ImageEncoder
from training.models.text_to_image import TextToImage, read_model

EMBEDDING = "text_encoder.encoder.weight"
ENCODER_SIZES = ("sentence_width", "embedding_width", "vocabulary_size")
GROWING_STEPS = 300
GROWING_BATCH = 16
GROWING_RATE = 5e-3

Sentences = Callable[[int], Tensor]
"""Sentence vectors, float (B, S), of the captions of one batch, by its number."""


class InitialError(UserError):
    """Weights that do not fit the model to be trained."""


@dataclass(frozen=True)
class InitialModel:
    """A model to start from, and its vocabulary."""

    name: str
    origin: dict[str, Any]
    """The run, data and steps that it comes from, for the provenance of what is trained from it."""
    words: tuple[str, ...]
    model: TextToImage
    image_encoder: State | None
    discriminator: State | None
    encoders_only: bool = False
    """Take only vocabulary and encoders from it."""

    def knowing(self, words: Iterable[str]) -> "InitialModel":
        """The same model with its missing `words` appended to the vocabulary, with random embeddings."""
        missing = tuple(word for word in words if word not in self.words)
        model = TextToImage(replace(self.model.sizes, vocabulary_size=len(self.words) + len(missing)))
        state = self.model.state_dict()
        embedding = model.text_encoder.encoder.weight.detach().clone()
        embedding[: len(self.words)] = state[EMBEDDING]
        model.load_state_dict(state | {EMBEDDING: embedding})
        return replace(self, words=self.words + missing, model=model)

    def require_fits(self, sizes: ModelSizes) -> None:
        """Raises `InitialError`, naming how the model, once grown to their resolution, differs from `sizes`."""
        name, own = f"'{self.name}'", self.model.sizes
        if not self.encoders_only and sizes.resolution > own.resolution:
            name = f"{name}, grown to {sizes.resolution}²,"
            try:
                own = grown_sizes(own, sizes.resolution)
            except ValueError as error:
                raise InitialError(f"{name} would be too thin: {error}") from None
        found, expected = asdict(own), asdict(sizes)
        keys = ENCODER_SIZES if self.encoders_only else tuple(expected)
        differing = [f"{key} {found[key]} instead of {expected[key]}" for key in keys if found[key] != expected[key]]
        if differing:
            raise InitialError(f"{name} does not fit the config: it has {', '.join(differing)}")

    def grown(self, resolution: int, batches: Batches) -> "InitialModel":
        """The model grown to `resolution`, with new layers fitted on captions of `batches`, if it is smaller."""
        if self.encoders_only or resolution == self.model.sizes.resolution:
            return self
        encoder = self.model.text_encoder.eval()

        def sentences(number: int) -> Tensor:
            batch = batches.batch(0, number, GROWING_BATCH)
            sentence: Tensor = encoder(batch.tokens, batch.lengths).sentence
            return sentence

        return replace(self, model=grow(self.model, resolution, sentences))

    def load_model_into(self, model: TextToImage) -> None:
        """Copies text encoder and generator into a model that it fits."""
        source, target = (self.model.text_encoder, model.text_encoder) if self.encoders_only else (self.model, model)
        target.load_state_dict(source.state_dict())

    def load_auxiliary_into(self, image_encoder: ImageEncoder, discriminator: Discriminator) -> None:
        """Copies image encoder and discriminator, if it has them. Raises `InitialError` for another backbone."""
        if self.discriminator is not None and not self.encoders_only:
            discriminator.load_state_dict(grown_discriminator(self.discriminator, discriminator.state_dict()))
        if self.image_encoder is None:
            return
        try:
            image_encoder.load_state_dict(self.image_encoder)
        except RuntimeError as error:
            raise InitialError(f"'{self.name}' has another image encoder than damsm.image_encoder asks for") from error


def starting_model(config: RunConfig) -> InitialModel | None:
    """What a run starts from: a checkpoint (a .pt file) or a bundle (its name or folder); None to train from scratch.

    Raises `UserError` if it cannot be read.
    """
    path = config.init_from or config.damsm.init_from
    if path is None:
        return None
    if path.endswith(".pt"):
        trained = load_model(Path(path))
    else:
        bundle = Bundle.open(path)  # a bundle has no auxiliary networks
        provenance = {"bundle": bundle.name, **bundle.manifest.provenance}
        trained = TrainedModel(read_model(bundle), bundle.tokenizer().words, provenance)
    keys = ("bundle", "run", "dataset", "steps", "hours", "commit", "initial")
    origin = {key: trained.provenance[key] for key in keys if trained.provenance.get(key) is not None}
    if encoders_only := not config.init_from:
        origin["part"] = "encoders"
    networks = (trained.model, trained.image_encoder, trained.discriminator)
    return InitialModel(path, origin, trained.words, *networks, encoders_only)


def grown_sizes(sizes: ModelSizes, resolution: int) -> ModelSizes:
    """The sizes of a model grown to `resolution`, its own times a power of two. Raises `ValueError` if too large."""
    times = resolution // sizes.resolution
    return replace(
        sizes,
        resolution=resolution,
        base_channels=sizes.base_channels // times,
        max_channel_multiple=sizes.max_channel_multiple * times,
    )


def grow(model: TextToImage, resolution: int, sentences: Sentences) -> TextToImage:
    """A copy of the model grown to `resolution`, its own times a power of two."""
    while model.sizes.resolution < resolution:
        larger = TextToImage(grown_sizes(model.sizes, 2 * model.sizes.resolution))
        kept = {name: tensor for name, tensor in model.state_dict().items() if ".to_rgb." not in name}
        larger.load_state_dict(larger.state_dict() | kept)
        _learn_to_enlarge(larger.generator, model.generator, set(kept), sentences)
        model = larger.train(model.training)
    return model


def grown_discriminator(state: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a larger discriminator: its last blocks from `state`, everything before them from `fresh`."""
    larger, smaller = (len({name.split(".")[1] for name in part if "DBlocks" in name}) for part in (fresh, state))
    if larger == smaller:
        return dict(state)
    grown = dict(fresh)
    for name, tensor in state.items():
        part, number, *rest = name.split(".")
        if part == "DBlocks":
            name = ".".join([part, str(int(number) + larger - smaller), *rest])
        if part != "conv_img":
            grown[name] = tensor
    return grown


def _learn_to_enlarge(larger: Generator, smaller: Generator, kept: set[str], sentences: Sentences) -> None:
    """Fits those layers of `larger` that are not `kept` to the enlarged pictures of `smaller`, by least squares."""
    new = [tensor for name, tensor in larger.named_parameters() if f"generator.{name}" not in kept]
    larger.requires_grad_(False)
    for tensor in new:
        tensor.requires_grad_(True)
    optimizer = torch.optim.Adam(new, lr=GROWING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, GROWING_STEPS)
    for number in range(GROWING_STEPS):
        with torch.no_grad():
            sentence = sentences(number)
            noise = torch.randn(len(sentence), smaller.fc.in_features)
            epsilon = torch.randn_like(sentence)
            small = smaller(noise, sentence, epsilon).image
            enlarged = F.interpolate(small, scale_factor=2, mode="bilinear")
        loss = F.mse_loss(larger(noise, sentence, epsilon).image, enlarged)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    larger.requires_grad_(True)
