"""`t2i-engine benchmark`: parses, measures, writes the reports, and compares with an earlier one."""

import shlex
import sys
from pathlib import Path

import click

from t2i_engine.errors import MissingExtra, OptionError, quoted

INTERRUPTED = 130  # as shells say of Ctrl-C


def parse_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them, 1,4,16. Raises `OptionError` where they are none."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise OptionError(f"{quoted(text)} cannot be read; numbers with commas between them, such as 1,4,16, expected")
    return tuple(int(part) for part in parts)


@click.command(epilog="Example:  t2i-engine benchmark birds --quick")
@click.argument("bundle", default="birds", metavar="[BUNDLE|paper]")
@click.option("--formats", default="all", show_default=True, metavar="NAMES", help="Rows to measure, onnx,openvino,…")
@click.option("--batch-sizes", type=parse_numbers, metavar="N,…", help="Pictures at once.  [default: 1,4,16]")
@click.option("--threads", type=parse_numbers, metavar="N,…", help="On the CPU.  [default: 1 and every processor]")
@click.option(
    "--minutes", type=float, metavar="N", help="For the timed rounds; preparations come on top.  [default: 4]"
)
@click.option("--quick", is_flag=True, help="A minute in all: batch 1, every processor, no other picture sides.")
@click.option(
    "--out", type=Path, default=Path("runs/benchmark"), show_default=True, metavar="DIR", help="Where the reports go."
)
@click.option("--baseline", type=Path, metavar="FILE", help="An earlier report.json to compare with.")
@click.option(
    "--max-regression", type=float, default=10.0, show_default=True, metavar="PERCENT", help="Slower than this fails."
)
@click.option("--compare-anyway", is_flag=True, help="With a baseline of another machine, network or schema, too.")
@click.option("--quality", type=int, metavar="COUNT", help="Also FID and text consistency of COUNT pictures a format.")
@click.option("--data", default="synthbirds", show_default=True, metavar="SOURCE", help="For --quality.")
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

    PyTorch, torch.compile and plain exports are measured beside BUNDLE's formats. Writes report.json, report.md and
    report.html, and prints their paths. With a baseline, the change of every case is printed, and the exit code is 1
    where one is slower by more than both --max-regression and the noise. Ctrl-C ends it with what there is so far.
    """
    try:
        from benchmarks.command import Comparison, run
        from benchmarks.plan import Options
    except ModuleNotFoundError as error:
        raise MissingExtra("t2i-engine benchmark", f"the package {error.name}", "benchmark") from None

    options = Options(formats, batch_sizes, threads, minutes, quick)
    comparison = Comparison(baseline, max_regression, compare_anyway) if baseline else None
    command = shlex.join(["t2i-engine", *sys.argv[1:]])
    done = run(bundle, options, out, comparison, (data, quality) if quality is not None else None, command, _progress)
    for path in done.paths:
        click.echo(bytes(path))
    for line in done.lines:
        click.echo(line)
    context.exit(INTERRUPTED if done.interrupted else int(done.failed))


def _progress(line: str) -> None:
    click.echo(line, err=True)
