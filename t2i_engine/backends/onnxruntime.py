"""ONNX Runtime: the bundle's ONNX graphs on the CPU, or on an NVIDIA GPU with the wheel made for it.

On the CPU, a graph is optimized on first use and cached for this machine; it then opens in a quarter of the time.
"""

import contextlib
import io
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from t2i_engine.backends.base import (
    NO_GPU,
    OUT_OF_MEMORY,
    Array,
    Status,
    available_threads,
    check_contract,
    check_feeds,
    cuda_device_count,
    installed_versions,
)
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, BundleError
from t2i_engine.files import cache, cached_file, processor
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Format
from t2i_engine.manifest import Graph

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding, OrtValue, RunOptions, SessionOptions

TITLE = "ONNX Runtime"
PACKAGES = WHEELS = ("onnxruntime", "onnxruntime-gpu")
IMPORTS = ("onnxruntime",)
CUDA_GRAPHS = "T2I_ENGINE_CUDA_GRAPHS"  # if 1, the generator's work on a GPU is captured as a CUDA graph

_CPU, _CUDA = "cpu", "cuda"
_PROVIDERS = {_CPU: "CPUExecutionProvider", _CUDA: "CUDAExecutionProvider"}
_FATAL = 4

MAX_CAPTURED = 8  # sizes that are captured: ONNX Runtime keeps their graphs until the session ends
MAX_CACHED = 8  # other sizes whose buffers are kept: those of every batch size would fill the GPU

_NO_CAPTURE = "-1"  # the gpu_graph_id of a run that neither captures nor replays


class OnnxRuntimeRunner:
    """A session for one graph. Failures are raised, so its log stays silent."""

    def __init__(self, bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(_FATAL)
        onnxruntime.disable_telemetry_events()
        self._graph = bundle.graphs[graph]
        file = bundle.path(row.files[graph])
        if graph == TEXT_ENCODER:
            threads = 1  # a second one would keep spinning and make the generator take half as long again
        # The text encoder's LSTM depends on the values of the lengths, which a captured graph cannot.
        captures = device == _CUDA and graph == GENERATOR and os.environ.get(CUDA_GRAPHS) == "1"
        try:
            if device == _CUDA:
                session = _on_cuda(file, threads, captures)
            else:
                session = _on_cpu(file, bundle.manifest.files[row.files[graph]].sha256, threads)
        except Exception as error:  # ONNX Runtime's exceptions have no other class in common
            raise BundleError(f"ONNX Runtime {onnxruntime.__version__} cannot load {file}: {error}") from None
        inputs = {tensor.name: tensor.shape for tensor in session.get_inputs()}
        check_contract(self._graph, file, inputs, (tensor.name for tensor in session.get_outputs()))
        found = session.get_providers()[0]
        if found != _PROVIDERS[device]:
            raise BackendError(
                f"device {device!r} was requested, but ONNX Runtime offers only {found}: its CUDA libraries are "
                'missing or incompatible; reinstall with pip install "t2i-engine[gpu]", or use --device cpu'
            )
        self._session = BoundSession(session, self._graph, device, captures) if device == _CUDA else session

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs.

        Raises `ShapeError` if a feed does not fit the declared shape, and `BackendError` if the device fails.
        """
        check_feeds(self._graph, feeds, outputs)
        if isinstance(self._session, BoundSession):
            return self._session.run(feeds, outputs)
        with _as_backend_errors(_CPU):
            return dict(zip(outputs, self._session.run(list(outputs), dict(feeds)), strict=True))

    def close(self) -> None:
        """Frees what is held on a GPU. May be called twice."""
        if isinstance(self._session, BoundSession):
            self._session.close()


@dataclass(frozen=True)
class _Bound:
    """The buffers for feeds of one size."""

    inputs: "Mapping[str, OrtValue]"
    outputs: "Mapping[str, OrtValue]"
    binding: "IOBinding"
    options: "RunOptions"
    captured: bool


class BoundSession:
    """Runs a session on `device` ("cuda" or "cpu") with inputs and outputs bound to memory there, allocated per size.

    Only the requested outputs are copied back, and addresses stay the same between runs, as a CUDA graph requires.
    Several threads may use it; they take turns.

    With `captures`, the first `MAX_CAPTURED` sizes are recorded as CUDA graphs and replayed, and any other size runs
    without one: ONNX Runtime cannot free a graph on CUDA, so recording every new size would fill the GPU. It also
    records again for every thread, so all runs happen on one thread.
    """

    def __init__(self, session: "InferenceSession", graph: Graph, device: str, captures: bool) -> None:
        self._graph, self._device = graph, device
        self._session: InferenceSession | None = session
        self._bound: dict[tuple[object, ...], _Bound] = {}
        self._captured = 0
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1) if captures else None

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs of feeds that fit the graph. Raises `BackendError` if the device fails."""
        with self._lock:
            if self._session is None:
                raise BackendError("this runner is closed; open the engine again")
            with _as_backend_errors(self._device):
                if self._worker:
                    return self._worker.submit(self._run, self._session, feeds, outputs).result()
                return self._run(self._session, feeds, outputs)

    def close(self) -> None:
        """Frees the buffers and the session. May be called twice."""
        with self._lock:
            self._bound.clear()
            self._session = None
            if self._worker:
                self._worker.shutdown()

    def _run(self, session: "InferenceSession", feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        key = (*outputs, *(feeds[tensor.name].shape for tensor in self._graph.inputs))
        bound = self._bound.pop(key, None) or self._bind(session, feeds, outputs)
        self._bound[key] = bound  # most recently used last
        evictable = [key for key, other in self._bound.items() if not other.captured]
        if len(evictable) > MAX_CACHED:
            del self._bound[evictable[0]]
        for name, feed in feeds.items():
            bound.inputs[name].update_inplace(np.ascontiguousarray(feed))
        session.run_with_iobinding(bound.binding, bound.options)
        return {name: np.array(value.numpy()) for name, value in bound.outputs.items()}

    def _bind(self, session: "InferenceSession", feeds: Mapping[str, Array], outputs: Sequence[str]) -> _Bound:
        import onnxruntime

        sizes = check_feeds(self._graph, feeds, outputs)
        declared = {tensor.name: tensor for tensor in (*self._graph.inputs, *self._graph.outputs)}

        def allocate(name: str) -> "OrtValue":
            shape, dtype = declared[name].sized(sizes), np.dtype(declared[name].dtype)
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self._device, 0)

        inputs, results = ({name: allocate(name) for name in names} for names in (feeds, outputs))
        options = onnxruntime.RunOptions()
        captured = self._worker is not None and self._captured < MAX_CAPTURED
        if captured:  # a graph writes to the buffers it was captured with: each set of buffers has its own
            self._captured += 1
        if self._worker:
            options.add_run_config_entry("gpu_graph_id", str(self._captured) if captured else _NO_CAPTURE)
        bound = _Bound(inputs, results, session.io_binding(), options, captured)
        for name, value in inputs.items():
            bound.binding.bind_ortvalue_input(name, value)
        for name, value in results.items():
            bound.binding.bind_ortvalue_output(name, value)
        return bound


@contextlib.contextmanager
def _as_backend_errors(device: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime's exceptions have no other class in common
        reason = " ".join(str(error).split())
        if any(sign in reason.lower() for sign in ("out of memory", "failed to allocate", "bad_alloc")):
            raise BackendError(f"{OUT_OF_MEMORY[device]} (ONNX Runtime)") from error
        raise BackendError(f"ONNX Runtime failed on {device}: {reason}") from error


def open_runner(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> OnnxRuntimeRunner:
    """Opens a graph. Raises `BundleError` if its file is bad and `BackendError` if the device is unavailable."""
    return OnnxRuntimeRunner(bundle, row, graph, device, threads)


def profile(bundle: Bundle, row: Format, feeds: Mapping[str, Array], threads: int) -> Iterator[tuple[str, float]]:
    """Kinds of the generator's fused operators on the CPU, and the milliseconds each of them takes per call."""
    calls = 10
    with tempfile.TemporaryDirectory(prefix="t2i-engine-") as folder:
        options = _options(threads)
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = _session(bundle.path(row.files[GENERATOR]), options, _CPU)
        for _ in range(1 + calls):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    warm = [event["ts"] for event in events if event["name"] == "model_run"][1]
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= warm:
            yield event["args"]["op_name"], event["dur"] / 1000 / calls


def _on_cpu(file: Path, sha256: str, threads: int | None) -> "InferenceSession":
    """A session of the optimized graph from the cache; if there is no usable one, it is made and cached."""
    import onnxruntime

    cached = cached_file("ort", sha256, onnxruntime.__version__, processor())
    if os.access(cached, os.R_OK):
        options = _options(threads)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.load_model_format", "ORT")
        options.add_session_config_entry("session.use_memory_mapped_ort_model", "1")
        options.add_session_config_entry("session.use_ort_model_bytes_for_initializers", "1")
        with contextlib.suppress(Exception):  # a damaged file is made again
            return _session(cached, options, _CPU)
    made: list[InferenceSession] = []

    def optimize(target: Path) -> None:
        options = _options(threads)
        options.optimized_model_filepath = str(target)
        options.add_session_config_entry("session.save_model_format", "ORT")
        made.append(_session(file, options, _CPU))

    with contextlib.suppress(Exception):  # a bad graph fails again below, and a full disk does not matter
        cache(cached, optimize)
    return made[0] if made else _session(file, _options(threads), _CPU)


def _on_cuda(file: Path, threads: int | None, captures: bool) -> "InferenceSession":
    import onnxruntime

    with contextlib.redirect_stdout(io.StringIO()):  # the provider check prints what it raises
        onnxruntime.preload_dlls()
    # Ampere and later GPUs would multiply in TF32, with 10 bits of mantissa: outside of fp32's tolerance.
    return _session(file, _options(threads), _CUDA, {"use_tf32": "0", "enable_cuda_graph": str(int(captures))})


def _session(
    file: Path, options: "SessionOptions", device: str, provider_options: Mapping[str, str] | None = None
) -> "InferenceSession":
    import onnxruntime

    provider = (_PROVIDERS[device], dict(provider_options or {}))
    return onnxruntime.InferenceSession(file, options, providers=[provider], enable_fallback=0)


def _options(threads: int | None) -> "SessionOptions":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads or available_threads()
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    return options


def status() -> Status:
    """Which wheel of ONNX Runtime is installed, and which devices it can use here."""
    wheels = installed_versions(WHEELS)
    if not wheels:
        return Status(lacks='ONNX Runtime is not installed: pip install "t2i-engine[cpu]", or "t2i-engine[gpu]"')
    version = " and ".join(f"{wheel} {number}" for wheel, number in wheels.items())
    if len(wheels) > 1:
        return Status(
            version,
            f"{version} are both installed and break each other: pip uninstall -y {' '.join(wheels)}, "
            'then pip install "t2i-engine[cpu]", or "t2i-engine[gpu]"',
        )
    try:
        from onnxruntime import get_available_providers
    except ImportError:  # left after uninstalling one of two wheels, which also removes files of the other
        return Status(version, f"{version} is damaged: pip install --force-reinstall --no-deps {' '.join(wheels)}")
    return Status(version, devices={"cuda": _cuda_lacks(get_available_providers()), "cpu": None})


def _cuda_lacks(providers: Sequence[str]) -> str | None:
    if "CUDAExecutionProvider" not in providers:
        return 'this ONNX Runtime is for the CPU: pip uninstall -y onnxruntime, then pip install "t2i-engine[gpu]"'
    if cuda_device_count() == 0:
        return NO_GPU
    return None
