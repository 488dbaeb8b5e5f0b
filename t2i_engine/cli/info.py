"""`t2i-engine info`: what can run here, and what a bundle is."""

import json

import click


@click.command(epilog="Example:  t2i-engine info birds")
@click.argument("bundle", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, with the bundle's whole manifest.")
def info(bundle: str | None, as_json: bool) -> None:
    """Show the backends of this machine, and a bundle.

    Lists each backend, what it lacks to run here, and which one `auto` chooses. BUNDLE is a name, a folder
    or hf:OWNER/NAME.
    """
    from t2i_engine.bundle import Bundle
    from t2i_engine.info import system_info

    found = system_info(Bundle.open(bundle) if bundle is not None else None)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else found.as_text())
