"""Every error that a user can cause: one line that says what was found, what was expected and what to do."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

OUR_PACKAGES = ("t2i_engine", "export", "training", "benchmarks")


class UserError(Exception):
    """An input or a machine that cannot give what was asked for; the command line prints it and exits with 2."""

    def __init__(self, message: str) -> None:
        self.message = " ".join(message.split())
        super().__init__(self.message)


class OptionError(UserError):
    """An option, or an argument of the API, whose value is unknown or out of range."""


class CaptionError(UserError):
    """A caption that cannot be drawn: empty, too long, or without a single known word."""


class BundleError(UserError):
    """A bundle that is unknown, broken, altered, or of a newer schema."""


class BackendError(UserError):
    """A backend or device that was asked for and cannot be had here."""


class ParityError(UserError):
    """A format whose outputs are too far from PyTorch's; the command line exits with 1."""


class OutputError(UserError):
    """A file or folder that cannot be written."""


class MissingExtra(UserError):  # noqa: N818  (reads as what it is: raise MissingExtra(...))
    """A package that an optional extra installs is not there."""

    def __init__(self, what: str, needs: str, extra: str) -> None:
        super().__init__(f'{what} needs {needs}: pip install "t2i-engine[{extra}]"')


class ShadowedPackage(UserError):  # noqa: N818
    """A folder or module of the user's that Python finds in place of one of this project's packages."""

    def __init__(self, package: str, found: str) -> None:
        super().__init__(
            f"{found} shadows t2i-engine's own package {package!r}: rename it, or take its folder off Python's path"
        )


@contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Around imports: a third-party package that is not installed is a `MissingExtra`.

    A module of this project's own that is missing is a fault, and stays one, unless a folder of the user's is found in
    its place: that is a `ShadowedPackage`.
    """
    try:
        yield
    except ImportError as error:
        for package in OUR_PACKAGES:
            if found := _shadow(package):
                raise ShadowedPackage(package, found) from error
        missing = (error.name or "").partition(".")[0]
        if not isinstance(error, ModuleNotFoundError) or missing in OUR_PACKAGES:
            raise
        raise MissingExtra(what, f"the package {missing}", extra) from None


def _shadow(package: str) -> str | None:
    """Where Python found a package of this project's name that is not this project's."""
    module = sys.modules.get(package)
    if module is None:
        return None
    found = [Path(place) for place in (getattr(module, "__path__", None) or [getattr(module, "__file__", None) or "."])]
    ours = Path(__file__).parents[1]
    return None if any(place.resolve().is_relative_to(ours.resolve()) for place in found) else str(found[0])


def quoted(text: str, limit: int = 60) -> str:
    """Any text as one short printable line: quotes, escapes for what cannot be printed, an ellipsis past `limit`."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def listed(names: Iterable[str]) -> str:
    """Names as a person writes them in a sentence; `none` where there are none."""
    return ", ".join(names) or "none"


def closest(name: str, known: Iterable[str], count: int = 1, likeness: float = 0.6) -> list[str]:
    """The known names most like `name`, best first; none where nothing is alike (1 is the same, 0 nothing shared)."""
    from difflib import get_close_matches

    return get_close_matches(name, list(known), count, likeness)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not in a closed set: what was found, what there is, what was probably meant."""
    known = list(known)
    meant = closest(name, known, likeness=0.5)
    suggestion = f" (did you mean {meant[0]!r}?)" if meant else ""
    return f"unknown {kind} {quoted(name)}{suggestion}; there are: {listed(known)}"
