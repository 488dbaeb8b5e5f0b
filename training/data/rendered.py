"""Pictures at one side, made once and kept on disk, so that training does not decode or draw them at every epoch."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from training.data.example import Example
from training.data.source import BrokenPictureError, DataError, Item, Listing, Problem, Split
from training.data.synthbirds.source import Drawn

CHUNK = 100
NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Rendered:
    """A split at one picture side, in memory as the training loops want it; N pictures could be read."""

    pictures: NDArray[np.uint8]
    """(N, S, S, 3), mapped from disk."""
    captions: list[tuple[str, ...]]
    """Several captions for each picture."""
    keys: list[str]
    """The name of each picture."""
    groups: NDArray[np.int64]
    """(N): equal where captions describe the group that pictures belong to, and fit each other's."""
    broken: tuple[Problem, ...]
    """The pictures that could not be read, and were left out."""


def render(
    listing: Listing, side: int, cache: Path, on_progress: Callable[[int], None] = lambda made: None
) -> Rendered:
    """Makes the pictures with all cores, or finds them in `cache`, kept by fingerprint and side; S = `side`.

    Processes that want the same pictures wait for one another. Raises `DataError` where the disk is full or not to be
    written to.
    """
    stem = f"{listing.fingerprint}-{side}"
    pixels, index = cache / f"{stem}.pixels", cache / f"{stem}.json"
    try:
        if not _is_complete(pixels, index, side):
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f"{stem}.lock"):
                if not _is_complete(pixels, index, side):  # another process may just have made them
                    _make(listing.items, side, pixels, index, on_progress)
    except OSError as error:
        size = len(listing.items) * side * side * 3 / 1e9
        raise DataError(
            f"pictures cannot be kept in '{cache}' ({error.strerror}); they take {size:.1f} GB: make room there, "
            "or set XDG_CACHE_HOME to another folder"
        ) from error
    found = json.loads(index.read_text(encoding="utf-8"))
    shape = (len(found["keys"]), side, side, 3)  # an empty file cannot be mapped
    return Rendered(
        np.memmap(pixels, np.uint8, "r", shape=shape) if found["keys"] else np.empty(shape, np.uint8),
        [tuple(texts) for texts in found["captions"]],
        found["keys"],
        np.array(found["groups"], np.int64),
        tuple(Problem(*problem) for problem in found["broken"]),
    )


def render_synthbirds(
    split: Split, count: int, side: int, cache: Path, on_progress: Callable[[int], None] = lambda made: None
) -> Rendered:
    """The first `count` pictures of a split of synthbirds."""
    return render(Drawn(count).listing(split), side, cache, on_progress)


def _is_complete(pixels: Path, index: Path, side: int) -> bool:
    """Whether both files are there, with as many pictures as they should hold; the index is written last."""
    if not (pixels.is_file() and index.is_file()):
        return False
    count = len(json.loads(index.read_text(encoding="utf-8"))["keys"])
    return pixels.stat().st_size == count * side * side * 3


def _make(items: Sequence[Item], side: int, pixels: Path, index: Path, on_progress: Callable[[int], None]) -> None:
    """Writes the pictures that can be read, one behind the other, then what is known of each."""
    kept: list[Example] = []
    broken: list[Problem] = []
    temporary = pixels.with_name(f".{pixels.name}.tmp")
    try:
        with temporary.open("wb") as file:
            done = 0
            for made in load_in_order(items, side):
                for example in made:
                    if isinstance(example, Problem):
                        broken.append(example)
                    else:
                        file.write(example.image.tobytes())
                        kept.append(example._replace(image=NOTHING))
                done += len(made)
                on_progress(done)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(pixels)
        temporary.write_text(json.dumps(_described(kept, broken)), encoding="utf-8")
        temporary.replace(index)
    finally:
        temporary.unlink(missing_ok=True)


def _described(kept: Sequence[Example], broken: Sequence[Problem]) -> dict[str, object]:
    groups = [example.group or example.key for example in kept]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return {
        "keys": [example.key for example in kept],
        "captions": [example.captions for example in kept],
        "groups": [numbers[group] for group in groups],
        "broken": broken,
    }


def load_in_order(items: Sequence[Item], side: int) -> Iterator[list[Example | Problem]]:
    """Loads with all cores, chunk by chunk; only a few are under way, so that they fit into memory.

    For each item there is its example, or a problem that names the picture and the reason.
    """
    waiting: deque[Future[list[Example | Problem]]] = deque()
    with ProcessPoolExecutor() as pool:
        for start in range(0, len(items), CHUNK):
            waiting.append(pool.submit(_load, items[start : start + CHUNK], side))
            if len(waiting) > 2 * (os.cpu_count() or 1):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _load(items: Sequence[Item], side: int) -> list[Example | Problem]:
    loaded: list[Example | Problem] = []
    for item in items:
        try:
            loaded.append(item.load(side))
        except BrokenPictureError as error:
            loaded.append(Problem("broken picture", f"{item.key}: {error}"))
    return loaded
