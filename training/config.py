"""What a training run is: one validated schema, read from YAML; its defaults are the paper's, where that gives any."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from t2i_engine.errors import UserError, quoted
from training.data.altered import ALTERATIONS
from training.data.sources import check_source
from training.losses.damsm import Smoothing
from training.models.image_encoder import BackboneName


class ConfigError(UserError):
    """A config file that cannot be read or does not fit the schema."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _power_of_two_from_32(resolution: int) -> int:
    if resolution < 32 or resolution & (resolution - 1):
        raise ValueError("a resolution is a power of two from 32: 32, 64, 128, 256")
    return resolution


NonNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Resolution = Annotated[int, AfterValidator(_power_of_two_from_32)]


class DataConfig(_Section):
    """Which pictures to train on."""

    source: Annotated[str, AfterValidator(check_source)] = "synthbirds"
    """synthbirds, cub:PATH, cub+attributes:PATH, coco:PATH, folder:PATH, webdataset:PATTERN, or a bare path."""
    pictures: PositiveInt = 20_000
    """How many synthbirds are drawn; other sources have as many as they have."""
    resolution: Resolution = 256
    max_words: PositiveInt = 18
    """Captions longer than this keep that many of their words, in order, drawn at random (AttnGAN)."""
    horizontal_flip: bool = True
    """Show half of the pictures mirrored (DF-GAN); for captions that tell left from right, switch it off."""
    crop: bool = False
    """Keep pictures 76/64 as large as `resolution`, and cut another part out of them each time (AttnGAN, DF-GAN)."""
    workers: PositiveInt = 2
    """Processes that read a webdataset. Their number is part of what a batch holds; other sources need none."""


class ModelConfig(_Section):
    """Sizes, and the switches of the contributions that live in the generator."""

    base_channels: PositiveInt = 32
    max_channel_multiple: Annotated[int, Field(ge=8)] = 8
    """Feature maps have at most this many times base_channels channels: 8 as in DF-GAN, 16 for a run that grows."""
    noise_width: PositiveInt = 100
    sentence_width: Annotated[int, Field(gt=0, multiple_of=2)] = 256
    embedding_width: PositiveInt = 300
    conditioning_augmentation: bool = True
    adaptive_block: bool = True


class DamsmConfig(_Section):
    """Pre-training of the text encoder with an image encoder (AttnGAN)."""

    steps: PositiveInt = 20_000
    batch_size: Annotated[int, Field(ge=2)] = 48
    """Of each process, where several train together."""
    image_encoder: BackboneName = "inception-v3"
    initial: str | None = None
    """A checkpoint or bundle whose words, text encoder and image encoder are taken; the GAN starts from nothing.

    So several runs can be compared that differ in the GAN alone.
    """
    retrain: bool = False
    """With initial weights: the text encoder goes on learning, and learns the words of the data that it lacks.

    Otherwise it stays as it is.
    """
    learning_rate: PositiveFloat = 2e-3
    gradient_clip: PositiveFloat = 0.25
    hard_negatives: Annotated[int, Field(ge=0, le=ALTERATIONS)] = 0
    """A picture's sentence is told from so many that nearly fit, too (data/altered.py); 0 is AttnGAN."""
    random_erasing: bool = False
    """Paint spots over half of the pictures (Random Erasing; augmentation.py), against generators that draw them."""
    gamma1: PositiveFloat = 4.0
    gamma2: PositiveFloat = 5.0
    gamma3: PositiveFloat = 10.0

    @property
    def smoothing(self) -> Smoothing:
        """The three γ as the losses take them."""
        return Smoothing(self.gamma1, self.gamma2, self.gamma3)


class ContrastiveConfig(_Section):
    """The two contrastive losses (eq. 3-5); switched off, the DAMSM image encoder plays no part in the GAN.

    The seed of the method gives no λ and no η; these are first guesses that train, not yet the result of a search.
    """

    enabled: bool = True
    text_weight: NonNegative = 0.1
    """λ1, of generated picture against caption."""
    image_weight: NonNegative = 0.1
    """λ2, of generated picture against real picture."""
    temperature: PositiveFloat = 0.2
    """η of both."""


class GanConfig(_Section):
    """Training of generator and discriminator."""

    steps: PositiveInt = 600_000
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Of each process, where several train together."""
    gradient_accumulation: PositiveInt = 1
    """So many batches make one update, for a GPU that holds too few pictures. Contrastive negatives and mismatches are
    those of one batch, of all processes."""
    generator_learning_rate: PositiveFloat = 1e-4
    discriminator_learning_rate: PositiveFloat = 4e-4
    adam_betas: tuple[Decay, Decay] = Field(default=(0.0, 0.9), strict=False)
    penalty_weight: NonNegative = 2.0
    penalty_power: PositiveFloat = 6.0
    penalty_interval: PositiveInt = 1
    """The gradient penalty is computed at every k-th step, k times as heavy; 1 is DF-GAN."""
    diffaugment: bool = False
    """Alter what the discriminator sees, real and generated (Zhao et al., 2020); for data sets of a few thousand."""
    mismatches: PositiveInt = 1
    """The discriminator meets every real picture with so many captions that do not fit, of others in the batch; 1 is
    DF-GAN. Features are computed once, so more cost little."""
    hard_negatives: Annotated[int, Field(ge=0, le=ALTERATIONS)] = 0
    """And with so many that nearly fit (data/altered.py), which are negatives of L_text, too."""
    kl_weight: NonNegative = 1.0
    contrastive: ContrastiveConfig = ContrastiveConfig()
    ema_decay: Decay = 0.999
    discriminator_initialization: Literal["dfgan", "he"] = "dfgan"
    """he: residuals that can be heard from the first step on (models/discriminator.py); for runs of thousands of steps,
    not hundreds of thousands."""
    discriminator_warmup: Annotated[int, Field(ge=0)] = 0
    """The first steps, so many, teach the discriminator alone: a new one would spoil a generator that was given."""


class FidConfig(_Section):
    """FID of the averaged generator against the test split while the GAN trains; the best one is kept as best.pt."""

    every: Annotated[int, Field(ge=0)] = 0
    """Measured at every so many steps, and at the end; 0: never."""
    pictures: Annotated[int, Field(ge=2)] = 5_000
    """So many are drawn, as `t2i-engine evaluate --count` does. FID grows as they become fewer."""


class RunConfig(_Section):
    """A whole run: data, model, the two phases, and how it is computed and recorded."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    damsm: DamsmConfig = DamsmConfig()
    gan: GanConfig = GanConfig()
    initial: str | None = None
    """A checkpoint or bundle to start from; `--init` on the command line."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """bf16, fp16: autocast; weights, optimiser and losses stay in fp32, and fp16 scales the losses (GradScaler).

    auto: bf16, where the device multiplies in it.
    """
    compile: bool = False
    """Compile the networks of the GAN (torch.compile): minutes at the start, faster steps afterwards."""
    folded: bool = True
    """Train with the folded form of upsample + convolution (models/fold.py): the same function, faster."""
    checkpoint_every: PositiveInt = 500
    keep_checkpoints: Annotated[int, Field(ge=0)] = 0
    """So many of the last checkpoints are kept under their numbers, besides checkpoint.pt."""
    sample_every: PositiveInt = 500
    sample_captions: tuple[str, ...] = Field(default=("a yellow bird",), strict=False, min_length=1)
    """The captions of the sample grids, one row each."""
    fid: FidConfig = FidConfig()

    @model_validator(mode="after")
    def _start_from_one(self) -> Self:
        if self.initial and self.damsm.initial:
            raise ValueError("initial brings encoders, and so does damsm.initial; leave one of them out")
        return self


def load_config(path: Path, assignments: Sequence[str] = ()) -> RunConfig:
    """Reads and checks a YAML config, changed by `assignments` such as gan.steps=1000, whose values are YAML, too.

    Raises `ConfigError` naming the key, and the nearest one that exists.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date that is none
        reason = " ".join(str(error).split())
        raise ConfigError(f"config '{path}' cannot be read: {reason}; it should be a YAML file") from error
    if isinstance(content, dict):
        for assignment in assignments:
            _assign(content, assignment)
    return parse_config(content, " ".join([str(path), *(f"--set {assignment}" for assignment in assignments)]))


def _assign(content: dict[Any, Any], assignment: str) -> None:
    """Makes `a.b=c` so in the content of a config; whether there is such a key is for the schema to say."""
    keys, equals, text = assignment.partition("=")
    *sections, last = keys.strip().split(".")
    try:
        value = yaml.load(text, _Loader)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"--set {quoted(assignment)}: its value is not YAML ({' '.join(str(error).split())})"
        ) from None
    if not equals or not all((*sections, last)):
        raise ConfigError(f"--set {quoted(assignment)} cannot be read; KEY=VALUE expected, such as gan.steps=1000")
    for section in sections:
        inner = content.get(section)
        content[section] = content = dict(inner) if isinstance(inner, dict) else {}
    content[last] = value


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, to which 2e-4 is a number as it is in YAML 1.2; to YAML 1.1 it is a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_config(content: object, origin: str) -> RunConfig:
    """Checks the content of a config; `origin` names it in errors. Raises `ConfigError`."""
    if not isinstance(content, dict):
        raise ConfigError(f"config '{origin}' holds {type(content).__name__}; it should be a mapping of keys")
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_explain(detail["loc"], detail["msg"], detail["type"]) for detail in error.errors())
        raise ConfigError(f"config '{origin}': {problems}") from error


def _explain(location: tuple[int | str, ...], message: str, kind: str) -> str:
    key = ".".join(str(part) for part in location)
    if kind != "extra_forbidden":
        return f"{key}: {message[0].lower()}{message[1:]}" if key else message.removeprefix("Value error, ")
    section: type[BaseModel] = RunConfig
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        section = annotation
    known = list(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"unknown key {key}; " + (f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}")
