"""OpenVINO: the bundle's ONNX graphs on the CPU, compiled at first use and kept for this machine."""

import contextlib
import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_engine.backends.base import Array, Status, available_threads, check_feeds
from t2i_engine.backends.openvino_rewriting import VERSION, rewrite
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, BundleError
from t2i_engine.files import cache, cached_file, processor
from t2i_engine.formats import GENERATOR, Format

if TYPE_CHECKING:
    from openvino import CompiledModel, Model

TITLE = "OpenVINO"
PACKAGES = IMPORTS = ("openvino",)

TOKENS, LENGTHS = "tokens", "lengths"

_DEVICE = "CPU"


class OpenVinoRunner:
    """A graph, compiled for one row at a time; a batch is computed row by row.

    A graph of one picture is a quarter faster here than one of any batch, and a picture cannot depend on its batch.
    """

    def __init__(self, bundle: Bundle, row: Format, graph: str, threads: int | None) -> None:
        import openvino

        self._file, self._graph = bundle.path(row.files[graph]), bundle.graphs[graph]
        self._sha256 = bundle.manifest.files[row.files[graph]].sha256
        self._core = openvino.Core()
        # The text encoder's thousandth of the work is not worth a difference; what an int8 graph leaves is fp32 too.
        hint = "bf16" if row.precision == "bf16" and graph == GENERATOR else "f32"
        threads = threads or available_threads()
        # A text encoder's T varies. Compiling small fp32 graphs of one shape for one thread crashes OpenVINO 2026.4.
        fixed = graph == GENERATOR and (threads > 1 or hint == "bf16")
        with _kept_signal_stack():
            compiled = self._compiled(hint, threads, fixed)
        found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if found != hint:
            raise BackendError(
                f"{hint} was asked for, but OpenVINO computes in {found} on this CPU: "
                "use another --precision or --backend"
            )
        self._request = compiled.create_infer_request()

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs. Raises `ShapeError` where a feed does not fit the declared shape."""
        check_feeds(self._graph, feeds, outputs)
        found = [self._infer(feeds, row, outputs) for row in range(len(next(iter(feeds.values()))))]
        return {name: np.concatenate([one[name] for one in found]) for name in outputs}

    def _infer(self, feeds: Mapping[str, Array], row: int, outputs: Sequence[str]) -> dict[str, Array]:
        alone = {name: feed[row : row + 1] for name, feed in feeds.items()}
        if LENGTHS in alone:  # OpenVINO's LSTM would run on over what pads a caption
            alone[TOKENS] = alone[TOKENS][:, : alone[LENGTHS].item()]
        computed = self._request.infer(alone)
        return {name: computed[name].copy() for name in outputs}

    def _compiled(self, hint: str, threads: int, fixed: bool) -> "CompiledModel":
        """The compiled graph from the cache; where that has none that can be used, it is compiled and kept."""
        import openvino

        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        kept = cached_file("openvino", self._sha256, openvino.__version__, hint, str(fixed), VERSION, processor())
        try:
            return self._core.import_model(kept.read_bytes(), _DEVICE, options)
        except (OSError, RuntimeError):
            pass
        try:
            compiled = self._core.compile_model(self._model(fixed), _DEVICE, options)
        except RuntimeError as error:
            raise BundleError(f"OpenVINO {openvino.__version__} cannot load {self._file}: {error}") from None
        cache(kept, lambda file: file.write_bytes(compiled.export_model().getvalue()))
        return compiled

    def _model(self, fixed: bool) -> "Model":
        model = self._core.read_model(self._file)
        inputs = {tensor.any_name: _sizes(tensor.partial_shape) for tensor in model.inputs}
        outputs = {tensor.any_name for tensor in model.outputs}
        declared = {
            tensor.name: [size if isinstance(size, int) else None for size in tensor.shape]
            for tensor in self._graph.inputs
        }
        if inputs != declared or outputs != {tensor.name for tensor in self._graph.outputs}:
            raise BundleError(
                f"{self._file} does not have the inputs and outputs of its manifest; export the bundle again"
            )
        rewrite(model)
        if fixed:
            model.reshape({name: [size or 1 for size in sizes] for name, sizes in declared.items()})
        return model


def open_runner(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> OpenVinoRunner:
    """Opens a graph. Raises `BundleError` where its file is bad and `BackendError` where this cannot be had."""
    found = status()
    lacks = found.lacks or found.devices.get(device, "OpenVINO runs on the CPU here: use --device cpu")
    lacks = lacks or found.precisions.get(row.precision)
    if lacks:
        raise BackendError(lacks)
    return OpenVinoRunner(bundle, row, graph, threads)


def status() -> Status:
    """Whether OpenVINO is installed, and what it can compute in on this CPU."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("openvino")
    except PackageNotFoundError:
        return Status(lacks='OpenVINO is not installed: pip install "t2i-engine[openvino]"')
    try:
        import openvino

        capabilities = openvino.Core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    except (ImportError, RuntimeError) as error:
        return Status(number, f"openvino {number} is damaged ({error}): pip install --force-reinstall openvino")
    precisions = {}
    if "BF16" not in capabilities:
        precisions["bf16"] = "this CPU has no bf16 instructions: use --precision fp32"
    return Status(f"openvino {number}", devices={"cpu": None}, precisions=precisions)


@contextlib.contextmanager
def _kept_signal_stack() -> Iterator[None]:
    """Gives this thread its own stack for signals back.

    OpenVINO 2026.4 sets another while it compiles, and frees it with the graph: the next signal that Python handles,
    Ctrl-C or the end of a child, would kill the process.
    """
    try:
        sigaltstack = ctypes.CDLL(None).sigaltstack
    except (AttributeError, OSError, TypeError):  # no POSIX system
        yield
        return
    before = ctypes.create_string_buffer(64)  # the system's stack_t, 24 bytes on Linux, kept as it is
    sigaltstack(None, before)
    try:
        yield
    finally:
        sigaltstack(before, None)


def _sizes(shape: Any) -> list[int | None]:  # noqa: ANN401  (OpenVINO's PartialShape)
    return [size.get_length() if size.is_static else None for size in shape]
