"""What an ablation reports: a table, curves, and the pictures of every row for the same captions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from t2i_engine.files import cache_folder, write_atomically
from training.config import load_config
from training.data.source import open_source
from training.evaluation import table
from training.evaluation.clip import INSTALL
from training.evaluation.evaluate import open_model
from training.figures import Model, comparison
from training.progress import Progress

FEW = 20  # points of a curve that are marked
CURVES = {
    "test FID": "FID of the test split",
    "fid": "FID of held-out pictures",
    **{loss: loss for loss in ("G adversarial", "D real", "D fake", "D mismatch")},
}
STYLES = ("-", "--", ":", "-.")
"""Line styles of a row's seeds, which share a colour."""


@dataclass(frozen=True)
class Result:
    """One row with one seed, trained and evaluated."""

    row: str
    seed: int
    folder: Path
    figures: Mapping[str, Any]
    """As `t2i-engine evaluate --json` gives them, with `count`, `parameters` and `provenance`."""
    log: Sequence[Mapping[str, Any]]
    """Losses by GAN step, with `fid` and `test FID` at some."""

    @property
    def images(self) -> int:
        """Real pictures that the GAN saw, over all segments of the run."""
        provenance = self.figures["provenance"]
        return int(provenance["steps"]["gan"]) * self._images_per_step

    @property
    def rate(self) -> float | None:
        """Images per second: the median over the log's reports, which neither a pause nor a resumption affects.

        None if they are all within the log's 0.1 seconds.
        """
        reports = [{"step": 0, "seconds": 0.0}, *(line for line in self.log if "seconds" in line)]
        steps_per_second = [
            (after["step"] - before["step"]) / (after["seconds"] - before["seconds"])
            for before, after in pairwise(reports)
            if after["seconds"] > before["seconds"]
        ]
        return self._images_per_step * float(median(steps_per_second)) if steps_per_second else None

    @property
    def hours(self) -> float | None:
        """What all images take at that rate."""
        return self.images / self.rate / 3600 if self.rate else None

    @property
    def _images_per_step(self) -> int:
        provenance = self.figures["provenance"]
        settings = provenance["config"]["gan"]
        return int(settings["batch_size"] * settings["gradient_accumulation"] * provenance.get("processes", 1))


class Column(NamedTuple):
    """A measured column of the table."""

    head: str
    template: str
    value: Callable[[Result], float | None]


COLUMNS = (
    Column("FID", "{:.2f}", lambda one: one.figures["fid"]["value"]),
    Column("KID × 1000", "{:.2f}", lambda one: 1000 * one.figures["kid"]["mean"]),
    Column("CLIP-FID", "{:.2f}", lambda one: one.figures.get("clip_fid", {}).get("value")),
    Column("R-precision, %", "{:.1f}", lambda one: one.figures["r_precision"]["generated"]),
    Column("generator's parameters", "{:,}", lambda one: one.figures["parameters"]["generator"]),
    Column("trained, images/s", "{:.0f}", lambda one: one.rate),
    Column("hours", "{:.2f}", lambda one: one.hours),
)


def write_results(folder: Path, results: Sequence[Result]) -> Path:
    """Writes table.md, curves.png, figure.png and each result's sample grid into `folder`; returns the table's path.

    The figure shows every row's first seed.
    """
    figures = {
        "curves.png": _curves(results),
        "figure.png": _comparison([seeds[0] for seeds in _by_row(results).values()]),
    }
    for name, figure in figures.items():
        write_atomically(folder / name, partial(figure.savefig, dpi=120))
    for result in results:
        with Image.open(max((result.folder / "samples").glob("*.png"))) as grid:
            write_atomically(
                folder / f"samples-{result.folder.name}.jpg", partial(grid.convert("RGB").save, quality=90)
            )
    return write_atomically(folder / "table.md", (_table(results) + "\n").encode())


def _by_row(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each row, in their order."""
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(result.row, []).append(result)
    return rows


def _table(results: Sequence[Result]) -> str:
    lines = []
    for row, seeds in _by_row(results).items():
        lines += [(row, str(one.seed), *(_cell(column, [one]) for column in COLUMNS)) for one in seeds]
        if len(seeds) > 1:
            lines.append((row, "mean ± standard deviation", *(_cell(column, seeds) for column in COLUMNS)))
    last = results[-1].figures
    side = f"{last['real_resolution']} × {last['real_resolution']}"
    conditions = [
        f"FID of {last['fid']['pictures']:,} pictures against {last['fid']['real']:,} at {side}, truncation "
        f"{last['truncation']:g}; KID over {last['kid']['subsets']} subsets of {last['kid']['subset_size']:,}.",
        f"Real pictures reach an R-precision of {last['r_precision']['real']:.1f} %.",
        "Standard deviations are the sample's, over seeds.",
        "Images/s: the median between reports, without pauses; hours: all images of the GAN at that speed.",
        *([f"CLIP-FID needs its network: {INSTALL}."] if "clip_fid" not in last else []),
        *([last["note"]] if last["note"] else []),
    ]
    return "\n\n".join([table(("row", "seed", *(column.head for column in COLUMNS)), lines), " ".join(conditions)])


def _cell(column: Column, seeds: Sequence[Result]) -> str:
    """The value that all seeds have, or its mean and standard deviation; a dash unless it was measured for all."""
    values = [value for one in seeds if (value := column.value(one)) is not None]
    if len(values) < len(seeds):
        return "–"
    if len(set(values)) == 1:
        return column.template.format(values[0])
    return f"{column.template.format(mean(values))} ± {column.template.format(stdev(values))}"


def _curves(results: Sequence[Result]) -> Figure:
    names = [name for name in CURVES if any(name in line for result in results for line in result.log)]
    figure = Figure(figsize=(3.6 * len(names), 3.2), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        for number, seeds in enumerate(_by_row(results).values()):
            for place, result in enumerate(seeds):
                lines = [line for line in result.log if name in line]
                axis.plot(
                    [line["step"] for line in lines],
                    [line[name] for line in lines],
                    label=f"{result.row}, seed {result.seed}",
                    color=f"C{number}",
                    linestyle=STYLES[place % len(STYLES)],
                    linewidth=1,
                    marker="o" if len(lines) < FEW else "",  # a single point has no line
                    markersize=3,
                )
        axis.set(title=CURVES[name], xlabel="step")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


def _comparison(results: Sequence[Result]) -> Figure:
    models = [Model(result.row, open_model(str(result.folder / "checkpoint.pt")).sampler) for result in results]
    data = load_config(results[0].folder / "config.yaml").data.source
    with Progress() as progress:
        return comparison(models, open_source(data, results[0].figures["count"]), cache_folder(), progress)
