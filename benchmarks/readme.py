"""README's table of speeds, made from docs/benchmarks/report.json: `python -m benchmarks.readme [--check]`."""

import sys
from pathlib import Path

from benchmarks.report import FILE, Measured, Report, read_report
from benchmarks.tables import Table, interval, markdown_rows, of_bundle, optional, psnr, ratio
from benchmarks.targets import EAGER
from t2i_engine.formats import all_formats
from t2i_engine.table import size

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
REPORT = ROOT / "docs" / "benchmarks" / FILE
BEGIN, END = "<!-- benchmark: python -m benchmarks.readme -->", "<!-- /benchmark -->"
NO_GPU = "**GPU formats have not been measured yet.**"
ROWS = 5


def section(report: Report) -> str:
    """What belongs between the markers: a table to choose a format by, and one sentence of conditions."""
    shown = _choices(report)
    quality = {one.target: one for one in report.quality}
    head = ("format", "request, ms", "pictures/s", "× PyTorch", "% of roofline", "memory", "PSNR, dB")
    rows = []
    for one in shown:
        name, figures = one.case.target, quality.get(one.case.target)
        cells = [f"`{name}`", interval(one.request), f"{one.pictures_per_second:.1f}", ratio(one.speedup)]
        cells += [optional(one.roofline_share, ".0%"), size(one.peak_memory), psnr(report.static_metrics(one.case))]
        if quality:
            cells += [optional(getattr(figures, name, None), ".1f") for name in ("fid", "consistency")]
        rows.append(tuple(cells))
    machine, sizes, case = report.machine, report.network.sizes, shown[0].case
    conditions = (
        f"`{report.network.name}` ({sizes['resolution']} × {sizes['resolution']} pixels, {sizes['base_channels']} base "
        f"channels) on {machine.cpu} with {case.threads} threads at batch {case.batch}, {report.created[:10]}: medians "
        "with 95 % confidence intervals of whole requests, captions in, PNG files out; × PyTorch is the speed-up over "
        "PyTorch eager, % of roofline is the generator's share of this machine's measured roofline, and PSNR that of "
        "the worst picture against PyTorch in fp32. Each backend's fastest format, and its fastest with PyTorch's "
        "pictures; [all targets, batches and conditions](docs/benchmarks/report.md)."
    )
    gpus = any(one.case.device != "cpu" for one in of_bundle(report))
    table = markdown_rows(Table("", (*head, "FID", "attributes seen, %") if quality else head, rows))
    return "\n\n".join([table, conditions if gpus else f"{conditions} {NO_GPU}"])


def _choices(report: Report) -> list[Measured]:
    """Of each backend the fastest format, and the fastest within one level of PyTorch; PyTorch eager is the last."""
    cases = of_bundle(report)
    batch = min(one.case.batch for one in cases)
    threads = max(one.case.threads for one in cases if one.case.batch == batch)
    formats = {row.name: row for row in all_formats()}
    found: dict[tuple[str, bool], Measured] = {}
    for one in cases:  # fastest first
        row = formats.get(one.case.target)
        if row and (one.case.batch, one.case.threads) == (batch, threads):
            found.setdefault((row.backend, False), one)
            if report.is_exact(one.case):
                found.setdefault((row.backend, True), one)
    chosen = sorted({one.case: one for one in found.values()}.values(), key=lambda one: one.request.p50)
    eager = [one for one in chosen if one.case.target == EAGER]
    return [one for one in chosen if one.case.target != EAGER][: ROWS - len(eager)] + eager


def updated(readme: str, report: Report | None) -> str:
    """The README with its table; without a report, it says that nothing has been measured."""
    before, _, rest = readme.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{README.name} has no place for the table: {BEGIN} and {END} expected")
    return f"{before}{BEGIN}\n\n{section(report) if report else f'Not measured yet. {NO_GPU}'}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Writes the README, or with --check exits with 1 where it is out of date."""
    readme = README.read_text(encoding="utf-8")
    wanted = updated(readme, read_report(REPORT) if REPORT.exists() else None)
    if arguments == ["--check"]:
        if readme != wanted:
            print("README.md does not match docs/benchmarks/report.json; run: python -m benchmarks.readme")
        return int(readme != wanted)
    if arguments:
        raise SystemExit("usage: python -m benchmarks.readme [--check]")
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
