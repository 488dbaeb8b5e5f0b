"""The folder of a run and what lies in it.

config.yaml     the config                 samples/*.png   fixed captions and seeds, every N steps
versions.json   commit and versions        losses.jsonl    losses, averaged between reports
checkpoint.pt   the model, and everything needed to resume
best.pt         the same at the lowest FID, if measured
checkpoints/    the last numbered checkpoints, if kept
tensorboard/    losses, learning rates, samples and FID, one folder per phase
"""

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from t2i_engine.errors import UserError
from t2i_engine.files import write_atomically
from training.checkpoint import load_checkpoint, require_resumable
from training.config import RunConfig, load_config
from training.distributed import is_first, world
from training.phase import PhaseName
from training.provenance import tool_versions, working_commit

CHANGEABLE = {
    "data.source",  # data may have moved; their contents are compared
    "gan.steps",
    "gan.generator_learning_rate",
    "gan.discriminator_learning_rate",
    "precision",
    "compile",
    "cuda_graph",
    "data.on_device",
    "checkpoint_every",
    "keep_checkpoints",
    "fid.every",
    "stages",  # done before the run, each with its own config
    "sample_every",
    "sample_captions",
}
"""Keys that may change when a run resumes; any other makes it a different run."""

RESUME = "fix that, then resume with --resume"

SECONDS_FOR_LOCK = 10.0
"""The data loaders of a killed run hold its lock for up to five seconds, until they see that it is gone."""


class RunFolderError(UserError):
    """A run folder that is taken, in use, missing, not writable, or of another config."""


class RunFolder:
    """The folder of a new or resumed run. Nothing is written before `begun`, and only by the first process."""

    def __init__(self, path: Path, resume_command: str | None = None) -> None:
        """`resume_command` resumes the run; by default with its own config, which works however it was started."""
        self.path = path
        self.writes = is_first()
        self.checkpoint = path / "checkpoint.pt"
        self.best = path / "best.pt"
        self._config = path / "config.yaml"
        self._losses = path / "losses.jsonl"
        own = shlex.join(["t2i-engine", "train", str(self._config), "--out", str(path), "--resume"])
        self.resume_command = resume_command or own
        self._loaded: tuple[int, int] | None = None
        """Tells the checkpoint that was loaded from one that replaces it."""

    @property
    def holds_run(self) -> bool:
        """Whether a run has begun here."""
        return self._config.exists() or self.checkpoint.exists()

    def require_new(self) -> None:
        """Raises `RunFolderError` if the folder already holds a run."""
        if self.holds_run:
            raise RunFolderError(
                f"'{self.path}' already holds a run; resume it with --resume, or choose another folder with --out"
            )

    def resumed(self, config: RunConfig) -> RunConfig:
        """The config to resume with: `config`, with the run's own initial model if it names none.

        Raises `RunFolderError` if there is no run, or if a key differs that may not change.
        """
        if not self._config.exists():
            raise RunFolderError(f"'{self.path}' holds no run to resume; omit --resume to start one")
        before = load_config(self._config)
        config = config.model_copy(update={"init_from": config.init_from or before.init_from})
        changed = _changed(before.model_dump(), config.model_dump())
        if changed and self.checkpoint.exists():  # without one, nothing depends on what was
            raise RunFolderError(
                f"'{self.path}' is a run of another config ({changed} differ); "
                "resume it with its own config.yaml, or start a new one with --out"
            )
        return config

    def require_same_run(self, provenance: dict[str, Any], config: RunConfig, dataset: dict[str, Any]) -> None:
        """Raises `RunFolderError` if the checkpoint is of another config, number of processes, or data set."""
        if changed := _changed(provenance["config"], config.model_dump(mode="json")):
            raise RunFolderError(
                f"'{self.checkpoint}' is a checkpoint of another config ({changed} differ); "
                "restore the run's own, or start a new run from it with --init"
            )
        processes = provenance.get("processes", 1)
        if processes != world():
            raise RunFolderError(
                f"'{self.path}' was trained by {processes} processes, which share each batch, not by {world()}; "
                "start as many, or start a new run from its weights with --init"
            )
        before = provenance["dataset"]
        differing = sorted(key for key in before.keys() | dataset.keys() if before.get(key) != dataset.get(key))
        if differing:
            raise RunFolderError(
                f"'{self.path}' was trained on other data ({', '.join(differing)} differ); "
                "start a new run, with --init to keep its weights"
            )

    @contextmanager
    def begun(self, config: RunConfig, steps: Mapping[PhaseName, int]) -> Iterator[None]:
        """Creates the folder with config and versions, and drops losses that were logged after `steps` of each phase.

        Until the context ends, no other process may train in the folder. Raises `RunFolderError`, also if another
        process has trained in it since its checkpoint was loaded.
        """
        if not self.writes:
            yield
            return
        versions = {"commit": working_commit(), **tool_versions()}
        with ExitStack() as held:
            try:
                (self.path / "samples").mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(self.path / ".lock", timeout=SECONDS_FOR_LOCK))
                if _version(self.checkpoint) != self._loaded:
                    raise RunFolderError(f"another process has trained on in '{self.path}' meanwhile; resume again")
                for half in self.path.glob(".*.partial*"):  # what a killed run was writing
                    half.unlink()
                settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
                write_atomically(self._config, settings.encode())
                write_atomically(self.path / "versions.json", (json.dumps(versions, indent=2) + "\n").encode())
                if self._losses.exists():
                    kept = [row for row in self._logged() if row["step"] <= steps.get(row["phase"], 0)]
                    write_atomically(self._losses, "".join(json.dumps(row) + "\n" for row in kept).encode())
            except Timeout:
                raise RunFolderError(f"another process is training in '{self.path}'; stop it, then resume") from None
            except OSError as error:
                raise RunFolderError(
                    f"run folder '{self.path}' cannot be written ({error.strerror}); choose another with --out"
                ) from error
            yield

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The content of the last checkpoint, or None.

        Raises `CheckpointError`, also if it holds no run that this version resumes.
        """
        self._loaded = _version(self.checkpoint)
        content = load_checkpoint(self.checkpoint) if self.checkpoint.exists() else None
        if content is not None:
            require_resumable(self.checkpoint, content)
        return content

    def keep_checkpoint(self, phase: str, step: int, count: int) -> None:
        """Adds a numbered copy of the checkpoint, and keeps the last `count` of them."""
        if not count or not self.writes:
            return
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{phase}-{step:08d}.pt", lambda name: _link(self.checkpoint, name))
        for old in sorted(folder.glob("*.pt"))[:-count]:  # damsm comes before gan
            old.unlink(missing_ok=True)

    def log(self, row: dict[str, Any]) -> None:
        """Appends a row to losses.jsonl."""
        if not self.writes:
            return
        with self._losses.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _logged(self) -> list[dict[str, Any]]:
        rows = []
        for line in self._losses.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # half a line: the run was killed while writing
                break
        return rows


def _version(path: Path) -> tuple[int, int] | None:
    """What changes if a file is replaced; None if there is none."""
    with suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None


def _link(path: Path, name: Path) -> None:
    """Gives a file that is only ever replaced another name; copies it where there are no hard links."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The keys of a config that differ but may not change, of those that both versions have."""
    old, new = _flat(before), _flat(now)
    return ", ".join(sorted(key for key in old.keys() & new.keys() - CHANGEABLE if old[key] != new[key]))


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values
