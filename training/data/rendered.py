"""Pictures drawn once and kept on disk, so that training does not draw them again at every epoch."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.synthbirds import VERSION, Split, SynthBirds

CHUNK = 250


@dataclass(frozen=True)
class Rendered:
    """A data set at one picture side, in memory as the training loops want it."""

    pictures: NDArray[np.uint8]
    """(N, R, R, 3), mapped from disk."""
    captions: list[tuple[str, ...]]
    """Several captions for each picture."""


def cache_folder() -> Path:
    """Where drawn pictures are kept: `$XDG_CACHE_HOME/t2i-engine`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2i-engine"


def render_synthbirds(
    split: Split, count: int, side: int, cache: Path, on_progress: Callable[[int], None] = lambda drawn: None
) -> Rendered:
    """Draws `count` pictures with all cores, or finds them in `cache`, kept by version, split and side."""
    stem = f"synthbirds-{VERSION}-{split}-{count}-{side}"
    pictures_file, captions_file = cache / f"{stem}.npy", cache / f"{stem}.json"
    if not captions_file.is_file():  # written last: where it is, both are complete
        cache.mkdir(parents=True, exist_ok=True)
        temporary = cache / f".{stem}.{os.getpid()}.npy"
        pictures = np.lib.format.open_memmap(temporary, "w+", np.uint8, (count, side, side, 3))
        captions: list[tuple[str, ...]] = []
        with ProcessPoolExecutor() as pool:
            chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
            for chunk, (images, texts) in zip(
                chunks, pool.map(partial(_draw, split, count, side), chunks), strict=True
            ):
                pictures[chunk.start : chunk.stop] = images
                captions += texts
                on_progress(chunk.stop)
        pictures.flush()
        temporary.replace(pictures_file)
        temporary = temporary.with_suffix(".json")
        temporary.write_text(json.dumps(captions), encoding="utf-8")
        temporary.replace(captions_file)
    captions = [tuple(texts) for texts in json.loads(captions_file.read_text(encoding="utf-8"))]
    return Rendered(np.load(pictures_file, mmap_mode="r"), captions)


def _draw(split: Split, count: int, side: int, indices: range) -> tuple[NDArray[np.uint8], list[tuple[str, ...]]]:
    birds = SynthBirds(split, count, side)
    examples = [birds[i] for i in indices]
    return np.stack([example.image for example in examples]), [example.captions for example in examples]
