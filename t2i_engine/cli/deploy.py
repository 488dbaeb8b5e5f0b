"""`t2i-engine deploy`: a bundle to a folder that another platform serves."""

from pathlib import Path

import click

from t2i_engine.cli import progress


@click.group()
def deploy() -> None:
    """Write a folder that serves a bundle elsewhere."""


@deploy.command(epilog="Example:  t2i-engine deploy ray birds --out cluster && cd cluster && serve run serve.yaml")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--out", type=Path, required=True, metavar="DIR", help="Folder to write; new or empty.")
@click.option(
    "--min-replicas", type=click.IntRange(0), default=1, metavar="N", help="Fewest replicas; 0: none while idle."
)
@click.option("--max-replicas", type=click.IntRange(1), default=4, metavar="N", help="Most replicas, under load.")
@click.option(
    "--cpus", type=click.IntRange(1, 256), default=1, metavar="N", help="CPUs, and threads that draw, per replica."
)
@click.option(
    "--gpus", type=click.FloatRange(0), default=0.0, metavar="X", help="GPUs per replica; 0.5: two share one."
)
@click.option(
    "--queue", type=click.IntRange(10, 100_000), default=256, metavar="N", help="Pictures that may wait per replica."
)
@click.option("--health-period", type=click.IntRange(1, 3600), default=10, metavar="S", help="Seconds between checks.")
def ray(
    bundle: str,
    out: Path,
    min_replicas: int,
    max_replicas: int,
    cpus: int,
    gpus: float,
    queue: int,
    health_period: int,
) -> None:
    """Write a config and a module with which Ray Serve serves BUNDLE on a cluster.

    A bundle in a folder is copied; one on the hub is pinned, and fetched where it runs. All settings can be changed
    in the files afterwards. Prints the folder's path.
    """
    from export.deploy.ray import Scale, deploy_ray

    scale = Scale(min_replicas, max_replicas, cpus, gpus, queue, health_period)
    click.echo(bytes(deploy_ray(bundle, out, scale)))


@deploy.command(epilog="Example:  t2i-engine deploy web birds --out site && python -m http.server --directory site")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--out", type=Path, required=True, metavar="DIR", help="Folder to write; new or empty.")
@click.option("--runtime", type=Path, metavar="DIR", help="Unpacked npm package onnxruntime-web.  [default: npm's]")
def web(bundle: str, out: Path, runtime: Path | None) -> None:
    """Write a page that draws BUNDLE's pictures on the visitor's machine.

    Any static host can serve it. BUNDLE needs the format onnx. ONNX Runtime Web is fetched by npm, or taken from
    --runtime. Prints the folder's path.
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

    The ensemble in it, named after BUNDLE, turns captions and seeds into pictures. TensorRT's engines are built on the
    machine that runs them: README.md in the folder says how. Prints the folder's path.
    """
    from export.deploy.triton import deploy_triton

    click.echo(bytes(deploy_triton(bundle, out, backend, progress)))
