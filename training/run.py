"""A training run: DAMSM, then the GAN, with checkpoints from which it resumes exactly."""

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


GO_ON = "fix that, and go on with --resume"


@dataclass(frozen=True)
class Plan:
    """What is trained, decided when a run first starts and kept when it resumes."""

    train_text_encoder: bool
    train_image_encoder: bool
    initial: dict[str, Any] | None
    """The origin of the initial weights."""

    @classmethod
    def of(cls, config: RunConfig, initial: InitialModel | None) -> "Plan":
        """An initial text encoder stays frozen without `finetune`; DAMSM then trains only a missing image encoder."""
        if initial is None or config.damsm.finetune:
            return cls(True, True, initial.origin if initial else None)
        needed = config.gan.contrastive.enabled and initial.auxiliary.image_encoder is None
        return cls(False, needed, initial.origin)


def train(config: RunConfig, folder: RunFolder, progress: Progress, initial: InitialModel | None = None) -> None:
    """Trains into `folder`, resuming if it holds a checkpoint: first the DAMSM encoders, then the GAN.

    `initial` brings vocabulary, text encoder and generator to start from (see `Plan`). Everything is validated before
    the folder is written to. Raises `UserError` for config and data, and `DivergedError`.
    """
    torch.manual_seed(config.seed)
    device = distributed.device()
    stored = folder.load_checkpoint()
    data = _load_data(config, progress)
    if initial and config.damsm.finetune:
        initial = initial.knowing(data.words)
    tokenizer = Tokenizer(stored["words"] if stored else initial.words if initial else data.words)
    corpus = data.batches(tokenizer)
    corpus.require(max(config.damsm.batch_size, config.gan.batch_size) * world())  # fail now, not after the first phase
    model = TextToImage(model_sizes(config, len(tokenizer.words)))
    plan = Plan(**stored["state"]["plan"]) if stored else Plan.of(config, initial)
    damsm = DamsmTrainer(config, corpus, model.text_encoder, device, plan.train_text_encoder, stored is None)
    if initial:
        initial.require_fits(model.sizes)
        initial = initial.grown(config.data.resolution, corpus)
        initial.load_model_into(model)  # before the trainer copies the generator for its average
    gan = GanTrainer(config, corpus, damsm.text_encoder, damsm.image_encoder, model.generator, device)
    if initial:
        initial.load_auxiliary_into(damsm.image_encoder, gan.discriminator)
    position = Position(steps={"damsm": 0, "gan": 0}, seconds=0.0, losses={}, recent=[])
    if stored:
        folder.require_checkpoint_of(stored["provenance"], config)
        _require_as_many_processes(folder, stored["provenance"].get("processes", 1))
        _require_same_data(folder, stored["provenance"]["dataset"], data.provenance)
        position = Position(**stored["state"]["position"])
        damsm.load_state(stored["state"]["damsm"])
        gan.load_state(stored["state"]["gan"])

    def save(path: Path) -> list[str]:
        state = {"plan": asdict(plan), "position": asdict(position), "damsm": damsm.state(), "gan": gan.state()}
        if broken := not_finite(state):
            return broken
        provenance = describe_run(config, data.provenance, asdict(position), plan.initial) | {"processes": world()}
        save_checkpoint(path, model.sizes, tokenizer.words, gan.exported(), provenance, state, GO_ON)
        return []

    sampler = network_sampler(model.sizes, tokenizer, gan.text_encoder, gan.averaged_generator)

    def sample(path: Path) -> None:
        save_sample_grid(path, config.sample_captions, sampler)

    for caption in config.sample_captions:
        tokenizer.encode(caption)  # fail now, not at the first sample
    fid = None
    if config.fid.every and folder.writes:
        fid = _periodic_fid(config, sampler, device, progress)
    folder.begin(config)  # all processes have seen that it is new: they met when making the trainers
    schedule = Schedule(config, folder, progress, position, Actions(save, sample, fid.measure if fid else None))
    if plan.train_image_encoder:
        schedule.run("damsm", damsm, config.damsm.steps, config.damsm.batch_size * world())
    gan.freeze_encoders()
    schedule.run("gan", gan, config.gan.steps, config.gan.batch_size * config.gan.gradient_accumulation * world())


@joined()
def train_files(
    config: Path, out: Path | None, resume: bool, initial: str | None, assignments: Sequence[str] = ()
) -> Path:
    """Trains a config file, by default into runs/NAME; returns the checkpoint.

    `assignments` override the config (`load_config`). Raises `UserError`, and `Interrupted` after Ctrl-C.
    """
    settings = configured(config, initial, assignments)
    folder = RunFolder(out or Path("runs") / settings.name)
    if resume:
        settings = folder.resumed(settings)
    else:
        folder.require_new()
    # A checkpoint holds everything taken from the initial model, which may be gone by now.
    start = None if folder.checkpoint.exists() else starting_model(settings)
    try:
        with Progress() as progress:
            train(settings, folder, progress, start)
    except OSError as error:
        raise RunFolderError(f"{error.filename or folder.path}: {error.strerror or error}; {GO_ON}") from error
    return folder.checkpoint


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


def _require_as_many_processes(folder: RunFolder, before: int) -> None:
    if before != world():
        raise RunFolderError(
            f"'{folder.path}' was trained by {before} processes, which share each batch, not by {world()}; "
            "start as many, or start a new run from its weights with --init"
        )


def _require_same_data(folder: RunFolder, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise RunFolderError(
            f"'{folder.path}' was trained on other data ({', '.join(changed)} differ); "
            "start a new run, with --init to keep its weights"
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
        progress.note(f"skipping in {config.data.source}: {summary(data.problems)}; t2i-engine data check names them")
    return data
