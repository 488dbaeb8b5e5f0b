"""The folder of a run and what lies in it.

config.yaml     what was asked for         samples/*.png   fixed captions and seeds, every N steps
versions.json   what it was run with       losses.jsonl    losses, averaged between reports
checkpoint.pt   the model, and everything that resuming needs
"""

import json
from pathlib import Path
from typing import Any

import yaml

from t2i_engine.errors import UserError
from training.checkpoint import load_checkpoint
from training.config import RunConfig, load_config
from training.provenance import tool_versions, working_commit


class RunFolderError(UserError):
    """A run folder that is taken, missing, or that belongs to another config."""


class RunFolder:
    """A run's folder, new or taken up again."""

    def __init__(self, path: Path, config: RunConfig, resume: bool) -> None:
        """Makes the folder, or, with `resume`, checks that it is a run of this config. Raises `RunFolderError`."""
        self.path = path
        self.checkpoint = path / "checkpoint.pt"
        self._losses = path / "losses.jsonl"
        written = path / "config.yaml"
        if resume:
            self._check_same_config(written, config)
        elif written.exists():
            raise RunFolderError(
                f"'{path}' already holds a run; go on with --resume, or choose another folder with --out"
            )
        try:
            (path / "samples").mkdir(parents=True, exist_ok=True)
            written.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
            versions = {"commit": working_commit(), **tool_versions()}
            (path / "versions.json").write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise RunFolderError(
                f"run folder '{path}' cannot be written ({error.strerror}); choose another with --out"
            ) from error

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The content of the last checkpoint; None where there is none yet. Drops the losses logged after it."""
        if not self.checkpoint.exists():
            self._losses.unlink(missing_ok=True)
            return None
        content = load_checkpoint(self.checkpoint)
        steps = content["state"]["position"]["steps"]
        if self._losses.exists():
            rows = [json.loads(line) for line in self._losses.read_text(encoding="utf-8").splitlines()]
            kept = [row for row in rows if row["step"] <= steps[row["phase"]]]
            self._losses.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        return content

    def sample(self, step: int) -> Path:
        """Where the sample grid of a step belongs."""
        return self.path / "samples" / f"{step:06d}.png"

    def log(self, row: dict[str, Any]) -> None:
        """Appends one row to the losses."""
        with self._losses.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _check_same_config(self, written: Path, config: RunConfig) -> None:
        if not written.exists():
            raise RunFolderError(f"'{self.path}' holds no run to resume; leave out --resume to begin one")
        before, now = load_config(written).model_dump(), config.model_dump()
        changed = sorted(_differing(before, now))
        if changed:
            raise RunFolderError(
                f"'{self.path}' is a run of another config ({', '.join(changed)} differ); "
                "resume it with its own config.yaml, or begin another with --out"
            )


def _differing(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key in before:
        if isinstance(before[key], dict):
            keys += _differing(before[key], now[key], f"{prefix}{key}.")
        elif before[key] != now[key]:
            keys.append(prefix + key)
    return keys
