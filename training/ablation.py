"""An ablation: runs of one config that differ in a few keys, trained and evaluated alike.

    python -m training.ablation training/configs/ablations/cub-64.yaml --out runs/ablation

A row that is already trained or evaluated is not repeated, and an interrupted one resumes; one that was trained with
other settings is an error. A run's measurements are in its folder: evaluation.json, and fid_by_step.json.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from t2i_engine.errors import Interrupted, UserError, listed
from t2i_engine.files import write_atomically
from training.ablation_report import Result, write_results
from training.checkpoint import load_model
from training.config import ConfigError, RunConfig, load_config
from training.evaluation import clip
from training.evaluation.evaluate import check_request, evaluate, open_model
from training.stages import train_files

ENCODERS, EVALUATION_ENCODERS = "encoders", "evaluation-encoders"
METRICS = ("fid", "kid", "r-precision")
UNCROPPED = {"random_crop": False}
"""What earlier versions compared with, whatever the rows were trained on."""
FIXED = ("gan.generator_learning_rate", "gan.discriminator_learning_rate", "precision")
"""Keys that a run may change when it resumes, but then it would no longer be the row that the table says it is."""


class Row(BaseModel):
    """One row of the table: a name, and the config keys that it sets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    set: dict[str, Any] = {}
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)

    @property
    def slug(self) -> str:
        """Its name as used in its folders' names."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


class Ablation(BaseModel):
    """A config and the rows made from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: Path
    evaluation_encoders: dict[str, Any] = {}
    """Config keys of separate encoders for R-precision; without them the rows' own encoders measure it."""
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]


def load_ablation(path: Path) -> Ablation:
    """Reads a YAML file of rows; its config's path is relative to it. Raises `ConfigError`."""
    try:
        ablation = Ablation.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or pydantic's
        details = error.errors() if isinstance(error, ValidationError) else []
        reason = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in details) or str(error)
        raise ConfigError(f"ablation '{path}' cannot be read: {reason}") from error
    slugs = [row.slug for row in ablation.rows]
    if alike := [row.name for row in ablation.rows if not row.slug or slugs.count(row.slug) > 1]:
        raise ConfigError(
            f"ablation '{path}': rows are not told apart by the letters and digits of their names: {listed(alike)}; "
            "rename them"
        )
    return ablation.model_copy(update={"config": path.parent / ablation.config})


@dataclass(frozen=True)
class Planned:
    """A run of an ablation: in this folder, with these changes of the config."""

    folder: Path
    assignments: list[str]
    config: RunConfig
    row: str = ""
    """Its row's name; empty for encoders."""


@dataclass(frozen=True)
class AblationRun:
    """Trains and evaluates an ablation's rows, each in a folder in `out`."""

    ablation: Ablation
    out: Path
    assignments: tuple[str, ...]
    """Config changes of every row, KEY=VALUE."""
    count: int
    """Pictures drawn for the table, the same for every row."""
    real_resolution: int | None = None
    """The resolution of the real pictures that distances compare with; None: the rows' own."""
    curve_count: int = 0
    """Pictures drawn for the FID of each kept checkpoint; 0: none."""

    def results(self) -> Iterator[Result]:
        """Trains and evaluates every row with its first seed, to compare rows early, then with the other seeds.

        Raises `UserError` before anything is trained if a row, a count or a folder cannot be used.
        """
        planned = list(self._plan())
        for one in planned:
            self._check(one)
        for one in planned:
            print(f"training {one.folder}", file=sys.stderr)
            resume = (one.folder / "config.yaml").exists()
            checkpoint = train_files(self.ablation.config, one.folder, resume, None, one.assignments)
            if one.row:
                yield self._result(one, checkpoint)

    def _plan(self) -> Iterator[Planned]:
        """The runs in their order.

        First come the encoders that all rows share, unless the config names others, and those for evaluation, which
        are trained from scratch; each has a single, unused GAN step.
        """
        shared = self._planned(ENCODERS, [*self.assignments, "gan.steps=1"])
        given: list[str] = []
        if shared.config.damsm.init_from is None:
            yield shared
            given = [f"damsm.init_from={json.dumps(str(shared.folder / 'checkpoint.pt'))}"]
        if changes := self.ablation.evaluation_encoders:
            own = [*self.assignments, "damsm.init_from=null", *_assignments(changes), "gan.steps=1"]
            yield self._planned(EVALUATION_ENCODERS, own)
        for seeds in zip_longest(*(row.seeds for row in self.ablation.rows)):
            for row, seed in zip(self.ablation.rows, seeds, strict=True):
                if seed is not None:
                    changed = [*given, *self.assignments, f"seed={seed}", *_assignments(row.set)]
                    yield self._planned(f"{row.slug}-{seed}", changed, row.name)

    def _planned(self, folder: str, assignments: list[str], row: str = "") -> Planned:
        config = load_config(self.ablation.config, assignments)
        if config.stages:
            raise ConfigError(f"config '{self.ablation.config}' has stages; rows are single runs: --set 'stages=[]'")
        return Planned(self.out / folder, assignments, config, row)

    def _check(self, planned: Planned) -> None:
        config, stored = planned.config, planned.folder / "config.yaml"
        real_resolution = self.real_resolution or config.data.resolution
        check_request(METRICS, self.count, real_resolution)
        if self.curve_count:
            check_request(("fid",), self.curve_count, real_resolution)
        if planned.row and not (self.ablation.evaluation_encoders or config.damsm.init_from):
            raise ConfigError(f"row {planned.row!r} has no encoders to measure it by; name some in evaluation_encoders")
        if not stored.exists():
            return
        before = load_config(stored)
        changed = [key for key in FIXED if attrgetter(key)(before) != attrgetter(key)(config)]
        if config.gan.steps < before.gan.steps:
            changed.append("gan.steps")
        if changed:
            raise ConfigError(
                f"'{planned.folder}' was trained with another {listed(changed)}; "
                "rename the row, or remove that folder to train it again"
            )

    def _result(self, planned: Planned, checkpoint: Path) -> Result:
        config, seed = planned.config, planned.config.seed
        figures = self._figures(checkpoint, config)
        logged = map(json.loads, checkpoint.with_name("losses.jsonl").read_text(encoding="utf-8").splitlines())
        log = [line for line in logged if line["phase"] == "gan"]
        return Result(planned.row, seed, planned.folder, figures, [*log, *self._curve(planned.folder, config)])

    def _figures(self, checkpoint: Path, config: RunConfig) -> dict[str, Any]:
        """The metrics of a trained run: reuses those measured in the same way, and measures what is missing."""
        trained = load_model(checkpoint)
        metrics = (*METRICS, "clip-fid") if clip.is_installed() else METRICS
        conditions = {
            "provenance": trained.provenance,
            "count": self.count,
            "real_resolution": self.real_resolution or trained.model.sizes.resolution,
            "random_crop": config.data.random_crop,
            "evaluation_encoders": self.ablation.evaluation_encoders,
        }
        file = checkpoint.with_name("evaluation.json")
        stored = _read(file)
        figures = stored if (UNCROPPED | stored).items() >= conditions.items() else {}
        if missing := [metric for metric in metrics if metric.replace("-", "_") not in figures]:
            networks = trained.model.named_children()
            parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in networks}
            found = self._evaluate(checkpoint, config, missing, self.count)
            figures = {**figures, **found, "parameters": parameters, **conditions}
            _write(file, figures)
        return figures

    def _curve(self, run: Path, config: RunConfig) -> list[dict[str, Any]]:
        """The FID of the run's kept checkpoints, by step, and of those measured and deleted since."""
        if not self.curve_count:
            return []
        file = run / "fid_by_step.json"
        conditions = {
            "count": self.curve_count,
            "real_resolution": self.real_resolution,
            "random_crop": config.data.random_crop,
        }
        stored = _read(file)
        fids = stored["fid"] if (UNCROPPED | stored).items() >= conditions.items() else {}
        for checkpoint in sorted((run / "checkpoints").glob("gan-*.pt")):
            step = str(int(checkpoint.stem.removeprefix("gan-")))
            if step not in fids:
                fids[step] = self._evaluate(checkpoint, config, ("fid",), self.curve_count)["fid"]["value"]
                _write(file, {**conditions, "fid": fids})
        return [{"step": int(step), "test FID": fid} for step, fid in sorted(fids.items(), key=lambda one: int(one[0]))]

    def _evaluate(self, checkpoint: Path, config: RunConfig, metrics: Sequence[str], count: int) -> dict[str, Any]:
        separate = str(self.out / EVALUATION_ENCODERS / "checkpoint.pt")
        encoders = separate if self.ablation.evaluation_encoders else config.damsm.init_from
        assert encoders is not None
        print(f"evaluating {checkpoint}", file=sys.stderr)
        model = open_model(str(checkpoint))
        return evaluate(model, config.data.source, metrics, encoders, count, self.real_resolution).as_json()


def _read(file: Path) -> dict[str, Any]:
    """The content of a JSON file; nothing if it does not exist."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _write(file: Path, content: dict[str, Any]) -> None:
    write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())


def _assignments(changes: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and evaluates every row of a file; after each, writes the results so far and prints the table's path."""
    parser = argparse.ArgumentParser(prog="python -m training.ablation", description="Train and evaluate every row.")
    parser.add_argument("rows", type=Path, metavar="ROWS.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the runs' folder; existing ones resume")
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE", help="change every row's config"
    )
    parser.add_argument("--count", type=int, default=2_949, metavar="N", help="pictures drawn per row (default: 2949)")
    parser.add_argument(
        "--real-resolution",
        type=int,
        metavar="N",
        help="side of the real pictures for FID and KID (default: the rows')",
    )
    parser.add_argument(
        "--curve-count",
        type=int,
        default=0,
        metavar="N",
        help="pictures drawn for the FID of each kept checkpoint (default: 0, no curve)",
    )
    parser.add_argument("--results", type=Path, metavar="DIR", help="table, curves, figure (default: OUT/results)")
    options = parser.parse_args(arguments)
    try:
        run = AblationRun(
            load_ablation(options.rows),
            options.out,
            tuple(options.assignments),
            options.count,
            options.real_resolution,
            options.curve_count,
        )
        names = [row.name for row in run.ablation.rows]
        results: list[Result] = []
        for result in run.results():
            results.append(result)
            results.sort(key=lambda one: names.index(one.row))  # stable: a row's seeds stay in the order of training
            print(write_results(options.results or options.out / "results", results))
    except UserError as error:
        parser.exit(2, f"error: {error.message}\n")
    except Interrupted as stopped:
        parser.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
