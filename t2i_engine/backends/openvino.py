"""OpenVINO: the bundle's ONNX graphs on the CPU, compiled at first use and cached."""

import contextlib
import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from t2i_engine.backends.base import Array, Status, available_threads, check_contract, check_feeds
from t2i_engine.backends.openvino_rewriting import VERSION, rewrite
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, BundleError
from t2i_engine.files import cache, cached_file, processor
from t2i_engine.formats import GENERATOR, Format

if TYPE_CHECKING:
    from openvino import CompiledModel, InferRequest, Model

TITLE = "OpenVINO"
PACKAGES = IMPORTS = ("openvino",)

TOKENS, LENGTHS = "tokens", "lengths"

_DEVICE = "CPU"


class OpenVinoRunner:
    """A compiled graph. Pictures are drawn one at a time, captions of one length are encoded together.

    A graph compiled for one picture is a quarter faster here than one for any batch, and a picture cannot depend on its
    batch. Every caller computes with an infer request of its own. With `profiled`, requests time their operators, at a
    cost.
    """

    def __init__(self, bundle: Bundle, row: Format, graph: str, threads: int | None, profiled: bool = False) -> None:
        import openvino

        self._file, self._graph = bundle.path(row.files[graph]), bundle.graphs[graph]
        self._sha256 = bundle.manifest.files[row.files[graph]].sha256
        self._core = openvino.Core()
        # The text encoder does a thousandth of the work, not worth a difference; what int8 leaves over is fp32, too.
        hint = "bf16" if row.precision == "bf16" and graph == GENERATOR else "f32"
        threads = threads or available_threads()
        # Captions vary in length. Compiling a small fp32 graph for one shape and one thread crashes OpenVINO 2026.4.
        fixed = graph == GENERATOR and (threads > 1 or hint == "bf16")
        with _kept_signal_stack():
            self._model = self._compiled(hint, threads, fixed, profiled)
        found = self._model.get_property("INFERENCE_PRECISION_HINT").to_string()
        if found != hint:
            raise BackendError(
                f"{hint} was asked for, but OpenVINO computes in {found} on this CPU: "
                "use another --precision or --backend"
            )
        self._idle: list[InferRequest] = []

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs. Raises `ShapeError` where a feed does not fit the declared shape."""
        check_feeds(self._graph, feeds, outputs)
        with self._request() as request:
            parts = []
            for rows, part in _parts(feeds):
                computed = request.infer(part)
                parts.append((rows, {name: computed[name].copy() for name in outputs}))
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        return {name: np.concatenate([found[name] for _, found in parts])[order] for name in outputs}

    @contextlib.contextmanager
    def _request(self) -> "Iterator[InferRequest]":
        """An infer request that no other thread uses; appending to and popping from a list are atomic."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._model.create_infer_request()
        try:
            yield request
        finally:
            self._idle.append(request)

    def _compiled(self, hint: str, threads: int, fixed: bool, profiled: bool) -> "CompiledModel":
        """The compiled graph from the cache, or compiled now and cached; a profiled one is never cached."""
        import openvino

        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if profiled:
            return self._core.compile_model(self._read(fixed), _DEVICE, {**options, "PERF_COUNT": True})
        kept = cached_file("openvino", self._sha256, openvino.__version__, hint, str(fixed), VERSION, processor())
        try:
            return self._core.import_model(kept.read_bytes(), _DEVICE, options)
        except (OSError, RuntimeError):
            pass
        try:
            compiled = self._core.compile_model(self._read(fixed), _DEVICE, options)
        except RuntimeError as error:
            raise BundleError(f"OpenVINO {openvino.__version__} cannot load {self._file}: {error}") from None
        cache(kept, lambda file: file.write_bytes(compiled.export_model().getvalue()))
        return compiled

    def _read(self, fixed: bool) -> "Model":
        model = self._core.read_model(self._file)
        inputs = {
            tensor.any_name: [size.get_length() if size.is_static else None for size in tensor.partial_shape]
            for tensor in model.inputs
        }
        check_contract(self._graph, self._file, inputs, (tensor.any_name for tensor in model.outputs))
        rewrite(model)
        if fixed:
            model.reshape({tensor.name: tensor.sized({"B": 1}) for tensor in self._graph.inputs})
        return model


def open_runner(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> OpenVinoRunner:
    """Opens a graph. Raises `BundleError` for a bad file and `BackendError` for a device or precision it lacks."""
    found = status()
    lacks = found.lacks or found.devices.get(device, "OpenVINO runs on the CPU here: use --device cpu")
    lacks = lacks or found.precisions.get(row.precision)
    if lacks:
        raise BackendError(lacks)
    return OpenVinoRunner(bundle, row, graph, threads)


def profile(bundle: Bundle, row: Format, feeds: Mapping[str, Array], threads: int) -> Iterator[tuple[str, float]]:
    """Kinds of the generator's fused operators, and the milliseconds that each takes per call."""
    import openvino

    calls, pictures = 10, len(next(iter(feeds.values())))
    runner = OpenVinoRunner(bundle, row, GENERATOR, threads, profiled=True)
    alone = {name: feed[:1] for name, feed in feeds.items()}
    with runner._request() as request:
        request.infer(alone)
        for _ in range(calls):
            request.infer(alone)
            for node in request.profiling_info:
                if node.status == openvino.ProfilingInfo.Status.EXECUTED:
                    milliseconds = node.real_time.total_seconds() * 1000 * pictures / calls
                    yield f"{node.node_type} ({node.exec_type})", milliseconds


def status() -> Status:
    """Whether OpenVINO is installed, and which precisions this CPU supports."""
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


def _parts(feeds: Mapping[str, Array]) -> Iterator[tuple[Array, Mapping[str, Array]]]:
    """The rows that are computed together, and their feeds.

    Captions are cut off at their length, because OpenVINO's LSTM runs on over what pads them.
    """
    if LENGTHS not in feeds:
        for row in range(len(next(iter(feeds.values())))):
            yield np.array([row]), {name: feed[row : row + 1] for name, feed in feeds.items()}
        return
    for length in np.unique(feeds[LENGTHS]):
        rows = np.flatnonzero(feeds[LENGTHS] == length)
        yield rows, {TOKENS: feeds[TOKENS][rows, :length], LENGTHS: feeds[LENGTHS][rows]}


@contextlib.contextmanager
def _kept_signal_stack() -> Iterator[None]:
    """Restores this thread's alternate signal stack.

    OpenVINO 2026.4 replaces it while compiling, and frees its own with the graph: the next signal that Python handles,
    such as Ctrl-C, would kill the process.
    """
    try:
        sigaltstack = ctypes.CDLL(None).sigaltstack
    except (AttributeError, OSError, TypeError):  # no POSIX system
        yield
        return
    before = ctypes.create_string_buffer(64)  # an opaque stack_t, 24 bytes on Linux
    sigaltstack(None, before)
    try:
        yield
    finally:
        sigaltstack(before, None)
