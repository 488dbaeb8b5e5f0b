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


@deploy.command(epilog="Example:  t2i-engine deploy triton birds --out triton")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--out", type=Path, required=True, metavar="DIR", help="Folder to write; new or empty.")
@click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "openvino", "tensorrt"]),
    default="onnxruntime",
    show_default=True,
    help="Triton's backend for both networks.",
)
def triton(bundle: str, out: Path, backend: str) -> None:
    """Write a model repository for NVIDIA Triton, with a client.

    The ensemble in it, named as BUNDLE, turns captions and seeds into pictures. TensorRT's engines are built on the
    machine that runs them: README.md in the folder says how. Prints the folder's path.
    """
    from export.deploy.triton import deploy_triton

    click.echo(bytes(deploy_triton(bundle, out, backend, progress)))
