"""A training run: DAMSM, then the GAN, checkpointed so that a kill loses minutes and a resume loses nothing."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from t2i_engine.bundle import ModelSizes
from t2i_engine.errors import UserError
from t2i_engine.tokenizer import Tokenizer
from training.checkpoint import save_checkpoint
from training.config import RunConfig, load_config
from training.damsm import DamsmTrainer
from training.data.corpus import Corpus, build_vocabulary
from training.data.rendered import Rendered, cache_folder, render_synthbirds
from training.gan import GanTrainer
from training.initial import InitialModel, load_initial
from training.models.text_to_image import TextToImage
from training.progress import Progress
from training.provenance import describe_run
from training.run_folder import RunFolder
from training.samples import save_sample_grid
from training.stepping import Losses, Phase, Trainer

REPORT_EVERY = 50


class DivergedError(UserError):
    """A loss is no number any more."""


@dataclass
class Position:
    """Where a run stands: steps made in each phase, and the seconds they took."""

    steps: dict[Phase, int]
    seconds: float


def train(config: RunConfig, folder: RunFolder, progress: Progress, initial: InitialModel | None = None) -> None:
    """Trains into `folder` from where it stands, first the DAMSM encoders, then generator and discriminator.

    `initial` gives words, text encoder and generator to start from. Its text encoder is kept as it is: DAMSM then
    trains the image encoder alone, or nothing where `initial` brings one. Raises `DivergedError`.
    """
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stored = folder.load_checkpoint()
    rendered = _render(config, progress)
    tokenizer = Tokenizer(stored["words"] if stored else _words(initial, rendered))
    corpus = Corpus(rendered.pictures, rendered.captions, tokenizer, config.data.max_words, config.data.mirror)
    model = TextToImage(model_sizes(config, len(tokenizer.words)))
    damsm = DamsmTrainer(config, corpus, model.text_encoder, device, train_text=initial is None)
    if initial and not stored:
        initial.load_into(model, damsm.image_encoder)
    gan = GanTrainer(config, corpus, damsm.text_encoder, damsm.image_encoder, model.generator, device)
    position = Position(steps={"damsm": 0, "gan": 0}, seconds=0.0)
    if stored:
        position = Position(**stored["state"]["position"])
        damsm.load_state(stored["state"]["damsm"])
        gan.load_state(stored["state"]["gan"])

    def save() -> None:
        provenance = describe_run(config, position.steps, position.seconds, initial.name if initial else None)
        state = {"position": asdict(position), "damsm": damsm.state(), "gan": gan.state()}
        save_checkpoint(folder.checkpoint, model.sizes, tokenizer.words, gan.exported(), provenance, state)

    def sample() -> None:
        path = folder.sample(position.steps["gan"])
        save_sample_grid(path, config.sample_captions, tokenizer, gan.text_encoder, gan.averaged_generator)

    schedule = _Schedule(config, folder, progress, position, save)
    if not (initial and (initial.image_encoder or not config.gan.contrastive.enabled)):
        schedule.run("damsm", damsm, config.damsm.steps, config.damsm.batch_size)
    gan.freeze_encoders()
    schedule.run("gan", gan, config.gan.steps, config.gan.batch_size, sample)


def train_files(config: Path, out: Path | None, resume: bool, initial: str | None) -> Path:
    """Trains what a config file asks for, by default into runs/NAME; returns the checkpoint. Raises `UserError`."""
    settings = load_config(config)
    start = load_initial(initial) if initial else None
    folder = RunFolder(out or Path("runs") / settings.name, settings, resume)
    with Progress() as progress:
        train(settings, folder, progress, start)
    return folder.checkpoint


def model_sizes(config: RunConfig, vocabulary_size: int) -> ModelSizes:
    """The sizes of the model that a run trains."""
    return ModelSizes(picture_side=config.data.side, vocabulary_size=vocabulary_size, **config.model.model_dump())


@dataclass
class _Schedule:
    """Makes the steps of a phase; between them it reports, draws samples and saves."""

    config: RunConfig
    folder: RunFolder
    progress: Progress
    position: Position
    save: Callable[[], None]

    def run(
        self, phase: Phase, trainer: Trainer, steps: int, batch_size: int, sample: Callable[[], None] | None = None
    ) -> None:
        first = self.position.steps[phase]
        self.progress.start(phase, steps, first)
        recent: list[Losses] = []
        for number in range(first, steps):
            started = time.monotonic()
            losses = trainer.step(number)
            self._stop_if_diverged(phase, number, losses)
            recent.append(losses)
            done = self.position.steps[phase] = number + 1
            self.position.seconds += time.monotonic() - started
            if done % REPORT_EVERY == 0 or done == steps:
                means = _means(recent)
                recent.clear()
                self.progress.report(done, means, batch_size)
                self.folder.log({"phase": phase, "step": done, "seconds": round(self.position.seconds, 1), **means})
            if sample and (done % self.config.sample_every == 0 or done == steps):
                sample()
            if done % self.config.checkpoint_every == 0 or done == steps:
                self.save()

    def _stop_if_diverged(self, phase: Phase, number: int, losses: Losses) -> None:
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            kept = self.folder.checkpoint if self.folder.checkpoint.exists() else "none yet"
            raise DivergedError(
                f"{phase} step {number}: {', '.join(broken)} is not finite; the last good checkpoint is {kept};"
                " lower the learning rates, or train with precision: fp32"
            )


def _words(initial: InitialModel | None, rendered: Rendered) -> tuple[str, ...]:
    if initial:
        return initial.words
    return build_vocabulary(caption for captions in rendered.captions for caption in captions)


def _render(config: RunConfig, progress: Progress) -> Rendered:
    count = config.data.pictures
    progress.start("drawing", count)
    return render_synthbirds("train", count, config.data.side, cache_folder(), lambda drawn: progress.report(drawn, {}))


def _means(recent: list[Losses]) -> Losses:
    """The mean of each loss over the steps that computed it."""
    names = dict.fromkeys(name for losses in recent for name in losses)
    values = {name: [losses[name] for losses in recent if name in losses] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items()}
