"""What a backend provides: runners for a bundle's graphs, whether it can run here, and what a benchmark needs of it."""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from t2i_engine.bundle import Bundle
from t2i_engine.errors import BundleError
from t2i_engine.formats import Format
from t2i_engine.manifest import Graph

Array = npt.NDArray[Any]

NO_GPU = "no NVIDIA GPU with a driver was found: install the driver, or use --device cpu"
OUT_OF_MEMORY = {
    "cpu": "out of memory: use a smaller --batch-size, or close other programs",
    "cuda": "out of GPU memory: use a smaller --batch-size, or close other programs that use the GPU",
}


class ShapeError(ValueError):
    """A feed that is missing, unknown, or does not fit the shape or dtype that the bundle declares."""


class Runner(Protocol):
    """One graph, opened on one device. Inputs and outputs are NumPy arrays by name, as the bundle declares them.

    `run` may be called from several threads at once. A runner that holds resources to free has a `close` method, too.
    """

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs. Raises `ShapeError` if a feed does not fit the declared shape."""


@dataclass(frozen=True)
class Status:
    """Whether a backend can run on this machine. `lacks` says what is missing and how to fix it; None if nothing is."""

    version: str | None = None  # None: not installed
    lacks: str | None = None
    devices: Mapping[str, str | None] = field(default_factory=dict)  # device -> what it lacks
    precisions: Mapping[str, str] = field(default_factory=dict)  # precision unavailable here -> why


class Backend(Protocol):
    """A backend's module.

    It may also have `FORMATS`, the rows that it adds to the table of formats where it is announced by an entry point;
    `needs_build(bundle, format)`, which says what must be built before its first use, and how, or None, and
    `build(bundle, format)`, which builds it;
    `profile(bundle, format, feeds, threads)`, which yields the generator's kinds of operators, with their milliseconds
    per call; and `MAX_BATCH`, the largest batch it can run.
    """

    TITLE: str
    """Its display name."""
    PACKAGES: tuple[str, ...]
    """The distributions that it runs on, whose versions a benchmark records."""
    IMPORTS: tuple[str, ...]
    """The modules that opening a runner imports, whose import a benchmark times."""

    def status(self) -> Status:
        """Whether it can run on this machine."""

    def open_runner(self, bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> Runner:
        """Opens a graph. Raises `BundleError` for a bad file and `BackendError` for what is unavailable here."""


def check_feeds(graph: Graph, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, int]:
    """Compares feeds and output names with the declared graph; returns the size that each letter of a shape stands for.

    Raises `ShapeError` with the first difference.
    """
    declared = {tensor.name for tensor in graph.inputs}
    if feeds.keys() != declared:
        raise ShapeError(f"got inputs {sorted(feeds)}; expected {sorted(declared)}")
    names = [tensor.name for tensor in graph.outputs]
    if not outputs or not set(outputs) <= set(names):
        raise ShapeError(f"requested outputs {list(outputs)}; expected some of {names}")
    sizes: dict[str, int] = {}
    for tensor in graph.inputs:
        feed = feeds[tensor.name]
        expected = tuple(sizes.get(size, size) if isinstance(size, str) else size for size in tensor.shape)
        fits = len(feed.shape) == len(expected) and all(
            found > 0 if isinstance(size, str) else found == size
            for found, size in zip(feed.shape, expected, strict=True)
        )
        if not fits or feed.dtype.name != tensor.dtype:
            raise ShapeError(
                f"input {tensor.name!r} is {feed.dtype.name} {feed.shape}; {tensor.dtype} {expected} expected"
            )
        sizes |= {size: found for size, found in zip(expected, feed.shape, strict=True) if isinstance(size, str)}
    return sizes


def check_contract(
    graph: Graph, file: Path, inputs: Mapping[str, Sequence[int | str | None]], outputs: Iterable[str]
) -> None:
    """Compares a file's inputs, outputs and their shapes with the declared graph. Raises `BundleError`."""

    def fixed(shape: Sequence[int | str | None]) -> list[int | None]:
        return [size if isinstance(size, int) else None for size in shape]

    declared = {tensor.name: fixed(tensor.shape) for tensor in graph.inputs}
    names = {tensor.name for tensor in graph.outputs}
    if {name: fixed(shape) for name, shape in inputs.items()} != declared or set(outputs) != names:
        raise BundleError(f"{file} does not have the inputs and outputs in the manifest; export the bundle again")


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """The versions of those of the distributions that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in distributions:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def available_threads() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cuda_device_count() -> int:
    """The number of NVIDIA GPUs that the driver reports, without loading a framework; 0 without a driver."""
    import ctypes

    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return 0
    except OSError:
        return 0
    return count.value
