"""A training run: DAMSM, then the GAN, with checkpoints from which it resumes exactly."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.tensorboard import SummaryWriter

from t2i_engine.errors import Interrupted, UserError, needs_extra
from t2i_engine.tokenizer import Tokenizer
from training import distributed
from training.checkpoint import not_finite, save_checkpoint
from training.config import RunConfig, model_sizes
from training.damsm import DamsmPhase
from training.data.feed import Feed
from training.data.loading import load_training_data
from training.data.source import summary
from training.distributed import agreed, averaged, world
from training.initial import InitialModel
from training.models.text_to_image import TextToImage
from training.phase import Phase, PhaseName, StepLosses
from training.progress import Progress
from training.provenance import Segment, begin_segment, describe_run, segments_of
from training.run_folder import RESUME, RunFolder
from training.sampling import network_sampler, sample_grid
from training.state import SUFFIX
from training.step import GanPhase

if TYPE_CHECKING:
    from training.periodic_fid import PeriodicFid

REPORT_EVERY = 50
LONGEST_OVERFLOW = 20
"""Most steps in a row that may overflow: fp16's loss scale starts at 2^16 and is halved at each."""

Losses = dict[str, float]


class DivergedError(UserError):
    """A loss or weight has become NaN or infinite."""


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
        needed = config.gan.contrastive.enabled and initial.image_encoder is None
        return cls(False, needed, initial.origin)


@dataclass
class Position:
    """The progress of a run: completed steps of each phase, and the seconds they took."""

    steps: dict[PhaseName, int]
    seconds: float
    losses: dict[PhaseName, Losses]
    """As last reported."""
    recent: list[Losses]
    """Of the steps since."""
    fid: dict[str, Any] | None = None
    """As last measured: value, numbers of pictures, features, and step."""
    best_fid: float | None = None


class Run:
    """A run that is ready to start, or to resume from the checkpoint in its folder."""

    def __init__(self, config: RunConfig, folder: RunFolder, progress: Progress, initial: InitialModel | None) -> None:
        """Validates everything; the folder is not written to yet. Raises `UserError` for config, data and checkpoint.

        `initial` brings vocabulary, text encoder and generator to start from (see `Plan`).
        """
        self.config, self.folder, self.progress = config, folder, progress
        torch.manual_seed(config.seed)
        device = distributed.device()
        stored = folder.load_checkpoint()
        self.data = load_training_data(config.data, lambda count: progress.start("pictures", count), progress.report)
        if problems := self.data.problems:
            progress.note(f"skipping in {config.data.source}: {summary(problems)}; t2i-engine data check names them")
        if held_out := self.data.provenance.get("validation"):
            progress.note(f"held out for validation: {held_out}")
        if initial and config.damsm.finetune:
            initial = initial.knowing(self.data.words)
        self.tokenizer = Tokenizer(stored["words"] if stored else initial.words if initial else self.data.words)
        for caption in config.sample_captions:
            self.tokenizer.encode(caption)  # fail now, not at the first sample
        self.batches = self.data.batches(self.tokenizer)
        plan = stored["state"]["plan"] if stored else initial.plan if initial else None
        self.plan = Plan(**plan) if plan else Plan.of(config, initial)
        if held_out and initial and initial.may_know(self.data.provenance):
            progress.note(f"'{initial.name}' did not hold these out, and may have learnt them: FID will be too low")
            self.plan = replace(self.plan, initial={**(self.plan.initial or {}), "validation": "may have been learnt"})
        damsm, gan = config.damsm, config.gan  # both feeds now: they refuse unusable data
        self.gan_feed = self._feed(gan.batch_size, None, gan.hard_negatives, device)
        self.damsm_feed = None
        if self.plan.train_image_encoder:
            self.damsm_feed = self._feed(damsm.batch_size, config.data.max_words, damsm.hard_negatives, device)

        model = TextToImage(model_sizes(config, len(self.tokenizer.words)))
        self.sizes = model.sizes
        self.damsm = DamsmPhase(config, model.text_encoder, device, self.plan.train_text_encoder, stored is None)
        if initial:
            initial.require_fits(model.sizes)
            initial = initial.grown(config.data.resolution, self.batches)
            initial.load_model_into(model)  # before the phase copies the generator for its average
        self.gan = GanPhase(config, self.damsm.text_encoder, self.damsm.image_encoder, model.generator, device)

        self.position = Position(steps={"damsm": 0, "gan": 0}, seconds=0.0, losses={}, recent=[])
        segments: Sequence[Segment] = ()
        if initial:
            segments = self._start_from(initial)
        if stored:
            segments = self._resume(stored)
        self.segments = begin_segment(segments, self.position.steps, exact=stored is not None)
        self.unread: list[tuple[int, StepLosses]] = []
        self.overflows = 0
        self.sampler = network_sampler(self.sizes, self.tokenizer, self.gan.text_encoder, self.gan.average)
        self.fid = self._periodic_fid(device) if config.fid.every else None

    def _start_from(self, initial: InitialModel) -> Sequence[Segment]:
        """Takes the networks that only training reads, and a state's position; returns the state's segments."""
        if initial.name.endswith(SUFFIX) and not (initial.steps or initial.encoders_only):
            run = initial.origin.get("run")
            self.progress.note(f"starting at step 0 from the weights of '{initial.name}', a state of the run '{run}'")
        fresh = self.config.gan.discriminator_warmup > 0
        if initial.load_auxiliary_into(self.damsm.image_encoder, self.gan.discriminator, fresh):
            self.progress.note(f"the discriminator starts from scratch: '{initial.name}' has one of another kind")
        if initial.generator:
            self.gan.generator.load_state_dict(initial.generator)
        for phase in self.position.steps:
            self.position.steps[phase] = initial.steps.get(phase, 0)
        self.damsm.skip(self.position.steps["damsm"])
        self.position.seconds = initial.seconds
        return initial.segments

    def _resume(self, stored: Mapping[str, Any]) -> Sequence[Segment]:
        """Restores the content of the run's checkpoint; returns its segments."""
        self.folder.require_same_run(stored["provenance"], self.config, self.data.provenance)
        self.position = Position(**stored["state"]["position"])
        self.damsm.load_state(stored["state"]["damsm"])
        self.gan.load_state(stored["state"]["gan"])
        return segments_of(stored["provenance"])

    def _periodic_fid(self, device: torch.device) -> "PeriodicFid":
        with needs_extra("fid.every", "evaluate"):
            from training.periodic_fid import PeriodicFid
        return PeriodicFid(self.config, self.sampler, device, self.progress)

    def train(self) -> int:
        """Trains up to the last step of both phases; all processes end together, as the next run reads the checkpoint.

        Returns a signal that came after the last step, or 0. Raises `DivergedError`, and `Interrupted` after others.
        """
        damsm, gan = self.config.damsm, self.config.gan
        # All processes have seen that the folder is new: they met when making the phases.
        with self.folder.begun(self.config, self.position.steps), caught_signals(self.progress.note) as self.signals:
            if self.damsm_feed:
                with closing(self.damsm_feed) as feed:
                    self.damsm.begin(feed)
                    self._train_phase("damsm", self.damsm, damsm.steps, damsm.batch_size * world())
            with closing(self.gan_feed) as feed:
                self.gan.begin(feed, self.batches.unique_captions)
                self._train_phase("gan", self.gan, gan.steps, gan.batch_size * gan.gradient_accumulation * world())
            return agreed(sum(self.signals))

    def _feed(self, size: int, max_words: int | None, hard_negatives: int, device: torch.device) -> Feed:
        seed = self.config.seed
        return Feed(self.batches, seed, size, device, max_words=max_words, hard_negatives=hard_negatives)

    def _train_phase(self, name: PhaseName, phase: Phase, steps: int, batch_size: int) -> None:
        config, position = self.config, self.position
        first = position.steps[name]
        self.progress.start(name, steps, first)
        unmeasured = name == "gan" and first > 0 and self._fid_due(first)  # the run was stopped while measuring
        if first >= steps and not unmeasured:
            return
        curves = self.folder.path / "tensorboard" / name
        at_once = world() == 1 or distributed.device().type == "cpu"  # agreeing waits for all GPUs
        writer = SummaryWriter(curves, purge_step=first + 1) if self.folder.writes else nullcontext()
        with writer as self.tensorboard:
            if unmeasured:
                self._measure_fid(first)
                self._save(name, first, agreed(sum(self.signals)))
            for number in range(first, steps):
                started = time.monotonic()
                self.unread.append((number, phase.step(number)))
                done = position.steps[name] = number + 1
                report = _due(REPORT_EVERY, done, steps)
                sample = name == "gan" and _due(config.sample_every, done, steps)
                fid = name == "gan" and self._fid_due(done)
                save = _due(config.checkpoint_every, done, steps)
                signalled = 0
                if report or sample or fid or save or at_once:
                    signalled = agreed(sum(self.signals))
                if report or sample or fid or save or signalled:
                    self._read_losses(name)
                position.seconds += time.monotonic() - started
                if report:
                    rates = {net: optimizer.param_groups[0]["lr"] for net, optimizer in phase.optimizers.items()}
                    self._report(name, done, batch_size, rates)
                if sample:
                    self._draw_samples(done)
                if fid:
                    self._measure_fid(done)
                    signalled = agreed(sum(self.signals))
                if save or signalled:
                    self._save(name, done, signalled)

    def _read_losses(self, phase: PhaseName) -> None:
        """Waits for the losses of the steps since the last call, and averages them over all processes.

        Raises `DivergedError` for the first that is not finite. In fp16, a few steps in a row may overflow, whose
        updates are skipped and whose losses are left out.
        """
        unread, self.unread = self.unread, []
        values = iter(averaged(torch.cat([losses.values for _, losses in unread])).tolist())
        for number, (names, _) in unread:
            losses = dict(zip(names, islice(values, len(names)), strict=True))
            broken = [name for name in names if not math.isfinite(losses[name])]
            self.overflows = self.overflows + 1 if broken else 0
            if not broken:
                self.position.recent.append(losses)
            elif self.config.precision != "fp16" or self.overflows > LONGEST_OVERFLOW:
                self._require_finite(f"{phase} step {number}", broken)

    def _report(self, phase: PhaseName, done: int, batch_size: int, rates: dict[str, float]) -> None:
        """Reports the mean of each loss over the steps that computed it since the last report."""
        recent = self.position.recent
        values: dict[str, list[float]] = {}
        for losses in recent:
            for name, value in losses.items():
                values.setdefault(name, []).append(value)
        means = {name: sum(found) / len(found) for name, found in values.items()}
        recent.clear()
        self.position.losses[phase] = means
        self.progress.report(done, means, batch_size)
        self.folder.log({"phase": phase, "step": done, "seconds": round(self.position.seconds, 1), **means})
        if self.tensorboard:
            for group, numbers in (("losses", means), ("learning rates", rates)):
                for name, value in numbers.items():
                    self.tensorboard.add_scalar(f"{group}/{name}", float(value), done)

    def _draw_samples(self, done: int) -> None:
        if not self.tensorboard:
            return
        samples = sample_grid(self.config.sample_captions, self.sampler, f"{done:06d}")
        samples.save(self.folder.path / "samples" / f"{done:06d}.png")
        self.tensorboard.add_image("samples", samples.pixels, done, dataformats="HWC")

    def _fid_due(self, done: int) -> bool:
        """Whether FID is due after step `done` of the GAN, and not measured yet."""
        measured = self.position.fid is not None and self.position.fid["step"] == done
        every = self.config.fid.every
        return every > 0 and _due(every, done, self.config.gan.steps) and not measured

    def _measure_fid(self, done: int) -> None:
        """Measures FID on all processes, unless a signal comes, and keeps the checkpoint if it is the best."""
        position = self.position
        assert self.fid is not None
        self.progress.note(f"measuring FID after step {done:,}")
        found = self.fid.measure(lambda: bool(self.signals))
        if found is None:
            return
        value = found["value"]
        if position.fid and position.fid.get("random_crop", False) != found["random_crop"]:
            position.best_fid = None  # an earlier version compared with other pictures
        position.fid = {"step": done, **found}
        self.folder.log({"phase": "gan", "step": done, "fid": value})
        if self.tensorboard:
            self.tensorboard.add_scalar("quality/FID", value, done)
        better = position.best_fid is None or value < position.best_fid
        self.progress.note(f"FID {value:.2f}" + (", the best so far" if better else ""))
        if better:
            position.best_fid = value
            self._write(self.folder.best, "gan", done)

    def _save(self, phase: PhaseName, done: int, signalled: int) -> None:
        """Saves the run after step `done`. Raises `Interrupted` if a signal reached any process."""
        folder = self.folder
        self._write(folder.checkpoint, phase, done)
        folder.keep_checkpoint(phase, done, self.config.keep_checkpoints)
        if signalled:
            self.progress.note(f"stopped after {phase} step {done:,}, saved in {folder.checkpoint}")
            self.progress.note(f"Resume:  {folder.resume_command}")
            raise Interrupted(signalled)

    def _write(self, path: Path, phase: PhaseName, done: int) -> None:
        """Writes a checkpoint, after the curves up to it."""
        if not self.tensorboard:
            return
        self.tensorboard.flush()
        position = asdict(self.position)
        state = {
            "plan": asdict(self.plan),
            "position": position,
            "damsm": self.damsm.state(),
            "gan": self.gan.state(),
        }
        self._require_finite(f"after {phase} step {done:,}", not_finite(state))
        provenance = describe_run(self.config, self.data.provenance, position, self.plan.initial, self.segments)
        words, weights = self.tokenizer.words, self.gan.exported()
        save_checkpoint(path, self.sizes, words, weights, provenance | {"processes": world()}, state, RESUME)

    def _require_finite(self, where: str, broken: Sequence[str]) -> None:
        if not broken:
            return
        names = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        checkpoint = self.folder.checkpoint
        cure = "there is no checkpoint yet; start again with"
        if checkpoint.exists():
            cure = f"the last good checkpoint is {checkpoint}; resume from it with --resume and"
        raise DivergedError(
            f"{where}: {names} {'is' if len(broken) == 1 else 'are'} not finite; "
            f"{cure} lower learning rates, or with precision: fp32"
        )


def _due(every: int, done: int, steps: int) -> bool:
    return done % every == 0 or done == steps


@contextmanager
def caught_signals(on_progress: Callable[[str], None]) -> Iterator[list[int]]:
    """Records the first SIGINT (Ctrl-C) or SIGTERM in the list it yields, for a run to check between steps.

    The second ends the process at once. `on_progress` prints a line for the user.
    """
    received: list[int] = []
    process = os.getpid()

    def take(number: int, frame: FrameType | None) -> None:
        if received:
            raise SystemExit(128 + number)
        received.append(number)
        if os.getpid() == process:  # data loading workers inherit the handler and receive Ctrl-C too
            on_progress("finishing the step, then saving; press again to stop at once")

    before: dict[int, Any] = {}
    with suppress(ValueError):  # only the main thread can handle signals
        before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed by Python
