"""README's table of speeds, made from docs/benchmarks/report.json: `python -m benchmarks.readme [--check]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import FILE, Measured, Report, read_report
from benchmarks.tables import describe_network, figure, interval, of_bundle, psnr, ratio, thread_count
from benchmarks.targets import EAGER
from t2i_engine.files import write_atomically
from t2i_engine.formats import all_formats
from t2i_engine.table import size
from training.evaluation import table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
REPORT = ROOT / "docs" / "benchmarks" / FILE
BEGIN, END = "<!-- benchmark: python -m benchmarks.readme -->", "<!-- /benchmark -->"
NO_GPU = (
    "**No GPU was used here.** ONNX Runtime [has been measured on an "
    "H200](docs/lab/graphs.md#onnx-runtime-on-an-h200); TensorRT has not yet."
)
ROWS = 5


def section(report: Report) -> str:
    """What belongs between the markers: a table to choose a format by, and one sentence of conditions."""
    head = ["format", "request, ms", "pictures/s", "speed-up", "% of roofline", "peak memory", "PSNR, dB"]
    quality = {one.target: one for one in report.quality}
    shown, rows = _choices(report), []
    for one in shown:
        cells = [f"`{one.case.label}`", interval(one.request), f"{one.pictures_per_second:.1f}", ratio(one.speedup)]
        cells += [figure(one.roofline_share, ".0%"), size(one.peak_memory), psnr(report.static_metrics(one.case))]
        if quality:
            found = quality.get(one.case.target)
            cells += [
                figure(value, ".1f") for value in ((found.fid, found.attribute_accuracy) if found else (None, None))
            ]
        rows.append(tuple(cells))
    case, gpus = shown[0].case, any(one.case.device != "cpu" for one in report.cases)
    conditions = (
        f"`{report.network.name}` ({describe_network(report.network)}) at batch {case.batch} with "
        f"{thread_count(case.threads)} on {report.machine.cpu}, {report.created[:10]}. A request turns captions into "
        "PNG files; times are medians, with 95 % confidence intervals in parentheses. Speed-ups are over PyTorch in "
        "eager mode. % of roofline says how close the generator comes to the limits set by this machine's measured "
        "peak throughput and memory bandwidth. PSNR is that of the worst picture, compared with PyTorch in fp32. For "
        f"each backend{' and device' if gpus else ''}, the table has the fastest format, and the fastest whose "
        "pictures match PyTorch's to within one level of 255. The [report](docs/benchmarks/report.md) has all targets, "
        "batch sizes and conditions."
    )
    lines = table(head + (["FID", "attribute accuracy, %"] if quality else []), rows)
    return f"{lines}\n\n{conditions}{'' if gpus else f' {NO_GPU}'}"


def _choices(report: Report) -> list[Measured]:
    """For each backend and device, the fastest format and the fastest within one level of PyTorch; eager comes last."""
    cases = of_bundle(report)
    batch = min(one.case.batch for one in cases)
    threads = max(one.case.threads for one in cases if one.case.batch == batch)
    backends = {row.name: row.backend for row in all_formats()}
    found: dict[tuple[str, str, bool], Measured] = {}
    for one in cases:  # fastest first
        backend = backends.get(one.case.target)
        if backend and (one.case.batch, one.case.threads) == (batch, threads):
            found.setdefault((one.case.device, backend, False), one)
            if report.is_exact(one.case):
                found.setdefault((one.case.device, backend, True), one)
    chosen = sorted({one.case: one for one in found.values()}.values(), key=lambda one: one.request.p50)
    eager = [one for one in chosen if one.case.target == EAGER]
    return [one for one in chosen if one not in eager][: ROWS - len(eager)] + eager


def updated(readme: str, report: Report) -> str:
    """The README with its table."""
    before, _, rest = readme.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{README.name} has no place for the table: {BEGIN} and {END} expected")
    return f"{before}{BEGIN}\n\n{section(report)}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the README, or with --check returns 1 if it is out of date."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.readme", description="Write the benchmark table of README.md."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if README.md is out of date")
    options = parser.parse_args(arguments)
    readme = README.read_text(encoding="utf-8")
    wanted = updated(readme, read_report(REPORT))
    if not options.check:
        write_atomically(README, wanted.encode())
    elif readme != wanted:
        print("README.md does not match docs/benchmarks/report.json; run: python -m benchmarks.readme")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
