"""`t2i-engine data`: commands about data sets."""

import json

import click

from t2i_engine.cli import progress
from t2i_engine.errors import needs_extra


@click.group()
def data() -> None:
    """Inspect data sets."""


@data.command(epilog="Example:  t2i-engine data check cub:data/birds")
@click.argument("source", metavar="SOURCE")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON, with every problem by name.")
@click.pass_context
def check(context: click.Context, source: str, as_json: bool) -> None:
    """Report what SOURCE holds, and what is wrong with it.

    SOURCE is cub:PATH, coco:PATH, folder:PATH, webdataset:PATTERN, synthbirds, or a bare path, recognised by its
    contents. Every picture is decoded (for synthbirds, 500 are drawn). Pictures that are broken, missing or without
    captions are named; training skips them. The exit code is 0 if SOURCE can be trained on despite them, 1 if it cannot
    (no usable training picture, or captions that are not UTF-8), and 2 if there is no such data set.
    """
    with needs_extra("t2i-engine data", "train"):
        from training.data.check import check

    found = check(source, progress)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else found.as_text())
    context.exit(0 if found.usable else 1)
