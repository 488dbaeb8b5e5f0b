"""A config file to a checkpoint: its stages, then its own run, each started from the one before."""

import gc
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch

from t2i_engine.errors import Interrupted, UserError
from training.config import ConfigError, RunConfig, configured, model_sizes, staged
from training.distributed import joined
from training.initial import require_sizes, starting_model
from training.loop import Run
from training.phase import tune_process
from training.progress import Progress
from training.run_folder import RESUME, RunFolder, RunFolderError
from training.state import SUFFIX, is_trained, load_state

VOCABULARY = 100
"""Any size: runs share their vocabulary."""


class GpuMemoryError(UserError):
    """A run that does not fit the GPU."""


@joined()
def train_files(
    config: Path, out: Path | None, resume: bool, initial: str | None, assignments: Sequence[str] = ()
) -> Path:
    """Trains a config file, by default into runs/NAME, and its stages into folders in there; returns the checkpoint.

    `assignments` override the config (`load_config`). Raises `UserError`, and `Interrupted` after Ctrl-C.
    """
    tune_process()
    settings = configured(config, initial, assignments)
    out = out or Path("runs") / settings.name
    overrides = [part for assignment in assignments for part in ("--set", assignment)]
    command = shlex.join(["t2i-engine", "train", str(config), "--out", str(out), "--resume", *overrides])
    *stages, last = matching_runs(settings) if resume else remaining_runs(settings)
    runs = [(stage, RunFolder(out / "stages" / stage.name, command)) for stage in stages]
    runs.append((last, RunFolder(out)))
    if not resume:
        for _, folder in runs:
            folder.require_new()
    begun = [number for number, (_, folder) in enumerate(runs) if folder.holds_run]
    first = begun[-1] if begun else len(runs) - 1 if resume else 0  # the last run says that there is none to resume
    for number, (run, folder) in enumerate(runs[first:], first):
        if resume and number == first:
            run = folder.resumed(run)
        before = str(runs[number - 1][1].checkpoint) if number else None
        _train(run, folder, run.init_from or before, more=number + 1 < len(runs))
    return runs[-1][1].checkpoint


def matching_runs(config: RunConfig) -> tuple[RunConfig, ...]:
    """The runs that a config describes, in order. Raises `UserError` if they do not fit each other."""
    runs = staged(config)
    for before, after in pairwise(runs):
        require_sizes(before.name, model_sizes(before, VOCABULARY), model_sizes(after, VOCABULARY))
        if after.damsm.image_encoder != before.damsm.image_encoder:
            raise ConfigError(f"config '{config.name}': its runs need the same damsm.image_encoder")
        if after.gan.discriminator != before.gan.discriminator and not after.gan.discriminator_warmup:
            raise ConfigError(
                f"config '{config.name}': {after.name} has another gan.discriminator than {before.name}; "
                "set its gan.discriminator_warmup, to 300 for example"
            )
    return runs


def remaining_runs(config: RunConfig) -> tuple[RunConfig, ...]:
    """The runs that a config describes, without those before the one whose state it starts from, if it does.

    Raises `UserError` if the state cannot be read, or if the runs do not fit each other.
    """
    runs = matching_runs(config)
    path = config.init_from
    if not (config.stages and path and is_trained(path) and path.endswith(SUFFIX)):
        return runs
    state = load_state(Path(path))
    names = [run.name for run in runs]
    name = state.trained.provenance.get("run")
    first = names.index(name) if name in names else 0
    if name == names[first] and state.steps.get("gan", 0) >= runs[first].gan.steps and first + 1 < len(runs):
        first += 1  # it is done
    return (runs[first].model_copy(update={"init_from": path}), *runs[first + 1 :])


def _train(settings: RunConfig, folder: RunFolder, initial: str | None, more: bool) -> None:
    """Trains a run from `initial`, if it has no checkpoint yet. A late signal interrupts it if `more` runs follow."""
    # A checkpoint holds everything taken from the initial model, which may be gone by now.
    start = None if folder.checkpoint.exists() else starting_model(settings.model_copy(update={"init_from": initial}))
    try:
        with Progress() as progress:
            if more or settings.stages:
                progress.note(f"{settings.name}, in {folder.path}")
            signalled = Run(settings, folder, progress, start).train()
            if signalled and more:
                progress.note(f"Resume:  {folder.resume_command}")
                raise Interrupted(signalled)
    except OSError as error:
        raise RunFolderError(f"{error.filename or folder.path}: {error.strerror or error}; {RESUME}") from error
    except torch.OutOfMemoryError as error:
        raise GpuMemoryError(
            "out of GPU memory; lower gan.batch_size and raise gan.gradient_accumulation, keep the "
            "pictures on the host (--set data.on_device=false), or do without CUDA graphs (--set cuda_graph=false)"
        ) from error
    gc.collect()  # captured steps and their networks refer to each other
    torch.cuda.empty_cache()  # the next run measures what is free
