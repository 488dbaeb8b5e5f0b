"""Pictures at one resolution, rendered once and cached on disk, so that training need not decode or draw them again."""

import json
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from t2i_engine.errors import OutputError
from t2i_engine.files import write_atomically
from training.data.source import BrokenPictureError, DataError, Example, Item, Listing, Problem, Split
from training.data.synthbirds.source import Drawn

CHUNK = 100
NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Rendered:
    """A split at one resolution, as training reads it: N pictures that could be loaded."""

    pictures: NDArray[np.uint8]
    """(N, R, R, 3), mapped from disk."""
    captions: list[tuple[str, ...]]
    """All captions of each picture."""
    keys: list[str]
    """The key of each picture."""
    groups: NDArray[np.int64]
    """(N): equal for pictures whose captions describe their common class and fit each other."""
    broken: tuple[Problem, ...]
    """Pictures that could not be loaded, and are skipped."""


def render(
    listing: Listing, resolution: int, cache: Path, on_progress: Callable[[int], None] = lambda done: None
) -> Rendered:
    """Renders the pictures on all cores, or finds them in `cache` by fingerprint and resolution; R = `resolution`.

    Processes that need the same pictures wait for each other. Raises `DataError` if the disk is full or not writable.
    """
    stem = f"{listing.fingerprint}-{resolution}"
    pixels, index = cache / f"{stem}.pixels", cache / f"{stem}.json"
    try:
        if not _is_complete(pixels, index, resolution):
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f"{stem}.lock"):
                if not _is_complete(pixels, index, resolution):  # another process may just have rendered them
                    _make(listing.items, resolution, pixels, index, on_progress)
    except (OSError, OutputError) as error:
        size = len(listing.items) * resolution**2 * 3 / 1e9
        reason = getattr(error.__cause__ or error, "strerror", error)
        raise DataError(
            f"cannot cache pictures in '{cache}' ({reason}); they take {size:.1f} GB: free some space, "
            "or set XDG_CACHE_HOME to another folder"
        ) from error
    found = json.loads(index.read_text(encoding="utf-8"))
    shape = (len(found["keys"]), resolution, resolution, 3)  # an empty file cannot be mapped
    return Rendered(
        np.memmap(pixels, np.uint8, "r", shape=shape) if found["keys"] else np.empty(shape, np.uint8),
        [tuple(texts) for texts in found["captions"]],
        found["keys"],
        np.array(found["groups"], np.int64),
        tuple(Problem(*problem) for problem in found["broken"]),
    )


def render_synthbirds(
    split: Split, count: int, resolution: int, cache: Path, on_progress: Callable[[int], None] = lambda done: None
) -> Rendered:
    """The first `count` pictures of a synthbirds split."""
    return render(Drawn(count).listing(split), resolution, cache, on_progress)


def _is_complete(pixels: Path, index: Path, resolution: int) -> bool:
    """Whether both files exist and match in size; the index is written last."""
    if not (pixels.is_file() and index.is_file()):
        return False
    count = len(json.loads(index.read_text(encoding="utf-8"))["keys"])
    return pixels.stat().st_size == count * resolution**2 * 3


def _make(
    items: Sequence[Item], resolution: int, pixels: Path, index: Path, on_progress: Callable[[int], None]
) -> None:
    """Writes the pictures that can be loaded, one after another, then the index."""
    kept: list[Example] = []
    broken: list[Problem] = []

    def write(path: Path) -> None:
        done = 0
        with path.open("wb") as file:
            for loaded in load_in_order(items, resolution):
                for example in loaded:
                    if isinstance(example, Problem):
                        broken.append(example)
                    else:
                        file.write(example.image.tobytes())
                        kept.append(example._replace(image=NOTHING))
                done += len(loaded)
                on_progress(done)

    write_atomically(pixels, write)
    groups = [example.group or example.key for example in kept]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    content = {
        "keys": [example.key for example in kept],
        "captions": [example.captions for example in kept],
        "groups": [numbers[group] for group in groups],
        "broken": broken,
    }
    write_atomically(index, json.dumps(content).encode())


def load_in_order(items: Sequence[Item], resolution: int) -> Iterator[list[Example | Problem]]:
    """Loads items on all cores, chunk by chunk, only a few chunks ahead so that they fit into memory.

    Every item becomes its example, or a problem that names the picture and the reason.
    """
    waiting: deque[Future[list[Example | Problem]]] = deque()
    with ProcessPoolExecutor(initializer=_end_with_parent) as pool:
        for start in range(0, len(items), CHUNK):
            waiting.append(pool.submit(_load, items[start : start + CHUNK], resolution))
            if len(waiting) > 2 * (os.cpu_count() or 1):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _end_with_parent() -> None:
    """Ends this process once the one that started it has ended, however that was: otherwise it would wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _load(items: Sequence[Item], resolution: int) -> list[Example | Problem]:
    loaded: list[Example | Problem] = []
    for item in items:
        try:
            loaded.append(item.load(resolution))
        except BrokenPictureError as error:
            loaded.append(Problem("broken picture", f"{item.key}: {error}"))
    return loaded
