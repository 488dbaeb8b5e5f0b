"""Opens a bundle's graph with TensorRT: finds or builds its engine, and proves it the first time it runs here."""

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, BundleError, ParityError, UserError
from t2i_engine.formats import GENERATOR, Format
from t2i_engine.parity import OpenFormat, compare
from t2i_engine.reference import read_reference
from t2i_engine.tensorrt.cuda import CudaBindings
from t2i_engine.tensorrt.engines import PROFILE, Wanted, write_whole
from t2i_engine.tensorrt.flavour import Flavour, Log, load_flavour
from t2i_engine.tensorrt.runner import Context, TensorRtRunner

CUDA = "cuda"


class LoadedEngine:
    """A deserialised engine. TensorRT for RTX compiles when a size first runs; that is kept in `compiled`."""

    def __init__(self, flavour: Flavour, content: bytes, whole: bool, compiled: Path) -> None:
        """`whole` says that the graph can be captured as a CUDA graph: it has no loops that depend on its inputs."""
        self._api, self._is_rtx, self._whole, self._compiled = flavour.api, flavour.is_rtx, whole, compiled
        self.captures = whole and not flavour.is_rtx  # TensorRT for RTX does that itself, when told to
        self._log = Log(flavour.api)
        self._runtime = flavour.api.Runtime(self._log.logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(content) if self._runtime else None
        self._cache: Any = None
        if self._engine is None:
            raise BackendError(f"{flavour.name} {flavour.version} cannot load its engine: {self._log.failures()}")

    def create_context(self) -> Context:
        """A new context."""
        context: Context | None = (
            self._engine.create_execution_context(self._configured())
            if self._is_rtx
            else self._engine.create_execution_context()
        )
        if context is None:
            raise BackendError(f"TensorRT cannot use its engine: {self._log.failures()}; free memory on the GPU")
        return context

    def save_cache(self) -> None:
        """Keeps on disk what was compiled while running."""
        if self._cache is not None:
            write_whole(self._compiled, bytes(self._cache.serialize()))

    def _configured(self) -> Any:  # noqa: ANN401
        config = self._engine.create_runtime_config()
        if self._whole:
            config.cuda_graph_strategy = self._api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = config.create_runtime_cache()
        if self._compiled.is_file():
            self._cache.deserialize(self._compiled.read_bytes())  # refused where GPU, driver or version changed
        config.set_runtime_cache(self._cache)
        return config


def open_runner(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> TensorRtRunner:
    """Opens a graph; `threads` means nothing to a GPU.

    Builds its engine where there is none that fits, which takes from seconds to minutes, once. Raises `BackendError`
    where there is no GPU or no engine can be had, and `ParityError` where a new engine misses the bundle's reference.
    """
    del threads
    if device != CUDA:
        raise BackendError(f"format {row.name} runs on cuda only, not on {device!r}")
    flavour, cuda = load_flavour(row.backend), CudaBindings(row.backend)
    wanted = Wanted(bundle, row, graph, flavour, cuda.gpu())
    content = wanted.get()
    engine = LoadedEngine(flavour, content, graph == GENERATOR, wanted.file.with_suffix(".compiled"))
    runner = TensorRtRunner(engine, bundle.graphs[graph], PROFILE, cuda)
    prove_once(wanted, content, runner)
    return runner


def build_engines(bundle: Bundle, rows: Sequence[Format]) -> None:
    """Makes the engines of these formats ready: built where need be, and compared with the reference.

    Raises `BundleError` where the bundle has none of TensorRT's graphs, and what `open_runner` raises.
    """
    if not rows:
        raise BundleError(
            f"bundle {bundle.name!r} has no format of TensorRT: t2i-engine export BUNDLE --formats tensorrt-fp16"
        )
    for row in rows:
        for graph in row.files:
            open_runner(bundle, row, graph, CUDA, None).close()


def needs_build(bundle: Bundle, row: Format) -> str | None:
    """What must be built first to use a format here; None where its engines are ready, or could not run at all."""
    try:
        flavour, gpu = load_flavour(row.backend), CudaBindings(row.backend).gpu()
    except UserError:
        return None
    for graph in row.files:
        content, reason = Wanted(bundle, row, graph, flavour, gpu).find()
        if content is None:
            return f"{reason}: t2i-engine build {shlex.quote(str(bundle.folder))} --formats {row.name}"
    return None


def prove_once(wanted: Wanted, content: bytes, runner: TensorRtRunner) -> None:
    """Compares an engine with the bundle's reference when it first runs here. Raises `ParityError` for a miss."""
    proof = wanted.file.with_suffix(".proved")
    state = hashlib.sha256(content + repr(sorted(wanted.key.items())).encode()).hexdigest().encode()
    if proof.is_file() and proof.read_bytes() == state:
        return
    cases = [case for case in read_reference(wanted.bundle).cases() if case.graph == wanted.graph]
    for found in compare([OpenFormat(wanted.row, {wanted.graph: runner})], cases, "the bundle's reference"):
        if not found.ok:
            raise ParityError(f"the engine is not used: {found}")
    write_whole(proof, state)
