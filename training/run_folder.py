"""The folder of a run and what lies in it.

config.yaml     what was asked for         samples/*.png   fixed captions and seeds, every N steps
versions.json   what it was run with       losses.jsonl    losses, averaged between reports
checkpoint.pt   the model, and everything that resuming needs
best.pt         the same where FID was lowest, if it is measured
checkpoints/    the last ones by number, if they are kept
tensorboard/    losses, learning rates, samples and FID, a folder for each phase
"""

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import yaml

from t2i_engine.errors import UserError
from training.checkpoint import load_checkpoint
from training.config import RunConfig, load_config
from training.distributed import is_first
from training.provenance import tool_versions, working_commit

CHANGEABLE = {
    "data.source",  # data may have moved; whether they are the same is seen by what they hold
    "gan.steps",
    "gan.generator_learning_rate",
    "gan.discriminator_learning_rate",
    "precision",
    "compile",
    "checkpoint_every",
    "keep_checkpoints",
    "fid.every",
    "sample_every",
    "sample_captions",
}
"""What a resumed run may be asked to do otherwise; everything else makes it another run."""


class RunFolderError(UserError):
    """A run folder that is taken, missing, cannot be written, or belongs to another config."""


class RunFolder:
    """A run's folder, new or taken up again. Nothing is written before `begin`, and only by the first process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes = is_first()
        self.checkpoint = path / "checkpoint.pt"
        self.best = path / "best.pt"
        self._config = path / "config.yaml"
        self._losses = path / "losses.jsonl"

    def require_new(self) -> None:
        """Raises `RunFolderError` where the folder holds a run already."""
        if self._config.exists() or self.checkpoint.exists():
            raise RunFolderError(
                f"'{self.path}' already holds a run; go on with --resume, or choose another folder with --out"
            )

    def resumed(self, config: RunConfig) -> RunConfig:
        """The config to go on with: `config`, with the run's own initial model where it names none.

        Raises `RunFolderError` where there is no run, or where `config` differs in more than may change.
        """
        if not self._config.exists():
            raise RunFolderError(f"'{self.path}' holds no run to resume; leave out --resume to begin one")
        before = load_config(self._config)
        config = config.model_copy(update={"initial": config.initial or before.initial})
        changed = set(_differing(before.model_dump(), config.model_dump())) - CHANGEABLE
        if changed:
            raise RunFolderError(
                f"'{self.path}' is a run of another config ({', '.join(sorted(changed))} differ); "
                "resume it with its own config.yaml, or begin another with --out"
            )
        return config

    def require_checkpoint_of(self, provenance: dict[str, Any], config: RunConfig) -> None:
        """Raises `RunFolderError` where the checkpoint is of another config than the run, naming the differing keys."""
        now = config.model_dump(mode="json")
        changed = set(_differing(provenance["config"], now)) - CHANGEABLE
        if changed:
            raise RunFolderError(
                f"'{self.checkpoint}' is a checkpoint of another config ({', '.join(sorted(changed))} differ); "
                "put the run's own back, or begin another run from it with --init"
            )

    @property
    def how_to_go_on(self) -> str:
        """The command that resumes the run as it was, whatever it was started with."""
        folder, config = shlex.quote(str(self.path)), shlex.quote(str(self._config))
        return f"t2i-engine train {config} --out {folder} --resume"

    def begin(self, config: RunConfig) -> None:
        """Makes the folder and writes down what is run, and with what. Raises `RunFolderError`."""
        if not self.writes:
            return
        versions = {"commit": working_commit(), **tool_versions()}
        try:
            (self.path / "samples").mkdir(parents=True, exist_ok=True)
            for half in self.path.glob(".*.tmp"):  # what a run that was killed was writing
                half.unlink()
            _write(self._config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
            _write(self.path / "versions.json", json.dumps(versions, indent=2) + "\n")
        except OSError as error:
            raise RunFolderError(
                f"run folder '{self.path}' cannot be written ({error.strerror}); choose another with --out"
            ) from error

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The content of the last checkpoint; None where there is none yet. Drops the losses logged after it.

        Raises `CheckpointError`, and `RunFolderError` where the checkpoint is not one of a run.
        """
        content = load_checkpoint(self.checkpoint) if self.checkpoint.exists() else None
        if content is not None and "position" not in content["state"]:
            raise RunFolderError(f"'{self.checkpoint}' holds weights alone; begin a run from them with --init")
        steps = content["state"]["position"]["steps"] if content else {}
        if self.writes and self._losses.exists():
            kept = [row for row in self._logged() if row["step"] <= steps.get(row["phase"], 0)]
            _write(self._losses, "".join(json.dumps(row) + "\n" for row in kept))
        return content

    def keep_checkpoint(self, phase: str, step: int, count: int) -> None:
        """Keeps the checkpoint under its number, too, and of those that are kept the last `count`."""
        if not count or not self.writes:
            return
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        _link(self.checkpoint, folder / f"{phase}-{step:08d}.pt")
        for old in sorted(folder.glob("*.pt"))[:-count]:  # damsm comes before gan
            old.unlink(missing_ok=True)

    def tensorboard(self, phase: str) -> Path:
        """Where TensorBoard finds the curves of a phase."""
        return self.path / "tensorboard" / phase

    def sample(self, step: int) -> Path:
        """Where the sample grid of a step belongs."""
        return self.path / "samples" / f"{step:06d}.png"

    def log(self, row: dict[str, Any]) -> None:
        """Appends one row to the losses."""
        if not self.writes:
            return
        with self._losses.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _logged(self) -> list[dict[str, Any]]:
        rows = []
        for line in self._losses.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # half a line: the run was killed while it wrote
                break
        return rows


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _link(path: Path, name: Path) -> None:
    """Gives a file that is never written to, only replaced, another name; a copy where there are no hard links."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}.tmp")
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        temporary.replace(name)
    finally:
        temporary.unlink(missing_ok=True)  # replace leaves it where both were names of one file already


def _differing(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key in before.keys() & now.keys():
        if isinstance(before[key], dict):
            keys += _differing(before[key], now[key], f"{prefix}{key}.")
        elif before[key] != now[key]:
            keys.append(prefix + key)
    return keys
