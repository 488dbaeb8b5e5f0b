"""`t2i-engine build`: a bundle's TensorRT engines for this machine's GPU."""

import click


@click.command(epilog="Example:  t2i-engine build birds --formats tensorrt-fp16")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--formats", default="all", metavar="NAMES", help="TensorRT formats, comma-separated.")
def build(bundle: str, formats: str) -> None:
    """Build BUNDLE's TensorRT engines for this machine's GPU.

    They are stored in this machine's cache and compared with the bundle's reference. Needs neither PyTorch nor ONNX.
    """
    from t2i_engine.backend_selection import backend_status
    from t2i_engine.backends import find_backend
    from t2i_engine.bundle import Bundle
    from t2i_engine.formats import find
    from t2i_engine.tensorrt.engines import build_engines

    opened = Bundle.open(bundle)
    named = None if formats == "all" else [find(name.strip()).name for name in formats.split(",")]
    rows = [
        row
        for row in opened.formats
        if hasattr(find_backend(row.backend), "needs_build") and (named is None or row.name in named)
    ]
    installed = [row for row in rows if not backend_status(row.backend).lacks]
    build_engines(opened, rows if named or not installed else installed)
