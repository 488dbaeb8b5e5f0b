"""`t2i-engine convert-dfgan`: DF-GAN's public files to a checkpoint."""

import shlex
from pathlib import Path

import click

from t2i_engine.cli import progress
from t2i_engine.errors import needs_extra


@click.command(epilog="Example:  t2i-engine convert-dfgan ... --out model.pt, then t2i-engine export")
@click.option("--generator", type=Path, required=True, metavar="FILE", help="netG_*.pth or state_epoch_*.pth.")
@click.option("--text-encoder", type=Path, required=True, metavar="FILE", help="text_encoder*.pth.")
@click.option("--captions", type=Path, required=True, metavar="FILE", help="captions.pickle or captions_DAMSM.pickle.")
@click.option("--out", type=Path, required=True, metavar="FILE", help="The checkpoint to write, such as model.pt.")
def convert_dfgan(generator: Path, text_encoder: Path, captions: Path, out: Path) -> None:
    """Convert DF-GAN's public files to a checkpoint.

    Reads files of both releases of its code. Nothing in the files is executed. Prints the checkpoint's path.
    """
    with needs_extra("t2i-engine convert-dfgan", "export"):
        from training.dfgan import convert_dfgan

    click.echo(bytes(convert_dfgan(generator, text_encoder, captions, out)))
    progress(f"Try:  t2i-engine export {shlex.quote(str(out))} --out {shlex.quote(str(out.with_suffix('')))}")
