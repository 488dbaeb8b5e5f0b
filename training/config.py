"""The config of a training run: a validated schema, read from YAML. Defaults are the paper's wherever it gives a value.

The text under each field is what users read: docs/training.md's reference is generated from it.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
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
from t2i_engine.manifest import ModelSizes
from t2i_engine.migration import OLD_KEYS
from training.data.source import MAX_HARD_NEGATIVES, check_source
from training.models.image_encoder import BackboneName


class ConfigError(UserError):
    """A config that cannot be read or does not fit the schema."""


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _power_of_two_from_32(resolution: int) -> int:
    if not 32 <= resolution <= 4096 or resolution & (resolution - 1):  # as in a bundle, before pictures are rendered
        raise ValueError("a resolution must be a power of two from 32 to 4096: 32, 64, 128, 256, …")
    return resolution


NonNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Resolution = Annotated[int, AfterValidator(_power_of_two_from_32)]


class DataConfig(_Section):
    """The training data and how pictures and captions enter a batch."""

    source: Annotated[str, AfterValidator(check_source)] = "synthbirds"
    """`synthbirds`, `cub:PATH`, `coco:PATH`, `folder:PATH`, `webdataset:PATTERN`, `packed:DIR`, or a bare path, which
    is recognised by what it holds."""
    synthbirds_count: PositiveInt = 20_000
    """Number of synthbirds to draw for training; ignored for other sources."""
    resolution: Resolution = 256
    """Height and width of the pictures in pixels: a power of two from 32 to 4096."""
    validation_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the training split to hold out, for `fid.every` to choose the best checkpoint by: of the classes in CUB,
    of the shards in a webdataset, of the pictures elsewhere."""
    max_words: PositiveInt = 18
    """DAMSM cuts longer captions to this many words, sampled at random and kept in order (AttnGAN); the GAN reads
    captions whole."""
    horizontal_flip: bool = True
    """Mirror each picture with probability 1/2 (DF-GAN). Switch off if captions mention left and right."""
    random_crop: bool = False
    """Load pictures at 76/64 of `resolution` and crop them at random (AttnGAN, DF-GAN)."""
    num_workers: PositiveInt = 2
    """Processes per rank that read a webdataset; other sources need none. The order of the batches depends on it."""
    on_device: bool | Literal["auto"] = "auto"
    """Keep all pictures in the GPU's memory, as uint8. `auto`: if they take at most half of what is free. A webdataset
    is streamed and cannot."""


class ModelConfig(_Section):
    """Sizes of the networks, and the generator's two contributions."""

    base_channels: PositiveInt = 32
    """Channels of the feature maps at full resolution (DF-GAN's nf). They double with every halving of the
    resolution, up to `max_channel_multiple`."""
    max_channel_multiple: Annotated[int, Field(ge=8)] = 8
    """Most channels of a feature map, as a multiple of `base_channels`: 8 in DF-GAN. Growing a model to twice its
    resolution halves `base_channels` and doubles this."""
    noise_width: PositiveInt = 100
    """Dimensions of the noise vector (Z)."""
    sentence_width: Annotated[int, Field(gt=0, multiple_of=2)] = 256
    """Dimensions of the sentence vector (S), half from each direction of the LSTM; even."""
    embedding_width: PositiveInt = 300
    """Dimensions of the word embeddings."""
    conditioning_augmentation: bool = True
    """Sample the condition from a Gaussian around the sentence vector (StackGAN). Off in DF-GAN."""
    adaptive_block: bool = True
    """Reweight the sentence vector by the feature map before every block of the generator. Off in DF-GAN."""


class DamsmConfig(_Section):
    """DAMSM: pre-training of the text encoder together with an image encoder (AttnGAN)."""

    steps: PositiveInt = 20_000
    """Training steps; the cosine learning-rate schedule ends with the last."""
    batch_size: Annotated[int, Field(ge=2)] = 48
    """Pictures per step and process."""
    image_encoder: BackboneName = "inception-v3"
    """Backbone of the image encoder: `inception-v3` (the paper's, ImageNet weights, downloaded once),
    `efficientnet-lite0` (ImageNet weights, installed with the package), or `cnn` (small, trained from scratch)."""
    init_from: str | None = None
    """Checkpoint or bundle to take vocabulary, text encoder and image encoder from; the GAN trains from scratch.
    For comparing runs that differ in the GAN alone."""
    finetune: bool = False
    """Keep training a text encoder loaded with `--init` or `init_from`, and add the data's missing words to its
    vocabulary. Otherwise it stays frozen."""
    learning_rate: PositiveFloat = 2e-3
    """Initial learning rate of Adam; decays to 0 along a cosine."""
    gradient_clip: PositiveFloat = 0.25
    """Largest norm of the text encoder's gradient."""
    word_weight: NonNegative = 1.0
    """Weight of the word loss. 1 in AttnGAN; 0 leaves it out, which halves the time of a step of `birds.yaml`. Nothing
    after DAMSM reads word features."""
    hard_negatives: Annotated[int, Field(ge=0, le=MAX_HARD_NEGATIVES)] = 0
    """Hard negatives per picture in the sentence loss: its own caption with colours or parts swapped. 0 in AttnGAN.
    Only synthbirds can make them."""
    random_erasing: bool = False
    """Paint rectangles of random colours over half of the pictures (Zhong et al., 2020). Keeps the generator from
    pleasing the image encoder with blobs of colour."""
    gamma1: PositiveFloat = 4.0
    """γ1: sharpness of the attention over image regions. AttnGAN: 4 for CUB and COCO."""
    gamma2: PositiveFloat = 5.0
    """γ2: weight of the best-matching words in a caption's similarity. AttnGAN: 5."""
    gamma3: PositiveFloat = 10.0
    """γ3: inverse temperature of the softmax over the batch. AttnGAN: 10."""


class ContrastiveConfig(_Section):
    """The contrastive losses L_text and L_img (eq. 3-5). Without them, the GAN needs no image encoder.

    The paper gives neither λ nor η; in a small search on CUB, no other values lowered FID.
    """

    enabled: bool = True
    """Add both losses to the generator's."""
    text_weight: NonNegative = 0.1
    """λ1: weight of L_text, generated picture against caption."""
    image_weight: NonNegative = 0.1
    """λ2: weight of L_img, generated picture against real picture."""
    temperature: PositiveFloat = 0.2
    """η: softmax temperature of both losses."""
    image_temperature: PositiveFloat | None = None
    """Another η for L_img. A picture shows more than its caption says, such as the pose, and at a low temperature the
    generator has to guess that."""


class GanConfig(_Section):
    """Training of generator and discriminator."""

    steps: PositiveInt = 600_000
    """Training steps, one update of each network per step."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Pictures per batch and process."""
    gradient_accumulation: PositiveInt = 1
    """Batches per update, for GPUs that cannot hold a larger batch. Negatives and mismatched captions come from
    a single batch, across all processes."""
    generator_learning_rate: PositiveFloat = 1e-4
    """Learning rate of the generator's Adam."""
    discriminator_learning_rate: PositiveFloat = 4e-4
    """Learning rate of the discriminator's Adam."""
    adam_betas: tuple[Decay, Decay] = Field(default=(0.0, 0.9), strict=False)
    """β1 and β2 of both optimizers."""
    gradient_penalty_weight: NonNegative = 2.0
    """Weight k of the matching-aware gradient penalty k · E[‖∇D‖^p] (DF-GAN, eq. 8); 0 switches it off."""
    gradient_penalty_power: PositiveFloat = 6.0
    """Exponent p of the gradient penalty."""
    gradient_penalty_interval: PositiveInt = 1
    """Compute the gradient penalty every N steps, with N times the weight (lazy regularization, StyleGAN2). 1 in
    DF-GAN."""
    diffaugment: bool = False
    """DiffAugment (Zhao et al., 2020): augment what the discriminator sees. For small data sets, of a few thousand
    pictures."""
    mismatches: PositiveInt = 1
    """Mismatched captions per real picture, taken from the rest of the batch. 1 in DF-GAN; more cost little because
    image features are computed once."""
    hard_negatives: Annotated[int, Field(ge=0, le=MAX_HARD_NEGATIVES)] = 0
    """Hard negatives per picture: its own caption with colours or parts swapped, as further mismatched captions of the
    discriminator and further negatives of L_text. Only synthbirds can make them."""
    kl_weight: NonNegative = 1.0
    """Weight of conditioning augmentation's KL divergence."""
    contrastive: ContrastiveConfig = ContrastiveConfig()
    ema_decay: Decay = 0.999
    """Decay per step of the generator's moving average, which is what gets exported. The n-th update has n/(n + 9) if
    that is less, so that a short run's average does not remember its start."""
    discriminator: Literal["dfgan", "projected"] = "dfgan"
    """`dfgan`: learns to see from scratch. `projected`: small discriminators on the features of a frozen ImageNet
    network (Projected GAN), without a gradient penalty; learns shapes far sooner."""
    discriminator_initialization: Literal["dfgan", "he"] = "dfgan"
    """`dfgan`: PyTorch's default convolutions and residual branches that start at 0. `he`: He et al.'s convolutions
    and residual branches active from step 1, for runs of thousands of steps rather than hundreds of thousands."""
    discriminator_warmup: Annotated[int, Field(ge=0)] = 0
    """Initial steps that train the discriminator alone, so that a new one does not spoil a pretrained generator."""

    def average_decay(self, update: int) -> float:
        """The decay of the generator's average at its `update`-th update, counted from 0, which starts it anew."""
        return min(self.ema_decay, update / (update + 9))

    def penalised(self, number: int) -> bool:
        """Whether step `number` computes the gradient penalty."""
        wanted = self.discriminator == "dfgan" and self.gradient_penalty_weight > 0
        return wanted and number % self.gradient_penalty_interval == 0


class FidConfig(_Section):
    """FID of the averaged generator during GAN training, against the pictures that `data.validation_share` holds out;
    the best checkpoint is kept as best.pt. The test split is left to `t2i-engine evaluate`.
    """

    every: Annotated[int, Field(ge=0)] = 0
    """Measure every N steps, and after the last; 0: never."""
    count: Annotated[int, Field(ge=2)] = 5_000
    """Pictures to generate for captions of the held-out pictures. The fewer, the higher FID gets."""


class RunConfig(_Section):
    """A whole run: data, model, both training phases, and how it is computed and logged."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Name of the run, and of its folder in runs/: lower-case letters, digits and hyphens."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    damsm: DamsmConfig = DamsmConfig()
    gan: GanConfig = GanConfig()
    init_from: str | None = None
    """Checkpoint, state or bundle to start from, the same as `--init`. A smaller model is grown to
    `data.resolution`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of all randomness: initial weights, batches, noise and augmentation."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast precision. Weights, optimizers and losses stay in fp32; fp16 scales the losses (GradScaler). `auto`:
    bf16 where the device has instructions for it, otherwise fp32."""
    compile: bool = False
    """Compile the GAN's networks with torch.compile: minutes at the start, then faster steps."""
    cuda_graph: bool = True
    """On a GPU, replay the steps of the GAN as CUDA graphs, without waiting for Python. Not in fp16 or with several
    processes."""
    folded: bool = True
    """Train with upsampling folded into the following convolution: the same function, faster."""
    checkpoint_every: PositiveInt = 500
    """Save checkpoint.pt every N steps, and after the last."""
    keep_checkpoints: Annotated[int, Field(ge=0)] = 0
    """Also keep the last N checkpoints, numbered, in checkpoints/."""
    sample_every: PositiveInt = 500
    """Draw a sample grid every N steps of the GAN, and after the last."""
    sample_captions: tuple[str, ...] = Field(default=("a yellow bird",), strict=False, min_length=1)
    """Captions of the sample grids, one row each."""
    fid: FidConfig = FidConfig()
    stages: tuple[dict[str, Any], ...] = Field(default=(), strict=False)
    """Runs that come first, in order: each has a `name`, and the keys that differ from this config. Every run starts
    from the weights of the one before; this config's own comes last."""

    @model_validator(mode="after")
    def _one_initial_model(self) -> Self:
        if self.init_from and self.damsm.init_from:
            raise ValueError("init_from already brings the encoders of damsm.init_from; remove one of them")
        return self

    @model_validator(mode="after")
    def _fid_on_what_is_held_out(self) -> Self:
        if self.fid.every and not self.data.validation_share:
            raise ValueError(
                "fid.every chooses the best checkpoint by pictures held out of training, and there are none; "
                "set data.validation_share, to 0.1 for example"
            )
        return self


def load_config(path: Path, assignments: Sequence[str] = ()) -> RunConfig:
    """Reads and validates a YAML config, overridden by `assignments` such as gan.steps=1000, whose values are YAML too.

    Raises `ConfigError`, naming the faulty key and the closest valid one.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a bad date
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"config '{path}' cannot be read ({reason}); expected a YAML file") from error
    if isinstance(content, dict):
        for assignment in assignments:
            _assign(content, assignment)
    return parse_config(content, " ".join([str(path), *(f"--set {assignment}" for assignment in assignments)]))


def _assign(content: dict[Any, Any], assignment: str) -> None:
    """Applies `a.b=c` to the content of a config; the schema decides later whether that key exists."""
    keys, equals, text = assignment.partition("=")
    *sections, last = keys.strip().split(".")
    try:
        value = yaml.load(text, _Loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"--set {quoted(assignment)}: the value is not YAML ({' '.join(str(error).split())})"
        ) from None
    if not equals or not all((*sections, last)):
        raise ConfigError(f"--set {quoted(assignment)} cannot be read; expected KEY=VALUE, such as gan.steps=1000")
    for section in sections:
        inner = content.get(section)
        content[section] = content = dict(inner) if isinstance(inner, dict) else {}
    content[last] = value


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, reading 2e-4 as a number, as YAML 1.2 does; to YAML 1.1 it is a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_config(content: object, origin: str) -> RunConfig:
    """Validates the content of a config; errors name it `origin`. Raises `ConfigError`."""
    if not isinstance(content, dict):
        raise ConfigError(f"config '{origin}' holds {type(content).__name__}; expected a mapping of keys")
    try:
        config = RunConfig.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_explain(detail["loc"], detail["msg"], detail["type"]) for detail in error.errors())
        raise ConfigError(f"config '{origin}': {problems}") from error
    staged(config, origin)  # fail now, not when a stage starts
    return config


def staged(config: RunConfig, origin: str = "") -> tuple[RunConfig, ...]:
    """The runs that a config describes, in order: its stages, then its own. Only the first has an initial model.

    Raises `ConfigError`, which names the config `origin`.
    """
    origin = origin or config.name
    own = config.model_dump(exclude={"stages"})
    later = _merged(own, {"init_from": None, "damsm": {"init_from": None}})
    runs: list[RunConfig] = []
    for number, overrides in enumerate(config.stages, 1):
        where = f"{origin}, stage {number}"
        if "stages" in overrides:
            raise ConfigError(f"config '{where}': a stage cannot have stages; list all of them in order")
        run = parse_config(_merged(later if runs else own, overrides), where)
        if runs and (run.init_from or run.damsm.init_from):
            raise ConfigError(f"config '{where}': it starts from the stage before; remove init_from")
        runs.append(run)
    names = [run.name for run in (*runs, config)]
    if len(set(names)) < len(names):
        raise ConfigError(f"config '{origin}': stages need names of their own; these runs are {', '.join(names)}")
    if not runs:
        return (config,)
    damsm = config.damsm.model_copy(update={"init_from": None})
    return (*runs, config.model_copy(update={"init_from": None, "damsm": damsm}))


def _merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with its sections overridden key by key."""
    nested = {
        key: _merged(base[key], value) if isinstance(value, Mapping) and isinstance(base.get(key), Mapping) else value
        for key, value in overrides.items()
    }
    return {**base, **nested}


def configured(config: Path, initial: str | None, assignments: Sequence[str]) -> RunConfig:
    """A config file, overridden by the command line. Raises `ConfigError`."""
    settings = load_config(config, assignments)
    return parse_config(settings.model_dump() | {"init_from": initial}, f"--init {initial}") if initial else settings


def model_sizes(config: RunConfig, vocabulary_size: int) -> ModelSizes:
    """The sizes of the model that a run trains. Raises `ConfigError` if a bundle cannot have them."""
    try:
        return ModelSizes(
            resolution=config.data.resolution, vocabulary_size=vocabulary_size, **config.model.model_dump()
        )
    except ValueError as error:
        raise ConfigError(f"config '{config.name}': {error}") from error


def _explain(location: tuple[int | str, ...], message: str, kind: str) -> str:
    key = ".".join(str(part) for part in location)
    if kind != "extra_forbidden":
        return f"{key}: {message[0].lower()}{message[1:]}" if key else message.removeprefix("Value error, ")
    if key in OLD_KEYS:
        return f"unknown key {key}; it is called {OLD_KEYS[key]} now"
    section: Any = RunConfig
    for part in location[:-1]:
        section = section.model_fields[part].annotation
    known = list(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    section_key = key.removesuffix(str(location[-1]))
    return f"unknown key {key}; " + (
        f"did you mean {section_key}{near[0]}?" if near else f"known keys: {', '.join(known)}"
    )
