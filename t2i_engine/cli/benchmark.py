"""`t2i-engine benchmark`: measures a bundle, writes reports, and compares with an earlier one."""

import shlex
import signal
import sys
from pathlib import Path

import click

from t2i_engine.cli import progress
from t2i_engine.errors import Interrupted, OptionError, needs_extra, quoted


def parse_numbers(text: str) -> tuple[int, ...]:
    """Comma-separated whole numbers, such as 1,4,16. Raises `OptionError` for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise OptionError(f"{quoted(text)} cannot be read; comma-separated numbers such as 1,4,16 expected")
    return tuple(int(part) for part in parts)


@click.command(epilog="Example:  t2i-engine benchmark birds --quick")
@click.argument("bundle", default="birds", metavar="[BUNDLE|paper]")
@click.option(
    "--formats", default="all", show_default=True, metavar="NAMES", help="Targets to measure: onnx,openvino,…"
)
@click.option("--batch-sizes", type=parse_numbers, metavar="N,…", help="Pictures per batch.  [default: 1,4,16]")
@click.option("--threads", type=parse_numbers, metavar="N,…", help="CPU threads.  [default: 1 and all processors]")
@click.option("--minutes", type=float, metavar="N", help="Time for the timed rounds, without setup.  [default: 4]")
@click.option("--quick", is_flag=True, help="One minute in all: batch 1, all processors, no other resolutions.")
@click.option(
    "--out", type=Path, default=Path("runs/benchmark"), show_default=True, metavar="DIR", help="Folder for the reports."
)
@click.option("--baseline", type=Path, metavar="FILE", help="An earlier report.json to compare with.")
@click.option(
    "--max-regression",
    type=float,
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="Fail if a case is slower by more.",
)
@click.option("--compare-anyway", is_flag=True, help="Accept a baseline of another machine, network or schema.")
@click.option("--quality", type=int, metavar="COUNT", help="Also FID and text consistency, of COUNT pictures a format.")
@click.option("--data", default="synthbirds", show_default=True, metavar="SOURCE", help="Data set for --quality.")
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
    """Measure how fast each format is here, and how fast it could be.

    Measures PyTorch, torch.compile and plain exports beside BUNDLE's formats. Writes report.json, report.md and
    report.html, and prints their paths. With a baseline, prints the change of every case; the exit code is 1 if one is
    slower by more than both --max-regression and the noise. Ctrl-C stops it and reports what was measured so far.
    """
    with needs_extra("t2i-engine benchmark", "benchmark"):
        from benchmarks.command import Comparison, run
        from benchmarks.plan import Options

    options = Options(formats, batch_sizes, threads, minutes, quick)
    comparison = Comparison(baseline, max_regression, compare_anyway) if baseline else None
    command = shlex.join(["t2i-engine", *sys.argv[1:]])
    done = run(bundle, options, out, comparison, (data, quality) if quality is not None else None, command, progress)
    for path in done.paths:
        click.echo(bytes(path))
    for line in done.lines:
        click.echo(line)
    if done.interrupted:
        raise Interrupted(signal.SIGINT)
    context.exit(int(done.failed))
