"""A training run: DAMSM, then the GAN, checkpointed so that a kill loses minutes and a resume loses nothing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from t2i_engine.bundle import ModelSizes
from t2i_engine.errors import MissingExtra
from t2i_engine.sampler import Sampler
from t2i_engine.tokenizer import Tokenizer
from training import distributed
from training.checkpoint import not_finite, save_checkpoint
from training.config import ConfigError, RunConfig, load_config, parse_config
from training.damsm import DamsmTrainer
from training.data.loading import TrainingData, load_training_data
from training.data.source import summary
from training.distributed import joined, world
from training.gan import GanTrainer
from training.initial import InitialModel, starting_model
from training.models.text_to_image import TextToImage
from training.progress import Progress
from training.provenance import describe_run
from training.run_folder import RunFolder, RunFolderError
from training.sampling import network_sampler, save_sample_grid
from training.schedule import Actions, Position, Schedule

if TYPE_CHECKING:
    from training.periodic_fid import PeriodicFid


@dataclass(frozen=True)
class Plan:
    """What is trained, decided at a run's first start; a resumed run keeps to it."""

    train_text_encoder: bool
    train_image_encoder: bool
    initial: dict[str, Any] | None
    """Where the weights come from that the run began with."""

    @classmethod
    def of(cls, config: RunConfig, initial: InitialModel | None) -> "Plan":
        """A given text encoder stays as it is, unless it is to be retrained; DAMSM then trains an image encoder for it
        where one is needed.
        """
        if initial is None or config.damsm.retrain:
            return cls(True, True, initial.origin if initial else None)
        needed = config.gan.contrastive.enabled and initial.judges.image_encoder is None
        return cls(False, needed, initial.origin)


def train(config: RunConfig, folder: RunFolder, progress: Progress, initial: InitialModel | None = None) -> None:
    """Trains into `folder` from where it stands, first the DAMSM encoders, then generator and discriminator.

    `initial` gives words, text encoder and generator to start from (see `Plan`). Everything is checked before the
    folder is written to. Raises `UserError`: of the config, the data, or `DivergedError`.
    """
    torch.manual_seed(config.seed)
    device = distributed.device()
    stored = folder.load_checkpoint()
    data = _load_data(config, progress)
    if initial and config.damsm.retrain:
        initial = initial.knowing(data.words())
    tokenizer = Tokenizer(stored["words"] if stored else initial.words if initial else data.words())
    corpus = data.batches(tokenizer)
    corpus.require(max(config.damsm.batch_size, config.gan.batch_size) * world())  # now, not after the first phase
    model = TextToImage(model_sizes(config, len(tokenizer.words)))
    plan = Plan(**stored["state"]["plan"]) if stored else Plan.of(config, initial)
    damsm = DamsmTrainer(config, corpus, model.text_encoder, device, plan.train_text_encoder, stored is None)
    if initial:
        initial.require_fits(model.sizes)
        initial = initial.grown(config.data.resolution, corpus)
        initial.load_model_into(model)  # before the trainer copies its generator for the average
    gan = GanTrainer(config, corpus, damsm.text_encoder, damsm.image_encoder, model.generator, device)
    if initial:
        initial.load_judges_into(damsm.image_encoder, gan.discriminator)
    position = Position(steps={"damsm": 0, "gan": 0}, seconds=0.0, losses={}, recent=[])
    if stored:
        folder.require_checkpoint_of(stored["provenance"], config)
        _require_as_many_processes(folder, stored["provenance"].get("processes", 1))
        _require_same_data(folder, stored["provenance"]["dataset"], data.describe())
        position = Position(**stored["state"]["position"])
        damsm.load_state(stored["state"]["damsm"])
        gan.load_state(stored["state"]["gan"])

    def save(path: Path) -> list[str]:
        state = {"plan": asdict(plan), "position": asdict(position), "damsm": damsm.state(), "gan": gan.state()}
        if broken := not_finite(state):
            return broken
        provenance = describe_run(config, data.describe(), asdict(position), plan.initial) | {"processes": world()}
        save_checkpoint(path, model.sizes, tokenizer.words, gan.exported(), provenance, state)
        return []

    sampler = network_sampler(model.sizes, tokenizer, gan.text_encoder, gan.averaged_generator)

    def sample(path: Path) -> None:
        save_sample_grid(path, config.sample_captions, sampler)

    for caption in config.sample_captions:
        tokenizer.encode(caption)  # a caption that cannot be drawn is an error now, not at the first sample
    fid = None
    if config.fid.every and folder.writes:
        fid = _periodic_fid(config, sampler, device, progress)
    folder.begin(config)  # no other process is still looking whether it is new: they met in making the trainers
    schedule = Schedule(config, folder, progress, position, Actions(save, sample, fid.measure if fid else None))
    if plan.train_image_encoder:
        schedule.run("damsm", damsm, config.damsm.steps, config.damsm.batch_size * world())
    gan.freeze_encoders()
    schedule.run("gan", gan, config.gan.steps, config.gan.batch_size * config.gan.gradient_accumulation * world())


@joined()
def train_files(
    config: Path, out: Path | None, resume: bool, initial: str | None, assignments: Sequence[str] = ()
) -> Path:
    """Trains what a config file asks for, by default into runs/NAME; returns the checkpoint.

    `assignments` change the config (`load_config`). Raises `UserError`, and `Interrupted` after Ctrl-C.
    """
    settings = configured(config, initial, assignments)
    folder = RunFolder(out or Path("runs") / settings.name)
    if resume:
        settings = folder.resumed(settings)
    else:
        folder.require_new()
    # A checkpoint holds all that the run took from its initial model, which may be gone by now.
    start = None if folder.checkpoint.exists() else starting_model(settings)
    try:
        with Progress() as progress:
            train(settings, folder, progress, start)
    except OSError as error:
        raise RunFolderError(
            f"{error.filename or folder.path}: {error.strerror or error}; mend that, and go on with --resume"
        ) from error
    return folder.checkpoint


def configured(config: Path, initial: str | None, assignments: Sequence[str]) -> RunConfig:
    """The settings of a config file and the command line together. Raises `ConfigError`."""
    settings = load_config(config, assignments)
    return parse_config(settings.model_dump() | {"initial": initial}, f"--init {initial}") if initial else settings


def model_sizes(config: RunConfig, vocabulary_size: int) -> ModelSizes:
    """The sizes of the model that a run trains. Raises `ConfigError` where they are beyond what a bundle may have."""
    try:
        return ModelSizes(
            resolution=config.data.resolution, vocabulary_size=vocabulary_size, **config.model.model_dump()
        )
    except ValueError as error:
        raise ConfigError(f"config '{config.name}': {error}") from error


def _require_as_many_processes(folder: RunFolder, before: int) -> None:
    if before != world():
        raise RunFolderError(
            f"'{folder.path}' was trained by {before} processes, which share out its batches, not by {world()}; "
            "start as many, or begin another run from its weights with --init"
        )


def _require_same_data(folder: RunFolder, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise RunFolderError(
            f"'{folder.path}' was trained on other data ({', '.join(changed)} differ); "
            "begin another run, from its weights with --init if they are wanted"
        )


def _periodic_fid(config: RunConfig, sampler: Sampler, device: torch.device, progress: Progress) -> "PeriodicFid":
    try:
        from training.periodic_fid import PeriodicFid
    except ModuleNotFoundError as error:
        raise MissingExtra("fid.every", f"the package {error.name}", "evaluate") from None
    return PeriodicFid(config, sampler, device, progress)


def _load_data(config: RunConfig, progress: Progress) -> TrainingData:
    data = load_training_data(
        config.data, lambda count: progress.start("pictures", count), lambda done: progress.report(done, {})
    )
    if data.problems:
        progress.note(f"left out of {config.data.source}: {summary(data.problems)}; t2i-engine data check names them")
    return data
