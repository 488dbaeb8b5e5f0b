"""`t2i-engine export`: a checkpoint to a bundle, or more formats to a bundle."""

import shlex
from pathlib import Path

import click

from t2i_engine.cli import progress
from t2i_engine.errors import ParityError, needs_extra


@click.command(epilog="Example:  t2i-engine export runs/birds/checkpoint.pt --out birds")
@click.argument("source", metavar="CHECKPOINT|STATE|BUNDLE")
@click.option("--out", type=Path, metavar="DIR", help="Folder of the new bundle; without it, formats go into BUNDLE.")
@click.option("--name", metavar="NAME", help="The bundle's name.  [default: its folder's]")
@click.option(
    "--formats", default="onnx", metavar="NAMES", help="onnx,openvino,… or `all`: every format this machine can make."
)
@click.option("--no-fold", is_flag=True, help="Keep upsample + convolution as trained: same pictures, but slower.")
@click.option("--half-weights", is_flag=True, help="Round weights to half precision: halves every file's size.")
@click.pass_context
def export(
    context: click.Context,
    source: str,
    out: Path | None,
    name: str | None,
    formats: str,
    no_fold: bool,
    half_weights: bool,
) -> None:
    """Make a bundle, or add formats to one.

    Every format is compared with PyTorch. Formats outside their tolerance are rejected, and the exit code is 1; if
    none passes, nothing is written. Prints the bundle's path.
    """
    with needs_extra("t2i-engine export", "export"):
        from export.pipeline import export_bundle

    from t2i_engine.parity import GATE, GateSize

    size = context.find_object(GateSize) or GATE
    exported = export_bundle(source, out, name, progress, formats, not no_fold, size, half_weights)
    click.echo(bytes(exported.folder))
    bundle = shlex.quote(str(exported.folder))
    progress(f'Try:  t2i-engine verify {bundle}\n      t2i-engine generate "a yellow bird" --bundle {bundle}')
    if exported.rejected:
        raise ParityError("; ".join(f"rejected {name}: {why}" for name, why in exported.rejected.items()))
