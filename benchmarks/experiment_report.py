"""What an experiment found: a table, curves, sample grids, and the same captions drawn by several rows."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from t2i_engine.files import cache_folder
from t2i_engine.pictures import Pixels
from training.config import load_config
from training.data.rendered import render
from training.data.sources import open_source
from training.evaluation import GeneratedBatch, table
from training.evaluation.draws import CaptionDraws
from training.evaluation.evaluate import open_model

CAPTIONS = 10
FEW = 20
CURVES = ("fid", "G adversarial", "D real", "D fake", "D mismatch")
HEAD = ("row", "seed", "FID", "R-precision, %", "parameters of the generator", "trained, images/s", "hours")


@dataclass(frozen=True)
class Finding:
    """One row with one seed, trained and measured."""

    row: str
    seed: int
    folder: Path
    figures: Mapping[str, Any]
    """As `t2i-engine evaluate --json` gives them, with `count`, `parameters` and `provenance`."""

    @property
    def name(self) -> str:
        """Row and seed."""
        return f"{self.row}, seed {self.seed}"

    @property
    def checkpoint(self) -> Path:
        """What was measured."""
        return self.folder / "checkpoint.pt"

    def logged(self) -> list[dict[str, Any]]:
        """The losses and FIDs of the GAN's steps."""
        lines = (self.folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()
        return [row for row in map(json.loads, lines) if row["phase"] == "gan"]


def write_report(folder: Path, findings: Sequence[Finding]) -> Path:
    """Writes table.md, curves.png, figure.png and a grid for each finding into `folder`; returns the table's path.

    The figure shows the first row and the last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _curves(findings).savefig(folder / "curves.png", dpi=120)
    compared = [next(finding for finding in findings if finding.row == row) for row in _ends(findings)]
    _comparison(compared).savefig(folder / "figure.png", dpi=120)
    for finding in findings:
        grid = max((finding.folder / "samples").glob("*.png"))
        with Image.open(grid) as picture:
            picture.convert("RGB").save(folder / f"samples-{finding.folder.name}.jpg", quality=90)
    path = folder / "table.md"
    path.write_text(_table(findings) + "\n", encoding="utf-8")
    return path


def _ends(findings: Sequence[Finding]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((findings[0].row, findings[-1].row)))


def _table(findings: Iterable[Finding]) -> str:
    rows, conditions = [], ""
    for finding in findings:
        figures, provenance = finding.figures, finding.figures["provenance"]
        fid, precision = figures["fid"], figures["r_precision"]
        settings, hours = provenance["config"]["gan"], provenance["hours"]
        images = provenance["steps"]["gan"] * settings["batch_size"] * settings["gradient_accumulation"]
        rows.append(
            (
                finding.row,
                str(finding.seed),
                f"{fid['value']:.2f}",
                f"{precision['generated']:.1f}",
                f"{figures['parameters']['generator']:,}",
                f"{images / finding.logged()[-1]['seconds']:.0f}",
                f"{hours:.2f}",
            )
        )
        conditions = (
            f"FID of {fid['pictures']:,} pictures against {fid['real']:,}; real pictures reach an R-precision of "
            f"{precision['real']:.1f} %. {figures['note']}".strip()
        )
    return f"{table(HEAD, rows)}\n\n{conditions}"


def _curves(findings: Sequence[Finding]) -> Figure:
    logs = {finding.name: finding.logged() for finding in findings}
    names = [name for name in CURVES if any(name in row for log in logs.values() for row in log)]
    figure = Figure(figsize=(3.6 * len(names), 3.2), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for number, (label, log) in enumerate(logs.items()):
            points = [(row["step"], row[name]) for row in log if name in row]
            marker = "o" if len(points) < FEW else ""  # one point alone has no line
            if points:
                axis.plot(*zip(*points, strict=True), label=label, color=f"C{number}", linewidth=1, marker=marker)
        axis.set_title("FID" if name == "fid" else name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def _comparison(findings: Sequence[Finding]) -> Figure:
    """The paper's manner: under each caption the real picture and what each row draws, with the same seed."""
    samples = [_first_samples(finding) for finding in findings]
    lines: list[tuple[str, Pixels]] = [("real", samples[0].real)]
    lines += [(finding.row, sample.pixels) for finding, sample in zip(findings, samples, strict=True)]
    figure = Figure(figsize=(1.3 * CAPTIONS, 1.35 * len(lines) + 0.8), layout="constrained")
    axes = figure.subplots(len(lines), CAPTIONS, squeeze=False)
    for line, (name, pixels) in zip(axes, lines, strict=True):
        line[0].set_ylabel(textwrap.fill(name, 14), fontsize=8)
        for axis, picture in zip(line, pixels[:CAPTIONS], strict=True):
            axis.imshow(picture)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, caption in zip(axes[0], samples[0].captions, strict=False):
        axis.set_title(textwrap.fill(textwrap.shorten(caption, 90, placeholder=" …"), 20), fontsize=6)
    return figure


def _first_samples(finding: Finding) -> GeneratedBatch:
    """The first captions of the test split, of different pictures, with the seeds 0, 1 and so on."""
    model = open_model(str(finding.checkpoint))
    source = load_config(finding.folder / "config.yaml").data.source
    listing = open_source(source, finding.figures["count"]).listing("test")
    real = render(listing, model.sampler.sizes.resolution, cache_folder())
    return next(CaptionDraws(model.sampler, real, CAPTIONS).batches())
