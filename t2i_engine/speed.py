"""Speed: how fast a bundle's formats draw on this machine, measured once and cached, so that `auto` need not guess."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from t2i_engine.backend_selection import backend_status, row_lacks
from t2i_engine.backends import find_backend
from t2i_engine.backends.base import available_threads
from t2i_engine.bundle import Bundle
from t2i_engine.errors import UserError
from t2i_engine.files import cache, cached_file, processor
from t2i_engine.formats import GENERATOR, Format
from t2i_engine.sampler import generator_feeds
from t2i_engine.schema import SchemaError, read_dataclass, read_json

BATCH = 4
SECONDS = 0.4  # of drawing per format

_CPU = "cpu"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speed:
    """Of one format on the CPU."""

    milliseconds: float  # per picture of a batch, in the generator: the least, since neighbours only add


def fastest_first(bundle: Bundle, rows: Sequence[Format], threads: int | None) -> list[Format]:
    """Formats that run on the CPU here by their speed, measured where it is not known yet; then the others."""
    here = [row for row in rows if _CPU in row.devices and row_lacks(row, _CPU) is None]
    if len(here) < 2:
        return list(rows)
    found = {row.name: speed(bundle, row, threads) or _measure(bundle, row, threads) for row in here}
    times = {name: one.milliseconds for name, one in found.items() if one}
    return sorted(rows, key=lambda row: times.get(row.name, np.inf))


def speed(bundle: Bundle, row: Format, threads: int | None = None) -> Speed | None:
    """What was measured here for a format; None if nothing was."""
    try:
        return read_dataclass(Speed, read_json(_file(bundle, row, threads).read_bytes()))
    except (OSError, SchemaError):
        return None


def _measure(bundle: Bundle, row: Format, threads: int | None) -> Speed | None:
    _log.info("measuring how fast format %s draws here, once", row.name)
    sentences = np.zeros((BATCH, bundle.sizes.sentence_width), np.float32)
    feeds = generator_feeds(bundle.sizes, sentences, range(BATCH))
    times: list[float] = []
    try:
        runner = find_backend(row.backend).open_runner(bundle, row, GENERATOR, _CPU, threads)
        runner.run(feeds, ["pixels"])
        while sum(times) < SECONDS or len(times) < 3:
            started = time.perf_counter()
            runner.run(feeds, ["pixels"])
            times.append(time.perf_counter() - started)
        getattr(runner, "close", lambda: None)()
    except UserError as error:
        _log.warning("format %s cannot be measured: %s", row.name, error.message)
        return None
    measured = Speed(round(1000 * min(times) / BATCH, 3))
    cache(_file(bundle, row, threads), json.dumps(asdict(measured)).encode())
    return measured


def _file(bundle: Bundle, row: Format, threads: int | None) -> Path:
    digests = [bundle.manifest.files[name].sha256 for name in sorted(row.all_files)]
    version = backend_status(row.backend).version or ""
    return cached_file("speed", row.name, *digests, version, processor(), str(threads or available_threads()))
