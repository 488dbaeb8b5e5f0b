"""`t2i-engine migrate`: updates a bundle or checkpoint of an earlier version."""

from pathlib import Path

import click

from t2i_engine.errors import OptionError, needs_extra, quoted


@click.command(epilog="Example:  t2i-engine migrate my-bundle")
@click.argument("path", type=Path, metavar="BUNDLE|CHECKPOINT")
@click.option("--out", type=Path, metavar="FILE", help="Where to write the checkpoint.  [default: in place]")
def migrate(path: Path, out: Path | None) -> None:
    """Update a bundle or checkpoint of an earlier version.

    Weights and pictures stay the same. A bundle's folder is updated in place. Prints the path.
    """
    from t2i_engine.files import exists

    if not exists(path):
        raise OptionError(f"{quoted(str(path), 200)} cannot be found; give a bundle's folder or a checkpoint")
    if path.is_dir():
        from t2i_engine.migration import migrate_bundle

        if out is not None:
            raise OptionError("--out is for checkpoints; a bundle is rewritten in place")
        click.echo(bytes(migrate_bundle(path)))
        return
    with needs_extra("t2i-engine migrate CHECKPOINT", "export"):
        from training.migration import migrate_checkpoint

    migrate_checkpoint(path, out or path)
    click.echo(bytes(out or path))
