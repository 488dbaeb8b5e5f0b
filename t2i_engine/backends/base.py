"""What every backend provides: runners for a bundle's graphs, and a word on whether it can run here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from t2i_engine.bundle import Graph

Array = npt.NDArray[Any]


class ShapeError(ValueError):
    """A feed that is missing, unknown, or does not fit the shape or dtype that the bundle declares."""


class Runner(Protocol):
    """One graph, opened on one device. Inputs and outputs are NumPy arrays by name, as the bundle declares them."""

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs. Raises `ShapeError` where a feed does not fit the declared shape."""


@dataclass(frozen=True)
class Status:
    """Whether a backend can run on this machine: its version and devices, or what it lacks with the cure."""

    version: str | None = None
    devices: tuple[str, ...] = ()
    lacks: str | None = None


def check_feeds(graph: Graph, feeds: Mapping[str, Array], outputs: Sequence[str]) -> None:
    """Compares feeds and output names with the declared graph; each letter of a shape stands for one size throughout.

    Raises `ShapeError` with the first difference.
    """
    declared = {tensor.name for tensor in graph.inputs}
    if feeds.keys() != declared:
        raise ShapeError(f"inputs {sorted(feeds)} given, {sorted(declared)} expected")
    unknown = set(outputs) - {tensor.name for tensor in graph.outputs}
    if unknown or not outputs:
        names = [tensor.name for tensor in graph.outputs]
        raise ShapeError(f"outputs {list(outputs)} asked for, some of {names} expected")
    letters: dict[str, int] = {}
    for tensor in graph.inputs:
        feed = feeds[tensor.name]
        expected = tuple(letters.get(size, size) if isinstance(size, str) else size for size in tensor.shape)
        fits = len(feed.shape) == len(expected) and all(
            found > 0 if isinstance(size, str) else found == size
            for found, size in zip(feed.shape, expected, strict=True)
        )
        if not fits or feed.dtype.name != tensor.dtype:
            raise ShapeError(
                f"input {tensor.name!r} is {feed.dtype.name} {feed.shape}; {tensor.dtype} {expected} expected"
            )
        letters.update(
            (size, found) for size, found in zip(tensor.shape, feed.shape, strict=True) if isinstance(size, str)
        )
