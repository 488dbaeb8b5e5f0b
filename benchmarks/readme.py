"""README's table of speeds, written from docs/benchmarks/report.json: `python -m benchmarks.readme [--check]`."""

import sys
from pathlib import Path

from benchmarks.quality import consistency, fid
from benchmarks.report import FILE, Report, read_report
from benchmarks.tables import interval, of_bundle, psnr, ratio, share
from t2i_engine.table import size

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
REPORT = ROOT / "docs" / "benchmarks" / FILE
BEGIN, END = "<!-- benchmark: python -m benchmarks.readme -->", "<!-- /benchmark -->"
NO_GPU = "**Rows of GPUs have not been measured yet.**"


def section(report: Report) -> str:
    """What stands between the marks: the smallest batch with all threads and the largest, in words and a table."""
    cases = of_bundle(report)
    batches = {one.case.batch for one in cases}
    threads = max(one.case.threads for one in cases)
    shown = [one for one in cases if one.case.batch in (min(batches), max(batches)) and one.case.threads == threads]
    machine, sizes = report.machine, report.network.sizes
    side = sizes["resolution"]
    where = (
        f"`{report.network.name}`, {side} × {side} pixels, base width {sizes['base_channels']}, on {machine.cpu} with "
        f"{threads} processors, {report.created[:10]}. A request is captions in, PNG files out; medians with their "
        "95 % confidence intervals. × PyTorch: how many times PyTorch eager's speed. Of the limit: how near the "
        "generator comes to what this machine's own matrix products and memory allow. Conditions, latencies, scaling "
        "and all other rows: [docs/benchmarks](docs/benchmarks/report.md)."
    )
    head = ["row", "batch", "request, ms", "pictures/s", "× PyTorch", "of the limit", "memory", "PSNR, dB"]
    figures = {one.row: one for one in report.quality}
    if figures:
        head += ["FID", "as asked"]
    lines = [head, ["---"] * len(head)]
    for one in shown:
        line = [f"`{one.case.row}`", f"{one.case.batch}", interval(one.request), f"{one.pictures_per_second:.1f}"]
        line += [ratio(one.speedup), share(one.share), size(one.peak_memory), psnr(report.facts(one.case))]
        if figures:
            found = figures.get(one.case.row)
            line += [_shown(fid(found) if found else None), _shown(consistency(found) if found else None, " %")]
        lines.append(line)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    absent = [] if any(one.case.device != "cpu" for one in cases) else [NO_GPU]
    missing = [f"Not measured: {', '.join(f'`{row}` ({why})' for row, why in report.unavailable.items())}."]
    return "\n\n".join([where, table, " ".join([*absent, *(missing if report.unavailable else [])])]).strip()


def updated(readme: str, report: Report | None) -> str:
    """The README with what belongs between the marks; without a report, that nothing has been measured."""
    before, _, rest = readme.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{README.name} has no place for the table: {BEGIN} and {END} expected")
    return f"{before}{BEGIN}\n\n{section(report) if report else f'Not measured yet. {NO_GPU}'}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Writes the README, or with --check says whether it is as it should be."""
    readme = README.read_text(encoding="utf-8")
    wanted = updated(readme, read_report(REPORT) if REPORT.exists() else None)
    if arguments == ["--check"]:
        if readme != wanted:
            print("README.md is not what docs/benchmarks/report.json says: python -m benchmarks.readme")
        return int(readme != wanted)
    if arguments:
        raise SystemExit("usage: python -m benchmarks.readme [--check]")
    README.write_text(wanted, encoding="utf-8")
    return 0


def _shown(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.1f}{unit}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
