"""`t2i-engine benchmark`: measures, writes the reports, and compares with an earlier one."""

import shlex
import signal
import sys
from pathlib import Path

import click

from t2i_engine.cli import progress
from t2i_engine.errors import Interrupted, OptionError, needs_extra, quoted


def parse_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, such as 1,4,16. Raises `OptionError` for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise OptionError(f"{quoted(text)} cannot be read; expected numbers separated by commas, such as 1,4,16")
    return tuple(int(part) for part in parts)


@click.command(epilog="Example:  t2i-engine benchmark birds --quick")
@click.argument("bundle", default="birds", metavar="[BUNDLE|paper]")
@click.option("--formats", default="all", metavar="NAMES", help="Targets to measure: onnx,openvino,…")
@click.option("--batch-sizes", type=parse_numbers, metavar="N,…", help="Pictures per request.  [default: 1,4,16]")
@click.option("--threads", type=parse_numbers, metavar="N,…", help="CPU threads.  [default: 1 and every processor]")
@click.option("--minutes", type=float, metavar="N", help="Minutes of measuring; preparation is extra.  [default: 4]")
@click.option("--quick", is_flag=True, help="Take about a minute: batch 1, all processors, no other resolutions.")
@click.option("--out", type=Path, default=Path("runs/benchmark"), metavar="DIR", help="Folder for the reports.")
@click.option("--baseline", type=Path, metavar="FILE", help="Compare with an earlier report.json.")
@click.option("--max-regression", type=float, default=10.0, metavar="PERCENT", help="Largest slowdown that passes.")
@click.option("--compare-anyway", is_flag=True, help="Accept a baseline from another machine, network or schema.")
@click.option(
    "--quality", type=int, metavar="COUNT", help="Also measure FID and attribute accuracy of COUNT pictures per format."
)
@click.option("--data", default="synthbirds", metavar="SOURCE", help="Data for --quality.")
@click.pass_context
def benchmark(
    context: click.Context,
    bundle: str,
    formats: str,
    batch_sizes: tuple[int, ...] | None,
    threads: tuple[int, ...] | None,
    minutes: float | None,
    quick: bool,
    out: Path,
    baseline: Path | None,
    max_regression: float,
    compare_anyway: bool,
    quality: int | None,
    data: str,
) -> None:
    """Measure how fast each format is, and how fast it could be.

    PyTorch, torch.compile and plain exports are measured alongside BUNDLE's formats. `paper` is a network of the
    paper's size with random weights, created on first use. Writes report.json, report.md and report.html, and prints
    their paths. With a baseline, prints how each case changed. Exits with 1 if a case crashed, or is slower than in the
    baseline by more than both --max-regression and the noise. Ctrl-C stops it and reports what has been measured.
    """
    with needs_extra("t2i-engine benchmark", "benchmark"):
        from benchmarks.benchmark import Comparison, run
        from benchmarks.targets import Options

    options = Options(formats, batch_sizes, threads, minutes, quick)
    comparison = Comparison(baseline, max_regression, compare_anyway) if baseline else None
    command = shlex.join(["t2i-engine", *sys.argv[1:]])
    asked = (data, quality) if quality is not None else None
    outcome = run(bundle, options, out, comparison, asked, command, progress)
    for path in outcome.paths:
        click.echo(bytes(path))
    for line in outcome.lines:
        click.echo(line)
    if outcome.interrupted:
        raise Interrupted(signal.SIGINT)
    context.exit(int(outcome.failed))
