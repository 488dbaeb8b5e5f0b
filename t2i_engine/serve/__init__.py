"""Serving bundles over HTTP (docs/serving.md)."""

from pathlib import Path
from typing import TYPE_CHECKING

from t2i_engine.engine import DEFAULT_BUNDLE
from t2i_engine.errors import needs_extra

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from t2i_engine.serve.service import Settings


def build_app(*bundles: str | Path, settings: "Settings | None" = None) -> "Starlette":
    """An ASGI app that serves bundles, by name or folder, for any ASGI server.

    Raises a `UserError` if a bundle cannot be served.
    """
    with needs_extra("serving", "serve"):
        from t2i_engine.serve.app import make_app
        from t2i_engine.serve.service import Service, Settings
    return make_app(Service.open(bundles or (DEFAULT_BUNDLE,), settings or Settings()))
