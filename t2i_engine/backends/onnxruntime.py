"""ONNX Runtime: the bundle's ONNX graphs on the CPU, or on an NVIDIA GPU with the wheel made for it.

On the CPU a graph is optimized at first use and kept for this machine: from then on it opens in a quarter of the time.
"""

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t2i_engine.backends.base import NO_GPU, Array, Status, available_threads, check_feeds, cuda_device_count
from t2i_engine.backends.onnxruntime_bound import BoundSession
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, BundleError
from t2i_engine.files import cache, cached_file, processor
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Format

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

TITLE = "ONNX Runtime"
PACKAGES = WHEELS = ("onnxruntime", "onnxruntime-gpu")
IMPORTS = ("onnxruntime",)
CUDA_GRAPHS = "T2I_ENGINE_CUDA_GRAPHS"  # set to 1, the generator's work on a GPU is captured as a CUDA graph

_CPU, _CUDA = "cpu", "cuda"
_PROVIDERS = {_CPU: "CPUExecutionProvider", _CUDA: "CUDAExecutionProvider"}
_FATAL = 4


class OnnxRuntimeRunner:
    """A session for one graph. Failures are raised, so its log stays silent."""

    def __init__(self, bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(_FATAL)
        onnxruntime.disable_telemetry_events()
        self._graph = bundle.graphs[graph]
        file = bundle.path(row.files[graph])
        if graph == TEXT_ENCODER:
            threads = 1  # a second one would spin on beside the generator, which then took half as long again
        # The text encoder's LSTM looks at the lengths, which a captured graph cannot.
        captures = device == _CUDA and graph == GENERATOR and os.environ.get(CUDA_GRAPHS) == "1"
        try:
            if device == _CUDA:
                session = _on_cuda(file, threads, captures)
            else:
                session = _on_cpu(file, bundle.manifest.files[row.files[graph]].sha256, threads)
        except Exception as error:  # ONNX Runtime's exceptions have no other class in common
            raise BundleError(f"ONNX Runtime {onnxruntime.__version__} cannot load {file}: {error}") from None
        self._check_contract(session, file)
        found = session.get_providers()[0]
        if found != _PROVIDERS[device]:
            raise BackendError(
                f"device {device!r} was asked for, but ONNX Runtime offers only {found}: its CUDA libraries are "
                'missing or do not fit; pip install "t2i-engine[gpu]" anew, or use --device cpu'
            )
        self._session = BoundSession(session, self._graph, device, captures) if device == _CUDA else session

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs. Raises `ShapeError` where a feed does not fit the declared shape."""
        check_feeds(self._graph, feeds, outputs)
        if isinstance(self._session, BoundSession):
            return self._session.run(feeds, outputs)
        return dict(zip(outputs, self._session.run(list(outputs), dict(feeds)), strict=True))

    def close(self) -> None:
        """Frees what is held on a GPU. May be called twice."""
        if isinstance(self._session, BoundSession):
            self._session.close()

    def _check_contract(self, session: "InferenceSession", file: Path) -> None:
        inputs = {tensor.name: _sizes(tensor.shape) for tensor in session.get_inputs()}
        outputs = {tensor.name for tensor in session.get_outputs()}
        declared = {tensor.name: _sizes(tensor.shape) for tensor in self._graph.inputs}
        if inputs != declared or outputs != {tensor.name for tensor in self._graph.outputs}:
            raise BundleError(f"{file} does not have the inputs and outputs of its manifest; export the bundle again")


def open_runner(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> OnnxRuntimeRunner:
    """Opens a graph. Raises `BundleError` where its file is bad and `BackendError` where the device cannot be had."""
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
    """A session of the optimized graph from the cache; where that has none that can be used, it is made and kept."""
    import onnxruntime

    kept = cached_file("ort", sha256, onnxruntime.__version__, processor())
    if kept.is_file():
        options = _options(threads)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.load_model_format", "ORT")
        options.add_session_config_entry("session.use_memory_mapped_ort_model", "1")
        options.add_session_config_entry("session.use_ort_model_bytes_for_initializers", "1")
        with contextlib.suppress(Exception):  # a damaged file is made again
            return _session(kept, options, _CPU)
    made: list[InferenceSession] = []

    def optimize(target: Path) -> None:
        options = _options(threads)
        options.optimized_model_filepath = str(target)
        options.add_session_config_entry("session.save_model_format", "ORT")
        made.append(_session(file, options, _CPU))

    with contextlib.suppress(Exception):  # a bad graph fails again below, and a full disk does not matter
        cache(kept, optimize)
    return made[0] if made else _session(file, _options(threads), _CPU)


def _on_cuda(file: Path, threads: int | None, captures: bool) -> "InferenceSession":
    import onnxruntime

    with contextlib.redirect_stdout(io.StringIO()):  # it prints what the check of the provider raises
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
    wheels = _installed_wheels()
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
    except ImportError:  # what is left when one of both wheels was uninstalled, which takes files of the other along
        return Status(version, f"{version} is damaged: pip install --force-reinstall --no-deps {' '.join(wheels)}")
    return Status(version, devices={"cuda": _cuda_lacks(get_available_providers()), "cpu": None})


def _sizes(shape: Sequence[int | str]) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in shape]


def _installed_wheels() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    wheels = {}
    for wheel in WHEELS:
        with contextlib.suppress(PackageNotFoundError):
            wheels[wheel] = version(wheel)
    return wheels


def _cuda_lacks(providers: Sequence[str]) -> str | None:
    if "CUDAExecutionProvider" not in providers:
        return 'this ONNX Runtime is for the CPU: pip uninstall -y onnxruntime, then pip install "t2i-engine[gpu]"'
    if cuda_device_count() == 0:
        return NO_GPU
    return None
