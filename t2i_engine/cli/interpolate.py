"""`t2i-engine interpolate`: pictures on the way from one caption, or seed, to another."""

from pathlib import Path

import click

from t2i_engine.cli import parse_seeds
from t2i_engine.errors import OptionError


@click.command(epilog='Example:  t2i-engine interpolate "a yellow bird" "a blue bird" --steps 8 --out strip.png')
@click.argument("captions", nargs=-1, required=True, metavar="CAPTION [CAPTION]")
@click.option("--bundle", default="birds", metavar="NAME|DIR", help="An embedded bundle or a folder.")
@click.option("--seeds", type=parse_seeds, default="0", metavar="SEEDS", help="One seed for all pictures, or two: 3,9.")
@click.option("--steps", type=int, default=8, metavar="N", help="Pictures, with both ends.")
@click.option(
    "--truncation", type=float, default=1.0, metavar="X", help="In (0, 1]; lower values trade variety for fidelity."
)
@click.option("--backend", default="auto", metavar="NAME", help="See t2i-engine info.")
@click.option("--precision", default="auto", metavar="NAME", help="See t2i-engine info.")
@click.option("--device", default="auto", metavar="NAME", help="cpu or cuda.")
@click.option("--out", type=Path, metavar="FILE", help="A strip (.png, .jpg, .webp) or a film (.gif).")
def interpolate(
    captions: tuple[str, ...],
    bundle: str,
    seeds: list[int],
    steps: int,
    truncation: float,
    backend: str,
    precision: str,
    device: str,
    out: Path | None,
) -> None:
    """Draw the way from one CAPTION to another, from one seed to another, or both at once.

    Prints the path of the file.
    """
    from t2i_engine.engine import Engine

    if len(captions) > 2 or len(seeds) > 2:
        raise OptionError(
            f"{len(captions)} captions and {len(seeds)} seeds; a way has two ends: give one or two of each"
        )
    if len({*captions}) == len({*seeds}) == 1:
        raise OptionError("both ends are the same picture; give two captions, or two seeds: --seeds 3,9")
    with Engine.open(bundle, backend, precision, device) as engine:
        if "auto" in (backend, precision, device):
            click.echo(f"bundle {engine.bundle.name}: auto chose {engine.selection}", err=True)
        strip = engine.interpolate((captions[0], captions[-1]), (seeds[0], seeds[-1]), steps, truncation)
        click.echo(bytes(strip.save(out or strip.file_name)))
