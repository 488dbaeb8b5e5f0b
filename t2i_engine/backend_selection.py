"""Selects the format that runs a bundle here, and its device: those asked for, or the first in the table that can."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from t2i_engine.backends import find_backend
from t2i_engine.backends.base import Status, cuda_device_count
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, BundleError, OptionError, listed, unknown
from t2i_engine.formats import DEVICES, Format, all_formats

AUTO = "auto"
_MEANT = {"gpu": "cuda"}  # spelled more like cpu

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BackendSelection:
    """A format, the device it runs on, and the backend's version."""

    format: Format
    device: str
    version: str

    def __str__(self) -> str:
        return f"format {self.format.name} ({self.format.precision}) on {self.device} with {self.version}"


def backend_names() -> list[str]:
    """Every backend in the table of formats, in the table's order."""
    return list(dict.fromkeys(row.backend for row in all_formats()))


def backend_status(name: str) -> Status:
    """Asks a backend whether it can run here."""
    return find_backend(name).status()


def row_lacks(row: Format, device: str) -> str | None:
    """What this machine lacks to run a format on a device, and how to fix it; None if nothing."""
    status = backend_status(row.backend)
    elsewhere = f"{row.backend} does not run there"
    return status.lacks or status.precisions.get(row.precision) or status.devices.get(device, elsewhere)


def select_backend(
    rows: Sequence[Format],
    backend: str = AUTO,
    precision: str = AUTO,
    device: str = AUTO,
    bundle: str = "BUNDLE",
    cpu_order: Callable[[Sequence[Format]], Sequence[Format]] = list,
) -> BackendSelection:
    """Selects the first of `rows` that matches the request and can run here; an explicit request is never substituted.

    Every row is tried on a GPU before any is tried on the CPU; on the CPU, `cpu_order` gives the order.
    `bundle` is how the suggested export command names the bundle. Raises `OptionError` for an unknown name,
    `BundleError` if no row matches, and `BackendError` if none can run here.
    """
    _check("backend", backend, backend_names())
    _check("precision", precision, (row.precision for row in all_formats()))
    _check("device", device, (name for row in all_formats() for name in row.devices))
    fitting = _fitting(rows, backend, precision)
    if not fitting:
        there = listed(f"{row.name} ({row.backend}, {row.precision})" for row in rows)
        made = _fitting(all_formats(), backend, precision)
        runs = [row for row in made if any(row_lacks(row, name) is None for name in row.devices)] or made
        cure = (
            f"add one with t2i-engine export {bundle} --formats {runs[0].name}"
            if runs
            else "no format supports this combination"
        )
        raise BundleError(
            f"the bundle has no format for backend {backend!r} and precision {precision!r}; it has: {there}; {cure}"
        )
    lacking: dict[str, None] = {}  # in order, without duplicates
    for name in _devices(device):
        able: Sequence[Format] = [row for row in fitting if name in row.devices]
        if name == "cpu":
            able = cpu_order(able)
        for row in able if able or device == AUTO else fitting:
            status = backend_status(row.backend)
            if status.lacks and status.version:  # installed but broken: report it instead of skipping it
                raise BackendError(status.lacks)
            lacks = row_lacks(row, name)
            if lacks is None:
                return BackendSelection(row, name, status.version or "")
            lacking[f"{row.backend} ({lacks})"] = None
    for row in [] if lacking else fitting:  # none of them runs on a device that is here
        lacking[f"{row.backend} ({row_lacks(row, row.devices[0])})"] = None
    wanted = "no backend can" if device == AUTO else f"device {device!r} cannot"
    raise BackendError(f"{wanted} be used here: {', '.join(lacking)}")


def selectable(bundle: Bundle, precision: str = AUTO) -> list[Format]:
    """The bundle's formats that `auto` may choose; those that need a build first are logged with the command.

    Raises `BackendError`, with the command, if no other format of that `precision` can run here.
    """
    rows, commands = [], []
    for row in bundle.formats:
        needs_build = build_needed(bundle, row)
        if needs_build:
            _log.info("format %s needs a build first: %s", row.name, needs_build)
            if precision in (AUTO, row.precision):
                commands.append(f"format {row.name} needs a build first: {needs_build}")
        else:
            rows.append(row)
    if commands and all(backend_status(row.backend).lacks for row in _fitting(rows, AUTO, precision)):
        raise BackendError(commands[0])
    return rows


def build_needed(bundle: Bundle, row: Format) -> str | None:
    """What must be built before a format is first used here, with the command; None if nothing."""
    needs_build = getattr(find_backend(row.backend), "needs_build", None)
    if needs_build is None or backend_status(row.backend).lacks:
        return None
    reason: str | None = needs_build(bundle, row)
    return reason


def _devices(device: str) -> Sequence[str]:
    if device != AUTO:
        return (device,)
    # Asks the driver first, so that no backend is imported just to find that there is no GPU.
    return DEVICES if cuda_device_count() else [name for name in DEVICES if name != "cuda"]


def _fitting(rows: Iterable[Format], backend: str, precision: str) -> list[Format]:
    return [row for row in rows if backend in (AUTO, row.backend) and precision in (AUTO, row.precision)]


def _check(kind: str, name: str, known: Iterable[str]) -> None:
    names = [AUTO, *dict.fromkeys(known)]
    if name not in names:
        raise OptionError(unknown(kind, name, names, _MEANT))
