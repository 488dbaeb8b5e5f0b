"""The two flavours of TensorRT, which share one API but for what is named here."""

import contextlib
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from t2i_engine.backends.base import Status, cuda_device_count
from t2i_engine.errors import BackendError, MissingExtra

TENSORRT = "tensorrt"
TENSORRT_RTX = "tensorrt-rtx"
NO_GPU = "no NVIDIA GPU with a driver was found: install the driver, or use --device cpu"

_TITLES = {TENSORRT: "TensorRT", TENSORRT_RTX: "TensorRT for RTX"}
_WHEELS = {TENSORRT: ("tensorrt",), TENSORRT_RTX: ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx")}
_LOWEST = 10  # of plain TensorRT: older ones take precisions from flags, not from the graph


@dataclass(frozen=True)
class Flavour:
    """An imported TensorRT; `api` is its Python module."""

    name: str
    version: str
    api: Any

    @property
    def is_rtx(self) -> bool:
        """True for TensorRT for RTX, which builds for named architectures, also where there is no GPU."""
        return hasattr(self.api, "ComputeCapability")


class Log:
    """What TensorRT logs: failures come as None or False, and their reasons only here."""

    def __init__(self, api: Any) -> None:  # noqa: ANN401
        self.lines: list[str] = []
        self._failures: list[str] = []
        worst = (api.ILogger.Severity.INTERNAL_ERROR, api.ILogger.Severity.ERROR)

        def start(logger: Any) -> None:  # noqa: ANN401
            api.ILogger.__init__(logger)

        def log(_: object, severity: object, message: str) -> None:
            self.lines.append(message)
            if severity in worst:
                self._failures.append(message)

        self.logger: Any = type("Logger", (api.ILogger,), {"__init__": start, "log": log})()

    def failures(self) -> str:
        """The first errors, as one text."""
        return "; ".join(self._failures[:3]) or "it gives no reason"


def load_flavour(name: str) -> Flavour:
    """Imports a flavour by its backend's name. Raises `MissingExtra`, or `BackendError` where it cannot be used."""
    try:
        api = import_module(name.replace("-", "_"))
    except ImportError:
        raise MissingExtra(f"the backend {name!r}", _TITLES[name], name) from None
    found: str = api.__version__
    if name == TENSORRT and int(found.partition(".")[0]) < _LOWEST:
        raise BackendError(f"TensorRT {found} is too old; {_LOWEST} or newer expected: pip install --upgrade tensorrt")
    return Flavour(name, found, api)


def flavour_status(name: str) -> Status:
    """Whether a flavour is installed and can run here, without importing it."""
    found = None
    for wheel in _WHEELS[name]:
        with contextlib.suppress(PackageNotFoundError):
            found = found or version(wheel)
    install = f'pip install "t2i-engine[{name}]"'
    if found is None or find_spec(name.replace("-", "_")) is None:
        return Status(lacks=f"{_TITLES[name]} is not installed: {install}")
    title = f"{_TITLES[name]} {found}"
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return Status(devices={"cuda": f"cuda-bindings is not installed: {install}"}, version=title)
    return Status(title, devices={"cuda": None if cuda_device_count() else NO_GPU})
