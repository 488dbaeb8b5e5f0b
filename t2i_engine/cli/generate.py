"""`t2i-engine generate`: captions to picture files."""

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from t2i_engine.cli import engine_options, introduce, parse_seeds, progress
from t2i_engine.errors import CaptionError, OptionError

if TYPE_CHECKING:
    from t2i_engine.backend_selection import BackendSelection
    from t2i_engine.pictures import Picture

MOST_IN_GRID = 1024


@click.command(epilog='Example:  t2i-engine generate "a yellow bird" --seeds 0-7 --grid')
@click.argument("captions", nargs=-1, metavar="[CAPTION]...")
@engine_options
@click.option("--seeds", type=parse_seeds, default="0", metavar="SEEDS", help="One picture per seed: 0,2,5-10.")
@click.option("--captions-file", type=Path, metavar="FILE", help="More captions: UTF-8, one per line.")
@click.option("--skip-unknown", is_flag=True, help="Skip captions without a known word, with a warning.")
@click.option("--batch-size", type=int, default=16, metavar="N", help="Pictures drawn at once.")
@click.option("--out", default=".", metavar="PATH", help="A folder, or a file for one picture or a grid.")
@click.option(
    "--format",
    "picture_format",
    type=click.Choice(["png", "jpg", "webp"]),
    help="Format of files in a folder.  [default: png]",
)
@click.option("--quality", type=int, metavar="N", help="Quality of JPEG and WebP, 1 to 100.  [default: 95]")
@click.option("--grid", "as_grid", is_flag=True, help="All pictures in one file.")
@click.option(
    "--columns", type=click.IntRange(1), metavar="N", help="Columns of the grid.  [default: one row per caption]"
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON description of the pictures.")
def generate(
    captions: tuple[str, ...],
    bundle: str,
    seeds: list[int],
    truncation: float,
    backend: str,
    precision: str,
    device: str,
    threads: int | None,
    exact_words: bool,
    captions_file: Path | None,
    skip_unknown: bool,
    batch_size: int,
    out: str,
    picture_format: str | None,
    quality: int | None,
    as_grid: bool,
    columns: int | None,
    as_json: bool,
) -> None:
    """Draw each CAPTION once per seed.

    Prints the paths of the files.
    """
    from t2i_engine.cli.files import Destination, read_captions
    from t2i_engine.engine import Engine

    texts = [*captions, *(read_captions(captions_file) if captions_file else ())]
    if not texts:
        raise CaptionError('no caption given; describe a picture: t2i-engine generate "a yellow bird"')
    if len(captions) > 2 and not any(" " in caption for caption in captions):
        progress(f"warning: these are {len(captions)} captions; quote a caption of several words")
    count = len(texts) * len(seeds)
    if as_grid and count > MOST_IN_GRID:
        raise OptionError(f"{count:,} pictures are too many for a grid; expected at most {MOST_IN_GRID:,}")
    if columns and not as_grid:
        raise OptionError(f"--columns {columns} is for a grid; add --grid")
    destination = Destination.parse(out, 1 if as_grid else count, picture_format, quality)
    engine = Engine.open(bundle, backend, precision, device, threads, count, exact_words)
    try:
        pictures = engine.generate_all(texts, seeds, truncation, batch_size, skip_unknown)
    except CaptionError as error:
        raise CaptionError(f"{error.message}; --skip-unknown skips it") if len(texts) > 1 else error from None
    introduce(engine, backend, precision, device)
    made = destination.save(pictures, as_grid, columns)
    if as_json:
        click.echo(json.dumps([_described(picture, path, engine.selection) for picture, path in made], indent=2))
    else:
        for path, _ in groupby(path for _, path in made):
            click.echo(bytes(path))  # as the file system knows it, whatever the terminal's encoding


def _described(picture: "Picture", path: Path, selection: "BackendSelection") -> dict[str, object]:
    return {
        "path": str(path),
        "caption": picture.caption,
        "seed": picture.seed,
        "truncation": picture.truncation,
        "bundle": picture.bundle,
        "unknown": picture.unknown,
        "read_as": dict(picture.read_as),
        "milliseconds": round(picture.milliseconds, 3),
        "backend": selection.format.backend,
        "precision": selection.format.precision,
        "device": selection.device,
    }
