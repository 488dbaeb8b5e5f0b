"""Where engines are: in the bundle, built ahead for named GPUs, or in this machine's cache, built here.

An engine runs only with the version of TensorRT that built it, and only on the kind of GPU it was built for. Its record
says what that was, and one that does not fit is built again from the bundle's ONNX graph.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from t2i_engine.bundle import Bundle
from t2i_engine.errors import OutputError
from t2i_engine.files import cache_folder
from t2i_engine.formats import Format
from t2i_engine.schema import SchemaError
from t2i_engine.tensorrt.builder import CURRENT, BuiltEngine, build_engine
from t2i_engine.tensorrt.cuda import Gpu
from t2i_engine.tensorrt.flavour import Flavour
from t2i_engine.tensorrt.profile import Profile
from t2i_engine.tensorrt.record import EngineRecord

PROFILE = Profile()
RECORD = ".json"  # after the engine's own name

_OPTIONS = "strongly typed, no TF32"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """An engine for one graph of a bundle, with a flavour, on a GPU."""

    bundle: Bundle
    row: Format
    graph: str
    flavour: Flavour
    gpu: Gpu

    @property
    def key(self) -> dict[str, str]:
        """What the engine must have been built from and for."""
        here = {"targets": CURRENT, "gpu": f"{self.gpu.name} {self.gpu.architecture}", "driver": self.gpu.driver}
        return engine_key(self.bundle.manifest.files[self.row.files[self.graph]].sha256, self.row, self.flavour) | here

    @property
    def file(self) -> Path:
        """The engine's place in the cache; what depends on updates of this machine is not in the name."""
        gpu = re.sub(r"[^a-z0-9]+", "-", self.key["gpu"].lower())
        return cache_folder() / "engines" / f"{self.key['graph'][:16]}-{self.row.name}-{gpu}.engine"

    def find(self) -> tuple[bytes | None, str]:
        """A ready engine, or None and what is wrong with the one that there is."""
        shipped = engine_file(self.row, self.graph)
        reasons = []
        if shipped in self.bundle.manifest.files:
            record = _read_record(self.bundle.read(shipped + RECORD))
            reason = _mismatch(self.key, record.key, self.gpu) if record else "its record cannot be read"
            if not reason:
                return self.bundle.read(shipped), ""
            reasons.append(f"the bundle's engine does not fit: {reason}")
        content, reason = self._cached()
        return content, "; ".join([*reasons, reason])

    def _cached(self) -> tuple[bytes | None, str]:
        try:
            content, described = self.file.read_bytes(), _record_of(self.file).read_bytes()
        except OSError:
            return None, "no engine was built here yet"
        record = _read_record(described)
        if record is None or hashlib.sha256(content).hexdigest() != record.sha256:
            return None, "the cached engine is damaged"
        reason = _mismatch(self.key, record.key, self.gpu)
        return (None, f"the cached engine is stale: {reason}") if reason else (content, "")

    def get(self) -> bytes:
        """A ready engine, built if need be. Raises `BuildError` or `PrecisionError` where that fails."""
        content, reason = self.find()
        if content is not None:
            return content
        _log.info("building the %s engine of format %s, once: %s", self.graph, self.row.name, reason)
        onnx = self.bundle.read(self.row.files[self.graph])
        built = build_engine(
            self.flavour,
            onnx,
            self.bundle.graphs[self.graph],
            self.row.precision,
            PROFILE,
            self.key,
            timing_cache=self.file.with_name(f"{self.row.backend}-{self.flavour.version}.timings"),
        )
        self.keep(built)
        _log.info("built in %.1f s: %s", built.record.seconds, built.record.summary())
        return built.content

    def keep(self, built: BuiltEngine) -> None:
        """Writes an engine and its record into the cache; another process never sees half of one."""
        write_whole(self.file, built.content)
        write_whole(_record_of(self.file), built.record.to_json())


def engine_key(graph_sha256: str, row: Format, flavour: Flavour) -> dict[str, str]:
    """What an engine is built from, and how; for which GPU comes to that."""
    return {
        "graph": graph_sha256,
        "precision": row.precision,
        "flavour": flavour.name,
        "version": flavour.version,
        "profile": str(PROFILE),
        "options": _OPTIONS,
    }


def engine_file(row: Format, graph: str) -> str:
    """The name in a bundle of an engine that was built ahead; its record is called the same, with .json."""
    return f"{graph}.{row.name}.engine"


def shipped_records(bundle: Bundle) -> Iterator[tuple[str, EngineRecord]]:
    """Engines in the bundle, with their records. Raises `BundleError` where one is altered."""
    for name in bundle.manifest.files:
        if name.endswith(f".engine{RECORD}") and (record := _read_record(bundle.read(name))):
            yield name.removesuffix(RECORD), record


def cached_records(bundle: Bundle) -> Iterator[tuple[str, EngineRecord]]:
    """Engines of the bundle's graphs that were built on this machine, with their records."""
    graphs = {record.sha256 for record in bundle.manifest.files.values() if record.graph}
    for file in sorted((cache_folder() / "engines").glob(f"*.engine{RECORD}")):
        record = _read_record(file.read_bytes())
        if record and record.key.get("graph") in graphs:
            yield str(file.with_name(file.name.removesuffix(RECORD))), record


def write_whole(file: Path, content: bytes) -> None:
    """Writes a file of the cache under its name only when it is complete. Raises `OutputError`."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError as error:
        raise OutputError(
            f"cannot write {file} ({error.strerror}); set XDG_CACHE_HOME to a folder that can be written"
        ) from None


def _record_of(engine: Path) -> Path:
    return engine.with_name(engine.name + RECORD)


def _read_record(content: bytes) -> EngineRecord | None:
    try:
        return EngineRecord.from_json(content)
    except SchemaError:
        return None


def _mismatch(wanted: Mapping[str, str], found: Mapping[str, str], gpu: Gpu) -> str:
    """What an engine was built for instead of what is wanted; an empty text where it fits."""
    wanted = dict(wanted)
    if found.get("targets", CURRENT) != CURRENT:  # built ahead for named architectures, whatever the GPU's name
        if gpu.architecture not in found["targets"].split():
            return f"built for {found['targets']} instead of {gpu.architecture}"
        for name in ("targets", "gpu", "driver"):
            del wanted[name]
    names = [name for name in wanted if wanted[name] != found.get(name)]
    return ", ".join(f"{name} {found.get(name, 'unknown')} instead of {wanted[name]}" for name in names)
