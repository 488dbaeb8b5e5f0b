"""Speed: how soon and how fast each format draws on this machine, measured once and cached, for `auto` to choose by."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from t2i_engine.backend_selection import backend_status, row_lacks
from t2i_engine.backends import find_backend
from t2i_engine.backends.base import available_threads, installed_versions
from t2i_engine.bundle import Bundle
from t2i_engine.files import cache, cache_is_writable, cached_file, processor
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Format, find
from t2i_engine.sampler import Sampler
from t2i_engine.schema import SchemaError, read_dataclass, read_json

BATCH = 4
SECONDS = 0.2  # of drawing batches, in each of `RUNS`
RUNS = 2  # the first one fills the caches for later processes
MOST_SECONDS = 120.0  # limit of a run
WORTH_MEASURING = 500  # pictures: drawing them takes longer than measuring, even if nothing can be cached
GAIN = 0.9  # a format is preferred to an earlier one in the table if it takes less than this share of that one's time

_CPU = "cpu"
_UNMEASURED = ("pytorch",)  # takes seconds to import and draws slowest, so `auto` chooses it last

# A new process finds modules where this one does, and does not import this one's `__main__`.
_RUN = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from t2i_engine.speed import run; run(*sys.argv[2:])"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speed:
    """A format's speed on the CPU, in milliseconds: the least of several runs, since other load can only add time."""

    first: float
    """To the first picture of a new process: importing the runtime, opening both graphs from the caches, drawing."""
    each: float
    """Per further picture, in batches of `BATCH`."""

    def milliseconds(self, pictures: int) -> float:
        """The time that a process takes for this many pictures."""
        return self.first + (pictures - 1) * self.each


def fastest_first(
    bundle: Bundle, rows: Sequence[Format], pictures: int, threads: int | None = None, measures: bool = True
) -> list[Format]:
    """The formats in the order in which to try them on the CPU, for a process that draws this many pictures.

    Unknown speeds are measured if `measures` and if that pays off: a few seconds per format. Formats of unknown speed
    come last, in their order.
    """
    able = [row for row in rows if _CPU in row.devices and row.backend not in _UNMEASURED and _installed(row)]
    if len(able) < 2:
        return list(rows)
    measures = measures and (pictures >= WORTH_MEASURING or cache_is_writable())
    times: dict[str, float] = {}
    best: Format | None = None
    for row in able:
        try:
            found = _recorded(bundle, row, threads)
        except LookupError:
            found = _measure(bundle, row, threads) if measures else None
        if found:
            times[row.name] = found.milliseconds(pictures)
            if best is None or times[row.name] < GAIN * times[best.name]:
                best = row
    return sorted(rows, key=lambda row: (row is not best, times.get(row.name, np.inf)))


def speed(bundle: Bundle, row: Format, threads: int | None = None) -> Speed | None:
    """The speed that was measured here for a format; None if there is none."""
    try:
        return _recorded(bundle, row, threads)
    except LookupError:
        return None


def run(folder: str, name: str, threads: str) -> None:
    """Measures a format in this process, which must be a new one, and prints its `Speed` as JSON."""
    started = time.perf_counter()
    bundle, row = Bundle.open(Path(folder)), find(name)
    open_runner = find_backend(row.backend).open_runner
    encoder, generator = (open_runner(bundle, row, graph, _CPU, int(threads)) for graph in (TEXT_ENCODER, GENERATOR))
    sampler = Sampler(bundle.sizes, bundle.tokenizer(), encoder, generator)
    sentence = sampler.encode_tokens([(1,)])
    sampler.draw(sentence, [0])
    first = time.perf_counter() - started
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 3:
        started = time.perf_counter()
        sampler.draw(np.repeat(sentence, BATCH, axis=0), range(BATCH))
        times.append(time.perf_counter() - started)
    print(json.dumps(asdict(Speed(1000 * first, 1000 * min(times) / BATCH))))


def _recorded(bundle: Bundle, row: Format, threads: int | None) -> Speed | None:
    """The cached speed of a format, or None if it could not be measured. Raises `LookupError` if nothing is cached."""
    try:
        found = read_json(_file(bundle, row, threads).read_bytes())
        return None if found is None else read_dataclass(Speed, found)
    except (OSError, SchemaError) as error:
        raise LookupError(row.name) from error


def _measure(bundle: Bundle, row: Format, threads: int | None) -> Speed | None:
    file = _file(bundle, row, threads)
    if row_lacks(row, _CPU):
        if not backend_status(row.backend).lacks:  # it lacks a precision, say: saves the import next time
            cache(file, b"null")
        return None
    if getattr(sys, "frozen", False):  # sys.executable is this program, not Python
        return None
    _log.info("measuring how fast format %s draws here, once", row.name)
    arguments = json.dumps(sys.path), str(bundle.folder), row.name, str(threads or available_threads())
    runs = []
    try:
        for _ in range(RUNS):
            done = subprocess.run(
                [sys.executable, "-c", _RUN, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=MOST_SECONDS,
                check=True,
            )
            runs.append(read_dataclass(Speed, read_json(done.stdout.splitlines()[-1])))
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        lines = (error.stderr or b"").decode("utf-8", "replace").splitlines() or [str(error)]
        again = "to try again: t2i-engine cache clear --kind speed"
        _log.warning("format %s cannot be measured: %s; %s", row.name, lines[-1], again)
        cache(file, b"null")  # so that no other process waits for it
        return None
    except (OSError, SchemaError, IndexError) as error:
        _log.warning("format %s cannot be measured: %s", row.name, error)
        return None
    found = Speed(round(min(one.first for one in runs), 1), round(min(one.each for one in runs), 3))
    cache(file, json.dumps(asdict(found)).encode())
    return found


def _installed(row: Format) -> bool:
    return bool(_versions(row)) or not find_backend(row.backend).PACKAGES


def _versions(row: Format) -> dict[str, str]:
    """The installed versions of what a backend runs on; unlike `status`, does not import it."""
    return installed_versions(find_backend(row.backend).PACKAGES)


def _file(bundle: Bundle, row: Format, threads: int | None) -> Path:
    digests = [bundle.manifest.files[name].sha256 for name in sorted(row.all_files)]
    versions = json.dumps(_versions(row) | {"t2i-engine": version("t2i-engine")})
    return cached_file("speed", row.name, *digests, versions, processor(), str(threads or available_threads()))
