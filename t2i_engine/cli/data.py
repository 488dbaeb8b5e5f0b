"""`t2i-engine data`: commands about data sets."""

import json
import re
from pathlib import Path

import click

from t2i_engine.cli import progress
from t2i_engine.errors import needs_extra, quoted

UNITS = {"K": 1_000, "M": 1_000_000, "G": 1_000_000_000}


def _size(context: click.Context, parameter: click.Parameter, text: str) -> int:
    """Reads a number of bytes. Units are powers of 1,000, so that a part fits a limit in MB as well as in MiB."""
    found = re.fullmatch(r"([0-9]{1,12})([KMG]?)B?", text.upper())
    size = int(found[1]) * UNITS.get(found[2], 1) if found else 0
    if not 1_000 <= size <= 1_000_000_000:
        raise click.BadParameter(f"{quoted(text)} is not a size from 1K to 1G; write for example 30M")
    return size


@click.group()
def data() -> None:
    """Inspect and pack data sets."""


@data.command(epilog="Example:  t2i-engine data check cub:data/birds")
@click.argument("source", metavar="SOURCE")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON, with every problem by name.")
@click.pass_context
def check(context: click.Context, source: str, as_json: bool) -> None:
    """Report what SOURCE holds, and what is wrong with it.

    SOURCE is cub:PATH, coco:PATH, folder:PATH, webdataset:PATTERN, packed:DIR, synthbirds, or a bare path, recognised
    by its contents. Every picture is decoded (for synthbirds, 500 are drawn). Pictures that are broken, missing or
    without captions are named; training skips them. The exit code is 0 if SOURCE can be trained on despite them, 1 if
    it cannot (no usable training picture, or captions that are not UTF-8), and 2 if there is no such data set.
    """
    with needs_extra("t2i-engine data", "train"):
        from training.data.check import check

    found = check(source, progress)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else found.as_text())
    context.exit(0 if found.usable else 1)


@data.command(epilog="Example:  t2i-engine data pack cub:data/birds --resolution 152 --out data/cub-152")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--resolution", "--side", type=click.IntRange(16, 2048), required=True, metavar="R",
    help="Height and width of the packed pictures: what training will load, or more.",
)  # fmt: skip
@click.option("--part-size", callback=_size, default="30M", metavar="SIZE", help="Largest part: 500K, 30M, 1G.")
@click.option("--train-only", is_flag=True, help="Leave out the test split, which training does not read.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder to write.")
def pack(source: str, resolution: int, part_size: int, train_only: bool, out: Path) -> None:
    """Write SOURCE as a few files, to be read anywhere as packed:DIR.

    It writes an index, packed.json, and parts of pictures. Pictures are cropped to a square and resized as for training
    on SOURCE, then compressed as JPEGs of quality 95 with full colour resolution, which changes pixels slightly (44 dB
    on CUB at 152). Training at another resolution resizes the packed pictures; with data.random_crop it loads 76/64 of
    data.resolution, 152 for 128. Pictures that are broken or have no caption are left out, and counted.
    """
    with needs_extra("t2i-engine data", "train"):
        from training.data.packed import pack
        from training.data.source import SPLITS

    click.echo(pack(source, resolution, part_size, out, progress, ["train"] if train_only else SPLITS))
