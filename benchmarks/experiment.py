"""Runs of one config that differ in a few keys, trained and measured alike, to see what each difference is worth.

    python -m benchmarks.experiment training/configs/experiments/cub-64.yaml --out runs/cub-64-rows

Rows that were trained or measured before are not again, and one that was stopped goes on where it stood.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import click
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.experiment_report import Finding, write_report
from t2i_engine.errors import UserError
from training.checkpoint import load_model
from training.config import RunConfig, load_config
from training.evaluation.evaluate import evaluate, open_model
from training.run import train_files

ENCODERS, JUDGE = "encoders", "judge"


class ExperimentError(UserError):
    """A file of rows that cannot be read or does not fit the schema."""


class Row(BaseModel):
    """One row of the table: a name, and what it changes in the config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    set: dict[str, Any] = {}
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)

    def folder(self, seed: int) -> str:
        """The name of its run's folder."""
        return f"{re.sub(r'[^a-z0-9]+', '-', self.name.lower()).strip('-')}-{seed}"


class Experiment(BaseModel):
    """A config and the rows that are made of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: Path
    judge: dict[str, Any] = {}
    """What is changed in the config for encoders that judge R-precision alone; without it, the rows' own judge."""
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]


def load_experiment(path: Path) -> Experiment:
    """Reads a YAML file of rows; the config's path is as seen from there. Raises `ExperimentError`."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        experiment = Experiment.model_validate(content)
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or pydantic's
        reasons = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in _details(error)] or [str(error)]
        raise ExperimentError(f"experiment '{path}' cannot be read: {' '.join('; '.join(reasons).split())}") from error
    return experiment.model_copy(update={"config": path.parent / experiment.config})


def _assignments(changes: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def _details(error: Exception) -> list[Any]:
    return list(error.errors()) if isinstance(error, ValidationError) else []


@dataclass(frozen=True)
class Laboratory:
    """Where an experiment is made: its rows' folders, and what is common to all of them."""

    experiment: Experiment
    out: Path
    assignments: tuple[str, ...]
    count: int
    """Pictures drawn for FID and R-precision, the same in every row."""

    @property
    def encoders(self) -> Path:
        """The checkpoint whose encoders all rows are trained with."""
        return self.out / ENCODERS / "checkpoint.pt"

    def train_encoders(self) -> None:
        """Trains DAMSM for the rows and for their judge, each with one step of a GAN that nobody uses."""
        config = load_config(self.experiment.config, self.assignments)
        if config.damsm.init_from is None:
            self._train(ENCODERS, [*self.assignments, "gan.steps=1"])
        if judge := self.experiment.judge:
            self._train(JUDGE, [*self.assignments, *_assignments(judge), "gan.steps=1"])

    def findings(self) -> Iterator[Finding]:
        """Trains and measures the rows: with their first seeds, so that they can soon be compared, then the others."""
        rows = self.experiment.rows
        for turn in range(max(len(row.seeds) for row in rows)):
            for row in rows:
                if turn < len(row.seeds):
                    yield self._finding(row, row.seeds[turn])

    def _finding(self, row: Row, seed: int) -> Finding:
        assignments = [f"damsm.init_from={json.dumps(str(self.encoders))}", *self.assignments, f"seed={seed}"]
        assignments += _assignments(row.set)
        checkpoint = self._train(row.folder(seed), assignments)
        file = checkpoint.parent / "evaluation.json"
        figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        measured = {
            "provenance": load_model(checkpoint).provenance,
            "count": self.count,
            "judge": self.experiment.judge,
        }
        if any(figures.get(key) != value for key, value in measured.items()):
            figures = self._measure(checkpoint, load_config(self.experiment.config, assignments)) | measured
            file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        return Finding(row.name, seed, checkpoint.parent, figures)

    def _train(self, folder: str, assignments: list[str]) -> Path:
        out = self.out / folder
        click.echo(f"training {out}", err=True)
        return train_files(self.experiment.config, out, out.exists(), None, assignments)

    def _measure(self, checkpoint: Path, config: RunConfig) -> dict[str, Any]:
        encoders = str(self.out / JUDGE / "checkpoint.pt") if self.experiment.judge else config.damsm.init_from
        assert encoders is not None
        found = evaluate(
            open_model(str(checkpoint)), config.data.source, ("fid", "r-precision"), encoders, self.count
        ).as_json()
        trained = load_model(checkpoint)
        parameters = {name: sum(p.numel() for p in net.parameters()) for name, net in trained.model.named_children()}
        return {**found, "parameters": parameters}


@click.command()
@click.argument("rows", type=Path, metavar="ROWS.yaml")
@click.option(
    "--out", type=Path, required=True, metavar="FOLDER", help="Where its runs are; a second time, they go on."
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change the config of all rows.")
@click.option("--count", default=2_949, show_default=True, metavar="N", help="Pictures drawn to measure each row.")
@click.option("--report", type=Path, metavar="FOLDER", help="Where table, curves and figure go.  [default: OUT/report]")
def main(rows: Path, out: Path, assignments: tuple[str, ...], count: int, report: Path | None) -> None:
    """Train and measure every row of ROWS.yaml, and write what was found."""
    laboratory = Laboratory(load_experiment(rows), out, assignments, count)
    laboratory.train_encoders()
    names = [row.name for row in laboratory.experiment.rows]
    findings: list[Finding] = []
    for finding in laboratory.findings():
        findings.append(finding)
        findings.sort(key=lambda found: names.index(found.row))  # and the seeds of a row as they were trained
        click.echo(write_report(report or out / "report", findings))


if __name__ == "__main__":
    main()
