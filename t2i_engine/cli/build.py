"""`t2i-engine build`: what a bundle's formats need built before they run here, such as TensorRT engines."""

import click


@click.command(epilog="Example:  t2i-engine build birds --formats tensorrt-fp16")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--formats", default="all", metavar="NAMES", help="Formats that need a build, comma-separated.")
def build(bundle: str, formats: str) -> None:
    """Build what BUNDLE's formats need here: TensorRT engines for this machine's GPU.

    They are stored in this machine's cache and compared with the bundle's reference. Needs neither PyTorch nor ONNX.
    """
    from t2i_engine.backend_selection import backend_status
    from t2i_engine.backends import find_backend
    from t2i_engine.bundle import Bundle
    from t2i_engine.errors import BundleError, listed
    from t2i_engine.formats import find

    opened = Bundle.open(bundle)
    named = [] if formats == "all" else [find(name.strip()).name for name in formats.split(",")]
    rows = [row for row in opened.formats if hasattr(find_backend(row.backend), "build")]
    if not rows:
        raise BundleError(
            f"bundle {opened.name!r} has no format that needs a build, such as TensorRT's: "
            "t2i-engine export BUNDLE --formats tensorrt-fp16"
        )
    if missing := [name for name in named if name not in [row.name for row in rows]]:
        there = listed(row.name for row in rows)
        raise BundleError(f"bundle {opened.name!r} has no format {missing[0]!r} to build; those it has: {there}")
    rows = [row for row in rows if not named or row.name in named]
    installed = [row for row in rows if not backend_status(row.backend).lacks]
    for row in rows if named or not installed else installed:
        find_backend(row.backend).build(opened, row)  # type: ignore[attr-defined]  # optional in `Backend`
