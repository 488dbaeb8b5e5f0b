"""Errors that a user can cause: one line each, with what was found, what was expected and what to do."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

OUR_PACKAGES = ("t2i_engine", "export", "training", "benchmarks")


class UserError(Exception):
    """A request that cannot be met with this input or on this machine; the command line prints it and exits with 2."""

    def __init__(self, message: str) -> None:
        self.message = " ".join(message.split())
        super().__init__(self.message)


class OptionError(UserError):
    """An option or argument whose value is unknown or out of range."""


class CaptionError(UserError):
    """A caption that cannot be drawn: empty, too long, or without a single known word."""


class BundleError(UserError):
    """A bundle that is unknown, broken, altered, or of another schema."""


class BackendError(UserError):
    """A backend or device that is not available here."""


class ParityError(UserError):
    """A format whose outputs are outside their tolerance; the command line exits with 1."""


class OutputError(UserError):
    """A file or folder that cannot be written."""


class Interrupted(Exception):  # noqa: N818
    """Work that a signal stopped, with its results saved; the command line exits with `exit_code`, as shells do."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.exit_code = 128 + signal


class MissingExtra(UserError):  # noqa: N818
    """A package of an optional extra that is not installed."""

    def __init__(self, what: str, needs: str, extra: str) -> None:
        super().__init__(f'{what} needs {needs}: pip install "t2i-engine[{extra}]"')


@contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Wraps imports: raises `MissingExtra` for a third-party package that is not installed.

    Raises `UserError` if Python finds something else under the name of one of this project's packages. Any other
    import error, such as a missing module of this project's own, is a fault and passes through.
    """
    try:
        yield
    except ImportError as error:
        for package in OUR_PACKAGES:
            if found := _shadow(package):
                raise UserError(
                    f"{found} shadows t2i-engine's own package {package!r}: "
                    "rename it, or remove its folder from PYTHONPATH"
                ) from error
        missing = (error.name or "").partition(".")[0]
        if not isinstance(error, ModuleNotFoundError) or missing in ("", *OUR_PACKAGES):
            raise
        raise MissingExtra(what, f"the package {missing}", extra) from None


def _shadow(package: str) -> str | None:
    """Where Python finds a foreign package under the name of one of this project's; None if it is ours."""
    module = sys.modules.get(package)
    try:
        # A package whose own import failed is no longer in sys.modules.
        spec = module.__spec__ if module else find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = [Path(place) for place in (spec.submodule_search_locations or [spec.origin or "."])]
    ours = Path(__file__).resolve().parents[1]
    return None if any(place.resolve().is_relative_to(ours) for place in places) else str(places[0])


def quoted(text: str, limit: int = 60) -> str:
    """Any text as one short printable line: quoted, escaped, and with an ellipsis after `limit` characters."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def listed(names: Iterable[str]) -> str:
    """Names, comma-separated; `none` if there are none."""
    return ", ".join(names) or "none"


def closest(name: str, known: Iterable[str], count: int = 1, likeness: float = 0.6) -> list[str]:
    """The known names most like `name`, best first, of at least this likeness (0 to 1; difflib's ratio)."""
    from difflib import get_close_matches

    return get_close_matches(name, list(known), count, likeness)


def unknown(kind: str, name: str, known: Iterable[str], synonyms: Mapping[str, str] = MappingProxyType({})) -> str:
    """The message for a name that is not in a closed set, with the name that was probably meant."""
    known = list(known)
    meant = [synonyms[name]] if name in synonyms else closest(name, known, likeness=0.5)
    suggestion = f" (did you mean {meant[0]!r}?)" if meant else ""
    return f"unknown {kind} {quoted(name)}{suggestion}; available: {listed(known)}"
