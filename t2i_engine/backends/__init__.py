"""Backends, one module each: this project's own here, others announced by the entry point group of this name."""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from t2i_engine.backends.base import Backend

ENTRY_POINTS = "t2i_engine.backends"


def find_backend(name: str) -> "Backend":
    """The module of a backend of the table of formats."""
    found = third_party_backends().get(name)
    return found or cast("Backend", import_module(f"t2i_engine.backends.{name.replace('-', '_')}"))


@cache
def third_party_backends() -> "dict[str, Backend]":
    """Modules that other distributions announce, by backend name. Raises `BackendError` if one cannot be imported.

    An entry point `NAME = "MODULE"` announces a module that has what `Backend` requires, and the backend's `FORMATS`.
    """
    from importlib.metadata import entry_points

    from t2i_engine.errors import BackendError

    found = {}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            found[entry.name] = cast("Backend", entry.load())
        except Exception as error:  # whatever somebody else's module raises
            dist = entry.dist.name if entry.dist else entry.value
            raise BackendError(
                f"the backend {entry.name!r} cannot be loaded ({error}); repair or uninstall {dist}"
            ) from error
    return found
