"""Writes a sheet of pictures to look at: `python -m training.data.synthbirds --out sheet.png`."""

from pathlib import Path

import click
from PIL import Image

from training.data.synthbirds import Split, SynthBirds


@click.command(epilog="Example:  python -m training.data.synthbirds --out sheet.png --side 128 --columns 10 --rows 10")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The picture file to write."
)
@click.option(
    "--side", type=click.IntRange(min=32), default=128, show_default=True, help="Side of each picture in pixels."
)
@click.option("--columns", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--rows", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
@click.option("--captions", is_flag=True, help="Print the captions of each picture, too.")
def main(out: Path, side: int, columns: int, rows: int, split: Split, captions: bool) -> None:
    """Draw a sheet of synthbirds."""
    birds = SynthBirds(split, columns * rows, side)
    sheet = Image.new("RGB", (columns * side, rows * side))
    for number in range(len(birds)):
        example = birds[number]
        sheet.paste(Image.fromarray(example.image), (number % columns * side, number // columns * side))
        if captions:
            click.echo("\n  ".join((example.key, *example.captions)))
    sheet.save(out)
    click.echo(out, err=captions)


if __name__ == "__main__":
    main()
