"""report.md: the report for a README or a pull request."""

from benchmarks.report import Report
from benchmarks.tables import Table, all_tables, verdict


def as_markdown(report: Report) -> str:
    """Every table, the most wanted first; warnings above them all."""
    machine = report.machine
    where = f"{machine.cpu}, {machine.usable_processors} processors, {report.created}"
    title = f"# Benchmark of {report.network.name}\n\n{where}"
    warnings = [f"> **{warning[0].upper()}{warning[1:]}.**" for warning in report.warnings]
    answer = [found[0].upper() + found[1:]] if (found := verdict(report)) else []
    return "\n\n".join([title, *warnings, *answer, *map(table_as_markdown, all_tables(report))]) + "\n"


def table_as_markdown(table: Table) -> str:
    """A heading, the table, and its note."""
    lines = [table.head, tuple("---" for _ in table.head), *table.rows]
    rows = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
    return f"## {table.title}\n\n{rows}" + (f"\n\n{table.note}" if table.note else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
