"""A config file to a checkpoint: its stages and its own run, each started from the one before."""

import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch

from t2i_engine.errors import UserError
from training.config import RunConfig, configured, staged
from training.distributed import joined
from training.initial import starting_model
from training.loop import Run
from training.phase import tune_process
from training.progress import Progress
from training.run_folder import RESUME, RunFolder, RunFolderError
from training.state import SUFFIX, is_trained, load_state


class GpuMemoryError(UserError):
    """A run that does not fit the GPU."""


@joined()
def train_files(
    config: Path, out: Path | None, resume: bool, initial: str | None, assignments: Sequence[str] = ()
) -> Path:
    """Trains a config file, by default into runs/NAME, with a folder in there for each stage; returns the checkpoint.

    `assignments` override the config (`load_config`). Raises `UserError`, and `Interrupted` after Ctrl-C.
    """
    tune_process()
    settings = configured(config, initial, assignments)
    out = out or Path("runs") / settings.name
    overrides = [part for assignment in assignments for part in ("--set", assignment)]
    command = shlex.join(["t2i-engine", "train", str(config), "--out", str(out), "--resume", *overrides])
    *stages, last = remaining_runs(settings)
    runs = [*((stage, RunFolder(out / stage.name, command)) for stage in stages), (last, RunFolder(out))]
    if resume:
        begun = [number for number, (_, folder) in enumerate(runs) if folder.holds_run]
        runs = runs[begun[-1] if begun else -1 :]
        run, folder = runs[0]
        runs[0] = folder.resumed(run), folder
    else:
        for _, folder in runs:
            folder.require_new()
    _train(*runs[0])
    for (_, before), (run, folder) in pairwise(runs):
        _train(run.model_copy(update={"init_from": str(before.checkpoint)}), folder)
    return runs[-1][1].checkpoint


def remaining_runs(config: RunConfig) -> tuple[RunConfig, ...]:
    """The runs that a config describes, in order, less those that its initial model replaces.

    A state continues the run of its name; other weights start the last one. Raises `UserError` if it cannot be read.
    """
    runs = staged(config)
    path = config.init_from
    if path is None:
        return runs
    first = len(runs) - 1
    if first and is_trained(path) and path.endswith(SUFFIX):
        names = [run.name for run in runs]
        name = load_state(Path(path)).trained.provenance["run"]
        first = names.index(name) if name in names else first
    return (runs[first].model_copy(update={"init_from": path}), *runs[first + 1 :])


def _train(settings: RunConfig, folder: RunFolder) -> None:
    # A checkpoint holds everything taken from the initial model, which may be gone by now.
    start = None if folder.checkpoint.exists() else starting_model(settings)
    try:
        with Progress() as progress:
            Run(settings, folder, progress, start).train()
    except OSError as error:
        raise RunFolderError(f"{error.filename or folder.path}: {error.strerror or error}; {RESUME}") from error
    except torch.OutOfMemoryError as error:
        raise GpuMemoryError(
            "out of GPU memory; lower gan.batch_size and raise gan.gradient_accumulation, keep the "
            "pictures on the host (--set data.on_device=false), or do without CUDA graphs (--set cuda_graph=false)"
        ) from error
