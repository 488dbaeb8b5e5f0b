"""TensorRT and TensorRT for RTX: two variants of one API. The differences between them are here."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from t2i_engine.backends.base import NO_GPU, Status, cuda_device_count, installed_versions
from t2i_engine.errors import BackendError, MissingExtra

TENSORRT = "tensorrt"
TENSORRT_RTX = "tensorrt-rtx"
TITLES = {TENSORRT: "TensorRT", TENSORRT_RTX: "TensorRT for RTX"}
# The metapackage or one of those it stands for: any of them installs the variant.
PACKAGES = {
    TENSORRT: ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    TENSORRT_RTX: ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}

_OLDEST = 10  # of plain TensorRT: earlier releases take precisions from flags, not from the graph
_MAX_ERRORS = 3


class Log:
    """TensorRT's logger: a failed call returns None or False, and the reason appears only here.

    Keeps the first few errors until they are read, and every line only while recording.
    """

    def __init__(self, api: Any) -> None:  # noqa: ANN401
        self.errors: list[str] = []
        self._recorded: list[str] | None = None
        self._recording = threading.Lock()
        severe = (api.ILogger.Severity.INTERNAL_ERROR, api.ILogger.Severity.ERROR)

        def start(logger: Any) -> None:  # noqa: ANN401
            api.ILogger.__init__(logger)

        def log(_: object, severity: object, message: str) -> None:
            recorded = self._recorded
            if recorded is not None:
                recorded.append(message)
            if severity in severe and len(self.errors) < _MAX_ERRORS:
                self.errors.append(message)

        self.logger: Any = type("Logger", (api.ILogger,), {"__init__": start, "log": log})()

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[str]]:
        """Collects every line, verbose ones included; for one build at a time."""
        with self._recording:
            lines: list[str] = []
            self._recorded = lines
            try:
                yield lines
            finally:
                self._recorded = None

    def reason(self) -> str:
        """The errors since this was last asked, as one text."""
        errors, self.errors[:] = list(self.errors), []
        return "; ".join(errors) or "no reason given"


@dataclass(frozen=True)
class Variant:
    """An imported TensorRT; `api` is its Python module."""

    name: str
    version: str
    api: Any

    @property
    def is_rtx(self) -> bool:
        """True for TensorRT for RTX, which builds for named architectures and needs no GPU to do so."""
        return hasattr(self.api, "ComputeCapability")

    @cached_property
    def log(self) -> Log:
        """The one log of this variant: TensorRT ignores the logger of every runtime but the first."""
        return Log(self.api)

    def start(self, kind: str) -> Any:  # noqa: ANN401
        """Creates a `Builder` or `Runtime`. Raises `BackendError` if it cannot start.

        In plain TensorRT, a failed call may still return an object that crashes the process when used: the log decides.
        """
        self.log.errors.clear()
        created = getattr(self.api, kind)(self.log.logger)
        if created is None or self.log.errors:
            raise BackendError(f"{self} cannot start: {self.log.reason()}; check the GPU's driver with nvidia-smi")
        return created

    def __str__(self) -> str:
        return f"{TITLES[self.name]} {self.version}"


@cache
def load_variant(name: str) -> Variant:
    """Imports the variant of a backend. Raises `MissingExtra`, or `BackendError` if it is broken or too old."""
    try:
        api = import_module(name.replace("-", "_"))
    except ModuleNotFoundError:
        raise MissingExtra(f"the backend {name!r}", TITLES[name], name) from None
    except (ImportError, OSError) as error:
        raise BackendError(f"{TITLES[name]} cannot be loaded ({error}); reinstall it") from None
    found: str = api.__version__
    if name == TENSORRT and int(found.partition(".")[0]) < _OLDEST:
        raise BackendError(f"TensorRT {found} is too old; {_OLDEST} or newer expected: pip install --upgrade tensorrt")
    return Variant(name, found, api)


def variant_status(name: str) -> Status:
    """Whether a variant is installed and can run here, found out without importing it."""
    versions = list(installed_versions(PACKAGES[name]).values())
    install = f'pip install "t2i-engine[{name}]"'
    if not versions or find_spec(name.replace("-", "_")) is None:
        return Status(lacks=f"{TITLES[name]} is not installed: {install}")
    title = f"{TITLES[name]} {versions[0]}"
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return Status(title, devices={"cuda": f"cuda-bindings is not installed: {install}"})
    return Status(title, devices={"cuda": None if cuda_device_count() else NO_GPU})
