"""What a run starts from: the weights of a checkpoint or a bundle, grown to larger pictures if need be; or a state.

A run that starts from a state (state.py) of its own name is the same run, continued after the state's steps.

Growing adds one block at a time, as in progressive growing (Karras et al., 2018): `base_channels` is halved and
`max_channel_multiple` doubled, so that everything before the new block stays as it is. The new layers first learn to
draw the smaller generator's pictures, enlarged; then the whole model goes on training. The discriminator is extended in
front by the mirror image of that block; one on pretrained features, which sees at least 128², starts with fresh heads
if it sees more.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2i_engine.bundle import Bundle
from t2i_engine.errors import UserError
from t2i_engine.manifest import ModelSizes
from t2i_engine.tokenizer import pad
from training.checkpoint import State, TrainedModel, load_learned, load_model
from training.config import RunConfig
from training.data.corpus import Batches
from training.models.generator import Generator
from training.models.text_to_image import TextToImage, read_model
from training.provenance import Segment, segments_of
from training.state import SUFFIX, is_trained, load_state

EMBEDDING = "text_encoder.encoder.weight"
ENCODER_SIZES = ("sentence_width", "embedding_width", "vocabulary_size")
GROWING_STEPS = 300
GROWING_BATCH = 16
"""Pictures per batch that a model is grown with."""
GROWING_RATE = 5e-3

Sentences = Callable[[], Tensor]
"""Sentence vectors, float (B, S), of the captions of the next batch."""


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
    generator: State | None = None
    """The generator's weights in training, of a state; `model` has their moving average."""
    steps: dict[str, int] = field(default_factory=dict)
    """Completed steps of each phase, of a state; empty for a run that starts at 0."""
    segments: list[Segment] = field(default_factory=list)
    """The segments of a state's run so far."""
    plan: dict[str, Any] = field(default_factory=dict)
    """The fields of a state's `Plan`."""

    @property
    def seconds(self) -> float:
        """How long a state's run had taken."""
        return sum(3600 * float(segment["hours"]) for segment in self.segments)

    def may_know(self, dataset: Mapping[str, Any]) -> bool:
        """Whether it, or what it started from, may have learnt pictures that a run on `dataset` holds out.

        It cannot if it held out the same pictures, or was trained on other data.
        """
        run: Mapping[str, Any] = self.origin
        while run:
            before = run.get("dataset")
            if (
                isinstance(before, Mapping)
                and before.get("version") == dataset["version"]
                and before.get("validation") != dataset["validation"]
            ):
                return True
            run = run.get("initial") or {}
        return False

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
        grows = not (self.encoders_only or self.steps)
        cure = "; a state continues its own model only" if self.steps else ""
        require_sizes(self.name, self.model.sizes, sizes, grows, ENCODER_SIZES if self.encoders_only else (), cure)

    def grown(self, resolution: int, batches: Batches) -> "InitialModel":
        """The model grown to `resolution`, with new layers fitted on captions of `batches`, if it is smaller."""
        if self.encoders_only or resolution == self.model.sizes.resolution:
            return self
        encoder = self.model.text_encoder.eval()
        batches.require(GROWING_BATCH)
        drafts = batches.drafts(0, 0, GROWING_BATCH)

        def sentences() -> Tensor:
            tokens, lengths = map(torch.from_numpy, pad(next(drafts).ids))
            sentence: Tensor = encoder(tokens, lengths).sentence
            return sentence

        return replace(self, model=grow(self.model, resolution, sentences))

    def load_model_into(self, model: TextToImage) -> None:
        """Copies text encoder and averaged generator into a model that it fits."""
        source, target = (self.model.text_encoder, model.text_encoder) if self.encoders_only else (self.model, model)
        target.load_state_dict(source.state_dict())

    def load_auxiliary_into(self, image_encoder: nn.Module, discriminator: nn.Module, fresh: bool) -> bool:
        """Copies image encoder and discriminator, if it has them; ImageNet networks that it lacks stay as they are.

        Returns whether it has a discriminator of another kind, which is left out if one may start `fresh`. Raises
        `InitialError` for another backbone, and otherwise for another discriminator.
        """
        if self.image_encoder is not None:
            self._load(image_encoder, self.image_encoder, "image encoder than damsm.image_encoder asks for")
        if self.discriminator is None or self.encoders_only:
            return False
        target = discriminator.state_dict()
        other = not self.discriminator.keys() & target.keys()
        if other and fresh and not self.steps:
            return True
        what = "discriminator than gan.discriminator asks for"
        if other and not self.steps:
            what += ", and gan.discriminator_warmup is 0"
        self._load(discriminator, grown_discriminator(self.discriminator, target), what)
        return False

    def _load(self, network: nn.Module, state: Mapping[str, Tensor], other: str) -> None:
        try:
            load_learned(network, state)
        except RuntimeError as error:
            raise InitialError(
                f"'{self.name}' has another {other}; set that key as its run did, or start from a bundle of it"
            ) from error


def starting_model(config: RunConfig) -> InitialModel | None:
    """What a run starts from; None to train from scratch.

    A file that ends in .safetensors is a state, one in .pt a checkpoint; anything else is a bundle's name or folder.
    Raises `UserError` if it cannot be read.
    """
    path = config.init_from or config.damsm.init_from
    if path is None:
        return None
    encoders_only = not config.init_from
    state = load_state(Path(path)) if is_trained(path) and path.endswith(SUFFIX) else None
    if state:
        trained = state.trained
    elif is_trained(path):
        trained = load_model(Path(path))
    else:
        bundle = Bundle.open(path)  # a bundle has no auxiliary networks
        provenance = {"bundle": bundle.name, **bundle.manifest.provenance}
        trained = TrainedModel(read_model(bundle), bundle.tokenizer().words, provenance)
    keys = ("bundle", "run", "dataset", "config", "steps", "hours", "segments", "commit", "initial")
    origin = {key: trained.provenance[key] for key in keys if trained.provenance.get(key) is not None}
    if encoders_only:
        origin["part"] = "encoders"
    networks = (trained.model, trained.image_encoder, trained.discriminator)
    model = InitialModel(path, origin, trained.words, *networks, encoders_only)
    if state is None or encoders_only or not state.steps or origin.get("run") != config.name:
        return model  # weights only
    if (reached := state.steps.get("gan", 0)) >= config.gan.steps:
        raise InitialError(f"'{path}' is after step {reached:,} of the GAN; raise gan.steps to continue it")
    return replace(
        model,
        generator=state.generator,
        steps=state.steps,
        segments=segments_of(trained.provenance),
        plan=state.plan,
    )


def require_sizes(
    name: str, own: ModelSizes, sizes: ModelSizes, grows: bool = True, keys: Sequence[str] = (), cure: str = ""
) -> None:
    """Raises `InitialError`, naming how a model of `own` sizes, grown to larger pictures if it `grows`, differs.

    Compares `keys`, all if there are none; `cure` ends the message.
    """
    name = f"'{name}'"
    if grows and sizes.resolution > own.resolution:
        name = f"{name}, grown to {sizes.resolution}²,"
        try:
            own = grown_sizes(own, sizes.resolution)
        except ValueError as error:
            raise InitialError(f"{name} would be too thin: {error}") from None
    found, expected = asdict(own), asdict(sizes)
    differing = [
        f"{key} {found[key]} instead of {expected[key]}" for key in keys or expected if found[key] != expected[key]
    ]
    if differing:
        raise InitialError(f"{name} does not fit the config: it has {', '.join(differing)}{cure}")


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
    """The state of a larger discriminator: its last blocks from `state`, everything before them from `fresh`.

    One on pretrained features has heads instead: those that see larger maps are deeper, and fresh.
    """
    larger, smaller = (len({name.split(".")[1] for name in part if "DBlocks" in name}) for part in (fresh, state))
    if larger == smaller or not (larger and smaller):
        return _with_fresh_heads(state, fresh)
    grown = dict(fresh)
    for name, tensor in state.items():
        part, number, *rest = name.split(".")
        if part == "DBlocks":
            name = ".".join([part, str(int(number) + larger - smaller), *rest])
        if part != "conv_img":
            grown[name] = tensor
    return grown


def _with_fresh_heads(state: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with those heads of `fresh` that differ in depth from its own."""
    kept = dict(state)
    for head in {name.split(".")[1] for name in fresh if name.startswith("heads.")}:
        own, new = ({n: t for n, t in one.items() if n.startswith(f"heads.{head}.")} for one in (state, fresh))
        if own and own.keys() != new.keys():
            kept = {name: tensor for name, tensor in kept.items() if name not in own} | new
    return kept


def _learn_to_enlarge(larger: Generator, smaller: Generator, kept: set[str], sentences: Sentences) -> None:
    """Fits those layers of `larger` that are not `kept` to the enlarged pictures of `smaller`, by least squares."""
    new = [tensor for name, tensor in larger.named_parameters() if f"generator.{name}" not in kept]
    larger.requires_grad_(False)
    for tensor in new:
        tensor.requires_grad_(True)
    optimizer = torch.optim.Adam(new, lr=GROWING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, GROWING_STEPS)
    for _ in range(GROWING_STEPS):
        with torch.no_grad():
            sentence = sentences()
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
