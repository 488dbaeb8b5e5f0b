"""`t2i-engine deploy`: a bundle to a folder that another platform serves."""

from pathlib import Path

import click

from t2i_engine.cli import progress


@click.group()
def deploy() -> None:
    """Write a folder that serves a bundle elsewhere."""


@deploy.command(epilog="Example:  t2i-engine deploy web birds --out site && python -m http.server --directory site")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--out", type=Path, required=True, metavar="DIR", help="Folder to write; new or empty.")
@click.option("--runtime", type=Path, metavar="DIR", help="Unpacked npm package onnxruntime-web.  [default: npm's]")
def web(bundle: str, out: Path, runtime: Path | None) -> None:
    """Write a page that draws BUNDLE's pictures on the visitor's machine.

    Any static host can serve it. It needs the format onnx; npm fetches ONNX Runtime Web, unless --runtime has it.
    Prints the folder's path.
    """
    from export.deploy.web import deploy_web

    click.echo(bytes(deploy_web(bundle, out, runtime, progress)))
