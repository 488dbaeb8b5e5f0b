"""Captions in, pictures out, in milliseconds: the public API of t2i-engine."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from t2i_engine.bundle import Bundle
    from t2i_engine.engine import Engine
    from t2i_engine.errors import UserError
    from t2i_engine.pictures import Picture

__all__ = ["Bundle", "Engine", "Picture", "UserError", "__version__", "generate"]

_HOMES = {
    "Bundle": "t2i_engine.bundle",
    "Engine": "t2i_engine.engine",
    "Picture": "t2i_engine.pictures",
    "UserError": "t2i_engine.errors",
}


def generate(caption: str, seed: int = 0, truncation: float = 1.0) -> "Picture":
    """Draws one picture with the default bundle, opened once per process; raises what `Engine.generate` raises."""
    return _default_engine().generate(caption, seed, truncation)


@cache
def _default_engine() -> "Engine":
    from t2i_engine.engine import Engine

    return Engine.open()


def __getattr__(name: str) -> object:
    # Imported on first use, so that `import t2i_engine` and the command line start quickly.
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("t2i-engine")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
