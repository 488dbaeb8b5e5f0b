"""The steps of a training phase, and what happens between them: reports, samples, FID, checkpoints, interruptions."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2i_engine.errors import UserError
from training.config import RunConfig
from training.distributed import agreed
from training.interruption import Interrupted, Interruption
from training.progress import Progress, TensorBoard
from training.run_folder import RunFolder
from training.stepping import Losses, Phase, Trainer

REPORT_EVERY = 50


class DivergedError(UserError):
    """A loss or weight has become NaN or infinite."""


@dataclass
class Position:
    """The progress of a run: completed steps of each phase, and the seconds they took."""

    steps: dict[Phase, int]
    seconds: float
    losses: dict[Phase, Losses]
    """As last reported."""
    recent: list[Losses]
    """Of the steps since."""
    fid: dict[str, Any] | None = None
    """As last measured: value, numbers of pictures, features, and step."""
    best_fid: float | None = None


@dataclass(frozen=True)
class Actions:
    """What a run can do between two steps."""

    save: Callable[[Path], list[str]]
    """Writes a checkpoint; if tensors are not finite, returns their names instead."""
    sample: Callable[[Path], None]
    """Draws the sample grid."""
    measure: Callable[[Callable[[], bool]], dict[str, Any] | None] | None = None
    """Measures FID, if configured; returns None if told to stop early."""


@dataclass
class Schedule:
    """Runs the steps of a phase; between them it reports, samples, measures and saves."""

    config: RunConfig
    folder: RunFolder
    progress: Progress
    position: Position
    actions: Actions

    def run(self, phase: Phase, trainer: Trainer, steps: int, batch_size: int) -> None:
        """Runs up to step `steps`. Raises `DivergedError`, and `Interrupted` after a signal."""
        first = self.position.steps[phase]
        self.progress.start(phase, steps, first)
        unmeasured = first > 0 and self.measurement_due(phase, first, steps)  # the run was stopped while measuring
        if first >= steps and not unmeasured:
            return
        folder = self.folder.tensorboard(phase) if self.folder.writes else None
        with TensorBoard(folder, first) as board, Interruption(self.progress.note) as interruption:
            turn = _Turn(self, phase, steps, batch_size, board, interruption)
            if unmeasured:
                turn.measure(first)
                turn.save(first, agreed(interruption.number))
            for number in range(first, steps):
                turn.step(trainer, number)

    def measurement_due(self, phase: Phase, done: int, steps: int) -> bool:
        """Whether FID is due after step `done` and not measured yet."""
        if phase != "gan" or not self.config.fid.every:
            return False
        measured = self.position.fid is not None and self.position.fid["step"] == done
        return _due(self.config.fid.every, done, steps) and not measured


@dataclass(frozen=True)
class _Turn:
    """A phase in progress."""

    run: Schedule
    phase: Phase
    steps: int
    batch_size: int
    board: TensorBoard
    interruption: Interruption

    def step(self, trainer: Trainer, number: int) -> None:
        """Runs one step, and whatever is due after it."""
        config, position = self.run.config, self.run.position
        started = time.monotonic()
        losses = trainer.step(number)
        self._stop_if_broken(f"{self.phase} step {number}", [k for k, v in losses.items() if not math.isfinite(v)])
        position.recent.append(losses)
        done = position.steps[self.phase] = number + 1
        position.seconds += time.monotonic() - started
        if _due(REPORT_EVERY, done, self.steps):
            self._report(done, trainer.learning_rates)
        if self.phase == "gan" and self.run.folder.writes and _due(config.sample_every, done, self.steps):
            path = self.run.folder.sample(done)
            self.run.actions.sample(path)
            self.board.picture("samples", path, done)
        if self.run.measurement_due(self.phase, done, self.steps):
            self.measure(done)
        stopped_by = agreed(self.interruption.number)
        if _due(config.checkpoint_every, done, self.steps) or stopped_by:
            self.save(done, stopped_by)

    def measure(self, done: int) -> None:
        """Measures FID after step `done`, unless a signal comes; keeps the checkpoint if it is the best."""
        run, position = self.run, self.run.position
        if not run.folder.writes:
            return  # the first process measures; the others wait for it at their next collective
        assert run.actions.measure is not None
        run.progress.note(f"measuring FID after step {done:,}")
        found = run.actions.measure(lambda: bool(self.interruption.number))
        if found is None:
            return
        position.fid = {"step": done, **found}
        run.folder.log({"phase": self.phase, "step": done, "fid": found["value"]})
        self.board.numbers("quality", {"FID": found["value"]}, done)
        better = position.best_fid is None or found["value"] < position.best_fid
        run.progress.note(f"FID {found['value']:.2f}" + (", the best so far" if better else ""))
        if better:
            position.best_fid = found["value"]
            self._write(run.folder.best, done)

    def save(self, done: int, signal: int) -> None:
        """Saves the run after step `done`. Raises `Interrupted` if a `signal` reached any process."""
        folder = self.run.folder
        self._write(folder.checkpoint, done)
        folder.keep_checkpoint(self.phase, done, self.run.config.keep_checkpoints)
        if signal:
            self.run.progress.note(f"stopped after {self.phase} step {done:,}, saved in {folder.checkpoint}")
            self.run.progress.note(f"Resume:  {folder.how_to_go_on}")
            raise Interrupted(signal)

    def _report(self, done: int, rates: dict[str, float]) -> None:
        position = self.run.position
        means = _means(position.recent)
        position.recent.clear()
        position.losses[self.phase] = means
        self.run.progress.report(done, means, self.batch_size)
        row = {"phase": self.phase, "step": done, "seconds": round(position.seconds, 1), **means}
        self.run.folder.log(row)
        self.board.numbers("losses", means, done)
        self.board.numbers("learning rates", rates, done)

    def _write(self, path: Path, done: int) -> None:
        """Writes a checkpoint, after the curves up to it."""
        if self.run.folder.writes:
            self.board.flush()
            self._stop_if_broken(f"after {self.phase} step {done:,}", self.run.actions.save(path))

    def _stop_if_broken(self, where: str, broken: list[str]) -> None:
        if not broken:
            return
        names = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        checkpoint = self.run.folder.checkpoint
        cure = (
            f"the last good checkpoint is {checkpoint}; go on from it with --resume and lower learning rates, "
            "or with precision: fp32"
            if checkpoint.exists()
            else "there is no checkpoint yet; start again with lower learning rates, or with precision: fp32"
        )
        raise DivergedError(f"{where}: {names} {'is' if len(broken) == 1 else 'are'} not finite; {cure}")


def _due(every: int, done: int, steps: int) -> bool:
    return done % every == 0 or done == steps


def _means(recent: list[Losses]) -> Losses:
    """The mean of each loss over the steps that computed it."""
    names = dict.fromkeys(name for losses in recent for name in losses)
    values = {name: [losses[name] for losses in recent if name in losses] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items()}
