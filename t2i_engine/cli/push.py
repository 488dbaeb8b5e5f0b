"""`t2i-engine push`: a bundle onto the Hugging Face hub."""

import click

from t2i_engine.cli import progress


@click.command(epilog="Example:  t2i-engine push birds me/birds")
@click.argument("bundle", metavar="BUNDLE")
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="If the repository is new, make it private.")
def push(bundle: str, repository: str, private: bool) -> None:
    """Upload BUNDLE to the Hugging Face hub, with a model card.

    Draws the card's pictures first. Prints the address of what was uploaded.
    """
    from t2i_engine.bundle import Bundle
    from t2i_engine.hub import push as push_bundle

    opened = Bundle.open(bundle)
    address = push_bundle(opened, repository, private)
    if opened.license:
        progress(f"bundle {opened.name}: {opened.license}")
    click.echo(address)
    progress(f'Try:  t2i-engine generate "a yellow bird" --bundle {address}')
