"""Finds, builds, verifies and opens engines: those shipped in a bundle, and those in this machine's cache.

An engine runs only with the version of TensorRT that built it, on the kind of GPU it was built for. Its record says
what that was; one that does not fit is rebuilt from the bundle's ONNX graph.
"""

import hashlib
import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, ParityError, UserError
from t2i_engine.files import cache_folder, write_atomically
from t2i_engine.formats import GENERATOR, Format
from t2i_engine.parity import OpenFormat, compare
from t2i_engine.picture_reference import needed_picture_reference, sentence_reach
from t2i_engine.reference import read_reference
from t2i_engine.schema import SchemaError
from t2i_engine.tensorrt.builder import CURRENT, Profile, build_engine
from t2i_engine.tensorrt.cuda import CudaBindings, Gpu
from t2i_engine.tensorrt.record import EngineRecord
from t2i_engine.tensorrt.runner import CACHE_CURE, LoadedEngine, TensorRtRunner
from t2i_engine.tensorrt.variant import Variant, load_variant

CUDA = "cuda"
PROFILE = Profile()
RECORD = ".json"  # after the engine's own name

_OPTIONS = "strongly typed, no TF32"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineRequest:
    """An engine for one graph of a bundle, for one variant of TensorRT, on one GPU."""

    bundle: Bundle
    row: Format
    graph: str
    variant: Variant
    gpu: Gpu

    @property
    def key(self) -> dict[str, str]:
        """What the engine must have been built from and for."""
        here = {"targets": CURRENT, "gpu": f"{self.gpu.name} {self.gpu.architecture}", "driver": self.gpu.driver}
        return engine_key(self.bundle.manifest.files[self.row.files[self.graph]].sha256, self.row, self.variant) | here

    @property
    def file(self) -> Path:
        """Its place in the cache. Versions are not part of the name, so that an update replaces the old engine."""
        gpu = re.sub(r"[^a-z0-9]+", "-", self.key["gpu"].lower())
        return cache_folder() / "engines" / f"{self.key['graph'][:16]}-{self.row.name}-{gpu}.engine"

    def find(self) -> tuple[bytes | None, str]:
        """An engine that fits, or None and why there is none."""
        bundled = engine_file(self.row, self.graph)
        reasons = []
        if bundled in self.bundle.manifest.files:
            record = _read_record(self.bundle.read(bundled + RECORD))
            reason = _mismatch(self.key, record.key, self.gpu) if record else "its record cannot be read"
            if not reason:
                return self.bundle.read(bundled), ""
            reasons.append(f"the bundle's engine does not match: {reason}")
        content, reason = self._cached()
        return content, "; ".join([*reasons, reason])

    def _cached(self) -> tuple[bytes | None, str]:
        try:
            content, described = self.file.read_bytes(), _record_file(self.file).read_bytes()
        except OSError:
            return None, "no engine has been built here yet"
        record = _read_record(described)
        if record is None or hashlib.sha256(content).hexdigest() != record.sha256:
            return None, "the cached engine is damaged"
        reason = _mismatch(self.key, record.key, self.gpu)
        return (None, f"the cached engine is stale: {reason}") if reason else (content, "")

    def get(self) -> bytes:
        """An engine that fits, built and cached if there is none.

        Raises `BundleError` if the bundle has nothing to judge it by, `BackendError` or `OutputError`.
        """
        content, reason = self.find()
        if content is not None:
            return content
        needed_picture_reference(self.bundle, self.row)  # raises now rather than after minutes of building
        _log.info("building the %s engine of format %s, once: %s", self.graph, self.row.name, reason)
        built = build_engine(
            self.variant,
            self.bundle.read(self.row.files[self.graph]),
            self.bundle.graphs[self.graph],
            self.row.precision,
            PROFILE,
            self.key,
            timing_cache=self.file.with_name(f"{self.row.backend}-{self.variant.version}.timings"),
        )
        write_atomically(self.file, built.content, CACHE_CURE)
        write_atomically(_record_file(self.file), built.record.to_json(), CACHE_CURE)
        _log.info("built in %.1f s: %s", built.record.seconds, built.record.summary())
        return built.content

    def verify_once(self, content: bytes, runner: TensorRtRunner) -> None:
        """Compares an engine with the bundle's reference, and its pictures with fp32's, the first time it runs here.

        Raises `ParityError` for an engine outside its tolerance, and `BundleError` if there is nothing to compare with.
        """
        verified = self.file.with_suffix(".verified")
        state = hashlib.sha256(content + repr(sorted(self.key.items())).encode()).hexdigest().encode()
        if os.access(verified, os.R_OK) and verified.read_bytes() == state:
            return
        opened = OpenFormat(self.row, {self.graph: runner})
        cases = [case for case in read_reference(self.bundle).cases() if case.graph == self.graph]
        pictures = needed_picture_reference(self.bundle, self.row)
        findings = compare([opened], cases, "the bundle's reference", sentence_reach=sentence_reach(pictures))
        if pictures and self.graph == GENERATOR:
            findings += pictures.judge(opened, self.bundle.sizes, "the bundle's pictures")
        for found in findings:
            if not found.ok:
                raise ParityError(f"the engine is rejected: {found}")
        write_atomically(verified, state, CACHE_CURE)


def open_runner(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> TensorRtRunner:
    """Opens a graph; `threads` does not apply to a GPU.

    Builds its engine if there is none that fits: seconds to minutes, once. Raises `BackendError` if there is no GPU or
    the engine cannot be built or run, `ParityError` if a new engine is outside its tolerance, and `BundleError` if the
    bundle has nothing to compare it with.
    """
    del threads
    if device != CUDA:
        raise BackendError(f"format {row.name} runs on cuda only, not on {device!r}")
    variant, cuda = load_variant(row.backend), CudaBindings(row.backend)
    request = EngineRequest(bundle, row, graph, variant, cuda.gpu())
    content = request.get()
    engine = LoadedEngine(variant, content, graph == GENERATOR, request.file.with_suffix(".compiled"))
    runner = TensorRtRunner(engine, bundle.graphs[graph], PROFILE, cuda)
    request.verify_once(content, runner)
    return runner


def build(bundle: Bundle, row: Format) -> None:
    """Builds a format's engines, where needed, and verifies them. Raises what `open_runner` raises."""
    for graph in row.files:
        open_runner(bundle, row, graph, CUDA, None).close()


def needs_build(bundle: Bundle, row: Format) -> str | None:
    """Why a format's engines must be built first, and the command; None if they are ready or could not run anyway."""
    try:
        variant, gpu = load_variant(row.backend), CudaBindings(row.backend).gpu()
    except UserError:
        return None
    for graph in row.files:
        content, reason = EngineRequest(bundle, row, graph, variant, gpu).find()
        if content is None:
            return f"{reason}: t2i-engine build {shlex.quote(str(bundle.folder))} --formats {row.name}"
    return None


def engine_key(graph_sha256: str, row: Format, variant: Variant) -> dict[str, str]:
    """What an engine is built from, and how; the GPU it is built for is added to this."""
    return {
        "graph": graph_sha256,
        "precision": row.precision,
        "variant": variant.name,
        "version": variant.version,
        "profile": str(PROFILE),
        "options": _OPTIONS,
    }


def engine_file(row: Format, graph: str) -> str:
    """The name of an engine in a bundle; its record has the same name with .json added."""
    return f"{graph}.{row.name}.engine"


def bundled_records(bundle: Bundle) -> Iterator[tuple[str, EngineRecord]]:
    """The engines in the bundle, with their records. Raises `BundleError` for a record that was altered."""
    for name in bundle.manifest.files:
        if name.endswith(f".engine{RECORD}") and (record := _read_record(bundle.read(name))):
            yield name.removesuffix(RECORD), record


def cached_records(bundle: Bundle) -> Iterator[tuple[str, EngineRecord]]:
    """The engines of the bundle's graphs that were built on this machine, with their records."""
    graphs = {entry.sha256 for entry in bundle.manifest.files.values() if entry.graph}
    for file in sorted((cache_folder() / "engines").glob(f"*.engine{RECORD}")):
        record = _read_record(file.read_bytes())
        if record and record.key.get("graph") in graphs:
            yield str(file.with_name(file.name.removesuffix(RECORD))), record


def _record_file(engine: Path) -> Path:
    return engine.with_name(engine.name + RECORD)


def _read_record(content: bytes) -> EngineRecord | None:
    try:
        return EngineRecord.from_json(content)
    except SchemaError:
        return None


def _mismatch(requested: Mapping[str, str], found: Mapping[str, str], gpu: Gpu) -> str:
    """What an engine was built for instead of what is requested; empty if it fits."""
    requested = dict(requested)
    if found.get("targets", CURRENT) != CURRENT:  # built ahead for named architectures, whatever the GPU's name
        if gpu.architecture not in found["targets"].split():
            return f"built for {found['targets']} instead of {gpu.architecture}"
        for name in ("targets", "gpu", "driver"):
            del requested[name]
    names = [name for name in requested if requested[name] != found.get(name)]
    return ", ".join(f"{name} {found.get(name, 'unknown')} instead of {requested[name]}" for name in names)
