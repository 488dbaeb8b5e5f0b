"""`t2i-engine evaluate`: FID, R-precision and other measures of a bundle or a checkpoint."""

import json

import click

from t2i_engine.cli import backend_options, truncation_option
from t2i_engine.errors import needs_extra


@click.command(epilog="Example:  t2i-engine evaluate birds --data synthbirds --metrics fid,attributes --count 5000")
@click.argument("model", metavar="BUNDLE|CHECKPOINT|STATE")
@click.option(
    "--data",
    metavar="SOURCE",
    help="Test split to compare with: cub:PATH, folder:PATH, …  [default: synthbirds, for models trained on it]",
)
@click.option(
    "--metrics",
    default="fid,kid",
    metavar="NAMES",
    help="Any of fid, fid-floor, kid, clip-fid, r-precision, attributes, diversity.",
)
@click.option("--count", type=int, default=30_000, metavar="N", help="Captions to draw; the default is the paper's.")
@click.option(
    "--real-resolution",
    type=int,
    metavar="N",
    help="Side of the real pictures for fid, fid-floor, kid and clip-fid.  [default: the model's]",
)
@truncation_option
@click.option("--encoders", metavar="CHECKPOINT", help="Encoders for r-precision.  [default: the CHECKPOINT's own]")
@backend_options
@click.option("--update-manifest", is_flag=True, help="Also write the results into BUNDLE's manifest.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON instead of Markdown.")
def evaluate(
    model: str,
    data: str | None,
    metrics: str,
    count: int,
    real_resolution: int | None,
    truncation: float,
    encoders: str | None,
    backend: str,
    precision: str,
    device: str,
    update_manifest: bool,
    as_json: bool,
) -> None:
    """Measure the quality of a model's pictures.

    Draws pictures for the test split's captions with the model, and compares them with the real ones.
    """
    with needs_extra("t2i-engine evaluate", "evaluate"):
        from training.evaluation import evaluate as evaluation

    bundle = evaluation.open_writable_bundle(model) if update_manifest else None
    opened = evaluation.open_model(model, backend, precision, device)
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    data = data or evaluation.own_data(opened)
    found = evaluation.evaluate(opened, data, names, encoders or model, count, real_resolution, truncation)
    if bundle:
        evaluation.add_to_manifest(bundle, found)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else found.as_markdown())
