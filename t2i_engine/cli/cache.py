"""`t2i-engine cache`: what this machine's cache holds, and clearing it."""

import click


@click.group(invoke_without_command=True, epilog="Example:  t2i-engine cache clear --kind pictures")
@click.pass_context
def cache(context: click.Context) -> None:
    """Show what the cache holds, or clear it.

    It holds compiled graphs and engines, rendered data sets and statistics of real pictures; all are rebuilt when
    needed.
    """
    from t2i_engine.files import CACHE_KINDS, cache_contents, cache_folder, size_on_disk
    from t2i_engine.table import aligned, size

    if context.invoked_subcommand:
        return
    rows = [
        (kind, f"{len(files):,}", size(sum(map(size_on_disk, files))), CACHE_KINDS.get(kind, ""))
        for kind, files in cache_contents().items()
    ]
    click.echo(bytes(cache_folder()))
    for line in aligned([("kind", "files", "size", ""), *rows]) if rows else ["(empty)"]:
        click.echo(f"  {line}")


@cache.command()
@click.option("--kind", metavar="KIND", help="One of the kinds that t2i-engine cache lists.  [default: all]")
def clear(kind: str | None) -> None:
    """Delete what the cache holds, and print how much space that freed."""
    from t2i_engine.files import clear_cache
    from t2i_engine.table import size

    files, freed = clear_cache(kind)
    click.echo(f"{files:,} files deleted, {size(freed)} freed")
