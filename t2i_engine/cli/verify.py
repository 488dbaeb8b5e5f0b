"""`t2i-engine verify`: a bundle against its manifest, its reference and PyTorch."""

import json

import click

from t2i_engine.cli import progress


@click.command(epilog="Example:  t2i-engine verify birds")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def verify(context: click.Context, bundle: str, as_json: bool) -> None:
    """Verify BUNDLE: a name, a folder or hf:OWNER/NAME.

    Compares its files with the manifest, and its formats with the stored reference and, if PyTorch is installed, with
    PyTorch. The last line is PASSED, or FAILED with exit code 1.
    """
    from t2i_engine.bundle import Bundle
    from t2i_engine.parity import GATE, GateSize
    from t2i_engine.verify import verify

    found = verify(Bundle.open(bundle), progress, context.find_object(GateSize) or GATE)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else found.as_text())
    context.exit(0 if found.passed else 1)
