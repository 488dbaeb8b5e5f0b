"""ONNX Runtime: fp32 graphs on the CPU, or on an NVIDIA GPU with the wheel made for it."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from t2i_engine.backends.base import Array, Status, available_threads, check_feeds, cuda_device_count
from t2i_engine.bundle import Bundle, Graph
from t2i_engine.errors import BackendError, BundleError
from t2i_engine.formats import Format

WHEELS = ("onnxruntime", "onnxruntime-gpu")

_FATAL = 4
_PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    # Ampere and later GPUs would multiply in TF32, with 10 bits of mantissa: outside of fp32's tolerance.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
}


class OnnxRuntimeRunner:
    """A session for one graph. Failures are raised, so its log stays silent."""

    def __init__(self, file: Path, graph: Graph, device: str, threads: int | None) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(_FATAL)
        onnxruntime.disable_telemetry_events()
        if device == "cuda":
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what the check of the provider below raises
                onnxruntime.preload_dlls()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = threads or available_threads()
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        provider = _PROVIDERS[device]
        self._graph = graph
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=[provider], enable_fallback=0)
        except Exception as error:  # ONNX Runtime's exceptions have no other class in common
            raise BundleError(f"ONNX Runtime {onnxruntime.__version__} cannot load {file}: {error}") from None
        inputs = {tensor.name: _sizes(tensor.shape) for tensor in self._session.get_inputs()}
        outputs = {tensor.name for tensor in self._session.get_outputs()}
        declared = {tensor.name: _sizes(tensor.shape) for tensor in graph.inputs}
        if inputs != declared or outputs != {tensor.name for tensor in graph.outputs}:
            raise BundleError(f"{file} does not have the inputs and outputs of its manifest; export the bundle again")
        found = self._session.get_providers()[0]
        if found != provider[0]:
            raise BackendError(
                f"device {device!r} was asked for, but ONNX Runtime offers only {found}: its CUDA libraries are "
                'missing or do not fit; pip install "t2i-engine[gpu]" anew, or use --device cpu'
            )

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs. Raises `ShapeError` where a feed does not fit the declared shape."""
        check_feeds(self._graph, feeds, outputs)
        return dict(zip(outputs, self._session.run(list(outputs), dict(feeds)), strict=True))


def open_runner(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> OnnxRuntimeRunner:
    """Opens a graph. Raises `BundleError` where its file is bad and `BackendError` where the device cannot be had."""
    return OnnxRuntimeRunner(bundle.path(row.files[graph]), bundle.graphs[graph], device, threads)


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
        return "no NVIDIA GPU with a driver was found: install the driver, or use --device cpu"
    return None
