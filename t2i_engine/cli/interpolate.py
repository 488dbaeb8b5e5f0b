"""`t2i-engine interpolate`: between two captions, two seeds, or both."""

from pathlib import Path

import click

from t2i_engine.cli import engine_options, introduce, parse_seeds
from t2i_engine.errors import OptionError


@click.command(epilog='Example:  t2i-engine interpolate "a yellow bird" "a blue bird" --steps 8 --out strip.png')
@click.argument("captions", nargs=-1, required=True, metavar="CAPTION [CAPTION]")
@engine_options
@click.option("--seeds", type=parse_seeds, default="0", metavar="SEEDS", help="One seed for all pictures, or two: 3,9.")
@click.option("--steps", type=int, default=8, metavar="N", help="Number of pictures, ends included.")
@click.option(
    "--out",
    type=Path,
    metavar="FILE",
    help="A strip (.png, .jpg, .webp) or an animation (.gif).  [default: a PNG here, named after the captions]",
)
def interpolate(
    captions: tuple[str, ...],
    bundle: str,
    seeds: list[int],
    steps: int,
    truncation: float,
    backend: str,
    precision: str,
    device: str,
    threads: int | None,
    exact_words: bool,
    out: Path | None,
) -> None:
    """Interpolate between two captions, two seeds, or both.

    Prints the path of the file.
    """
    from t2i_engine.engine import Engine

    if len(captions) > 2 or len(seeds) > 2:
        raise OptionError(f"found captions: {len(captions)}, seeds: {len(seeds)}; one or two of each expected")
    if len({*captions}) == len({*seeds}) == 1:
        raise OptionError("both ends are the same picture; give two captions, or two seeds: --seeds 3,9")
    with Engine.open(bundle, backend, precision, device, threads, exact_words=exact_words) as engine:
        introduce(engine, backend, precision, device)
        strip = engine.interpolate((captions[0], captions[-1]), (seeds[0], seeds[-1]), steps, truncation)
        click.echo(bytes(strip.save(out or strip.file_name)))
