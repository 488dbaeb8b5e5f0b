"""Which format runs a bundle here, and on which device: what was asked for, or the first in the table that can."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module

from t2i_engine.backends.base import Status
from t2i_engine.errors import BackendError, BundleError, OptionError, listed, unknown
from t2i_engine.formats import FORMATS, Format

AUTO = "auto"


@dataclass(frozen=True)
class Choice:
    """A format, the device it runs on, and the backend's version."""

    format: Format
    device: str
    version: str

    def __str__(self) -> str:
        return f"format {self.format.name} ({self.format.precision}) on {self.device} with {self.version}"


def backend_names() -> list[str]:
    """Every backend of the table, in its order."""
    return list(dict.fromkeys(row.backend for row in FORMATS))


def backend_status(name: str) -> Status:
    """Asks a backend whether it can run here."""
    status: Status = import_module(f"t2i_engine.backends.{name}").status()
    return status


def choose(rows: Sequence[Format], backend: str = AUTO, precision: str = AUTO, device: str = AUTO) -> Choice:
    """The first of `rows` that fits what was asked for and can run here; nothing asked for is ever replaced.

    Raises `OptionError` for an unknown name, `BundleError` where no row fits, `BackendError` where none can run here.
    """
    _check("backend", backend, backend_names())
    _check("precision", precision, (row.precision for row in FORMATS))
    _check("device", device, (name for row in FORMATS for name in row.devices))
    fitting = [row for row in rows if backend in (AUTO, row.backend) and precision in (AUTO, row.precision)]
    if not fitting:
        there = (f"{row.name} ({row.backend}, {row.precision})" for row in rows)
        raise BundleError(
            f"the bundle has no format for backend {backend!r} and precision {precision!r}; it has: {listed(there)}"
        )
    lacking = []
    for row in fitting:
        status = backend_status(row.backend)
        if status.lacks and status.version:  # installed but broken: not to be passed over
            raise BackendError(status.lacks)
        if status.lacks:
            lacking.append(f"{row.backend} ({status.lacks})")
            continue
        for name in row.devices if device == AUTO else (device,):
            lacks = status.devices.get(name, f"{row.backend} does not run there")
            if lacks is None:
                return Choice(row, name, status.version or "")
            lacking.append(f"{row.backend} ({lacks})")
    wanted = "no backend can" if device == AUTO else f"device {device!r} cannot"
    raise BackendError(f"{wanted} be used here: {', '.join(lacking)}")


def _check(kind: str, name: str, known: Iterable[str]) -> None:
    names = [AUTO, *dict.fromkeys(known)]
    if name not in names:
        raise OptionError(unknown(kind, name, names))
