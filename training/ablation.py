"""An ablation: runs of one config that differ in a few keys, trained and evaluated alike.

    python -m training.ablation training/configs/ablations/cub-64.yaml --out runs/ablation

A row that is already trained or evaluated is not repeated, and an interrupted one resumes.
"""

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import yaml
from matplotlib.figure import Figure
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from t2i_engine.errors import UserError
from t2i_engine.files import cache_folder
from training.checkpoint import load_model
from training.config import ConfigError, RunConfig, load_config
from training.data.rendered import render
from training.data.source import open_source
from training.evaluation import GeneratedBatch, table
from training.evaluation.draws import CaptionDraws
from training.evaluation.evaluate import evaluate, open_model
from training.loop import train_files

ENCODERS, EVALUATION_ENCODERS = "encoders", "evaluation-encoders"
CAPTIONS = 10  # in the figure
FEW = 20  # points of a curve that are marked
CURVES = ("fid", "G adversarial", "D real", "D fake", "D mismatch")
HEAD = ("row", "seed", "FID", "R-precision, %", "generator's parameters", "trained, images/s", "hours")


class Row(BaseModel):
    """One row of the table: a name, and the config keys that it sets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    set: dict[str, Any] = {}
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)


class Ablation(BaseModel):
    """A config and the rows made from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: Path
    evaluation_encoders: dict[str, Any] = {}
    """Config keys of separate encoders for R-precision; without them the rows' own encoders measure it."""
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Result:
    """One row with one seed, trained and evaluated."""

    row: str
    seed: int
    folder: Path
    figures: Mapping[str, Any]
    """As `t2i-engine evaluate --json` gives them, with `count`, `parameters` and `provenance`."""
    log: Sequence[Mapping[str, Any]]
    """Losses and FID by GAN step."""


def load_ablation(path: Path) -> Ablation:
    """Reads a YAML file of rows; its config's path is relative to it. Raises `ConfigError`."""
    try:
        ablation = Ablation.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or pydantic's
        details = error.errors() if isinstance(error, ValidationError) else []
        reason = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in details) or str(error)
        raise ConfigError(f"ablation '{path}' cannot be read: {reason}") from error
    return ablation.model_copy(update={"config": path.parent / ablation.config})


@dataclass(frozen=True)
class AblationRun:
    """Trains and evaluates an ablation's rows, each in a folder in `out`."""

    ablation: Ablation
    out: Path
    assignments: tuple[str, ...]
    """Config changes of every row, KEY=VALUE."""
    count: int
    """Pictures drawn for FID and R-precision, the same for every row."""

    def results(self) -> Iterator[Result]:
        """Trains and evaluates every row with its first seed, to compare rows early, then with the other seeds.

        First come the encoders that all rows share, and those for evaluation, each with a single, unused GAN step.
        """
        if load_config(self.ablation.config, self.assignments).damsm.init_from is None:
            self._train(ENCODERS, [*self.assignments, "gan.steps=1"])
        if changes := self.ablation.evaluation_encoders:
            self._train(EVALUATION_ENCODERS, [*self.assignments, *_assignments(changes), "gan.steps=1"])
        for seeds in zip_longest(*(row.seeds for row in self.ablation.rows)):
            for row, seed in zip(self.ablation.rows, seeds, strict=True):
                if seed is not None:
                    yield self._result(row, seed)

    def _result(self, row: Row, seed: int) -> Result:
        encoders = json.dumps(str(self.out / ENCODERS / "checkpoint.pt"))
        assignments = [f"damsm.init_from={encoders}", *self.assignments, f"seed={seed}", *_assignments(row.set)]
        name = re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")
        checkpoint = self._train(f"{name}-{seed}", assignments)
        file, log = checkpoint.with_name("evaluation.json"), checkpoint.with_name("losses.jsonl")
        figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        conditions = {
            "provenance": load_model(checkpoint).provenance,
            "count": self.count,
            "evaluation_encoders": self.ablation.evaluation_encoders,
        }
        if any(figures.get(key) != value for key, value in conditions.items()):
            figures = self._evaluate(checkpoint, load_config(self.ablation.config, assignments)) | conditions
            file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        logged = map(json.loads, log.read_text(encoding="utf-8").splitlines())
        return Result(row.name, seed, checkpoint.parent, figures, [line for line in logged if line["phase"] == "gan"])

    def _train(self, folder: str, assignments: list[str]) -> Path:
        out = self.out / folder
        print(f"training {out}", file=sys.stderr)
        return train_files(self.ablation.config, out, out.exists(), None, assignments)

    def _evaluate(self, checkpoint: Path, config: RunConfig) -> dict[str, Any]:
        separate = str(self.out / EVALUATION_ENCODERS / "checkpoint.pt")
        encoders = separate if self.ablation.evaluation_encoders else config.damsm.init_from
        assert encoders is not None
        metrics = ("fid", "r-precision")
        found = evaluate(open_model(str(checkpoint)), config.data.source, metrics, encoders, self.count)
        networks = load_model(checkpoint).model.named_children()
        parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in networks}
        return {**found.as_json(), "parameters": parameters}


def write_results(folder: Path, results: Sequence[Result]) -> Path:
    """Writes table.md, curves.png, figure.png and each result's sample grid into `folder`; returns the table's path.

    The figure compares the first row with the last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _curves(results).savefig(folder / "curves.png", dpi=120)
    ends = [next(one for one in results if one.row == row) for row in dict.fromkeys((results[0].row, results[-1].row))]
    _comparison(ends).savefig(folder / "figure.png", dpi=120)
    for result in results:
        with Image.open(max((result.folder / "samples").glob("*.png"))) as grid:
            grid.convert("RGB").save(folder / f"samples-{result.folder.name}.jpg", quality=90)
    path = folder / "table.md"
    path.write_text(_table(results) + "\n", encoding="utf-8")
    return path


def _table(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        figures, provenance = result.figures, result.figures["provenance"]
        settings = provenance["config"]["gan"]
        images = provenance["steps"]["gan"] * settings["batch_size"] * settings["gradient_accumulation"]
        measured = f"{figures['fid']['value']:.2f}", f"{figures['r_precision']['generated']:.1f}"
        cost = f"{figures['parameters']['generator']:,}", f"{images / result.log[-1]['seconds']:.0f}"
        rows.append((result.row, str(result.seed), *measured, *cost, f"{provenance['hours']:.2f}"))
    last = results[-1].figures
    conditions = (
        f"FID of {last['fid']['pictures']:,} pictures against {last['fid']['real']:,}; real pictures reach an "
        f"R-precision of {last['r_precision']['real']:.1f} %. {last['note']}".strip()
    )
    return f"{table(HEAD, rows)}\n\n{conditions}"


def _curves(results: Sequence[Result]) -> Figure:
    names = [name for name in CURVES if any(name in line for result in results for line in result.log)]
    figure = Figure(figsize=(3.6 * len(names), 3.2), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        for number, result in enumerate(results):
            points = [(line["step"], line[name]) for line in result.log if name in line]
            marker = "o" if len(points) < FEW else ""  # a single point has no line
            if points:
                label = f"{result.row}, seed {result.seed}"
                axis.plot(*zip(*points, strict=True), label=label, color=f"C{number}", linewidth=1, marker=marker)
        axis.set(title="FID" if name == "fid" else name, xlabel="step")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def _comparison(results: Sequence[Result]) -> Figure:
    """As in papers: under each caption the real picture, then each row's, all with the same seed."""
    samples = [_first_samples(result) for result in results]
    lines = [("real", samples[0].real)]
    lines += [(result.row, sample.pixels) for result, sample in zip(results, samples, strict=True)]
    figure = Figure(figsize=(1.3 * CAPTIONS, 1.35 * len(lines) + 0.8), layout="constrained")
    axes = figure.subplots(len(lines), CAPTIONS, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for line, (name, pixels) in zip(axes, lines, strict=True):
        line[0].set_ylabel(textwrap.fill(name, 14), fontsize=8)
        for axis, picture in zip(line, pixels, strict=False):
            axis.imshow(picture)
    for axis, caption in zip(axes[0], samples[0].captions, strict=False):
        axis.set_title(textwrap.fill(textwrap.shorten(caption, 90, placeholder=" …"), 20), fontsize=6)
    return figure


def _first_samples(result: Result) -> GeneratedBatch:
    """The first captions of the test split, of different pictures, with seeds from 0."""
    model = open_model(str(result.folder / "checkpoint.pt"))
    source = load_config(result.folder / "config.yaml").data.source
    listing = open_source(source, result.figures["count"]).listing("test")
    real = render(listing, model.sampler.sizes.resolution, cache_folder())
    return next(CaptionDraws(model.sampler, real, CAPTIONS).batches())


def _assignments(changes: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and evaluates every row of a file; after each, writes the results so far and prints the table's path."""
    parser = argparse.ArgumentParser(prog="python -m training.ablation", description="Train and evaluate every row.")
    parser.add_argument("rows", type=Path, metavar="ROWS.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the runs; given again, they resume")
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE", help="change every row's config"
    )
    parser.add_argument("--count", type=int, default=2_949, metavar="N", help="pictures drawn per row (default: 2949)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="table, curves, figure (default: OUT/results)")
    options = parser.parse_args(arguments)
    try:
        run = AblationRun(load_ablation(options.rows), options.out, tuple(options.assignments), options.count)
        names = [row.name for row in run.ablation.rows]
        results: list[Result] = []
        for result in run.results():
            results.append(result)
            results.sort(key=lambda one: names.index(one.row))  # stable: a row's seeds stay in the order of training
            print(write_results(options.results or options.out / "results", results))
    except UserError as error:
        parser.exit(2, f"error: {error.message}\n")


if __name__ == "__main__":
    main()
