"""OpenVINO: the bundle's ONNX graphs on the CPU, compiled at first use and cached."""

import contextlib
import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_engine.backends.base import (
    OUT_OF_MEMORY,
    Array,
    Status,
    available_threads,
    check_contract,
    check_feeds,
    installed_versions,
)
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, BundleError
from t2i_engine.files import cache, cached_file, processor
from t2i_engine.formats import GENERATOR, Format

if TYPE_CHECKING:
    from openvino import CompiledModel, Core, InferRequest, Model

TITLE = "OpenVINO"
PACKAGES = IMPORTS = ("openvino",)

TOKENS, LENGTHS = "tokens", "lengths"

_DEVICE = "CPU"
_REWRITING = "5"  # incremented when `quantize` or `rewrite` changes, so that no older graph is used
_VECTOR = 16  # 32-bit sums in an AVX-512 vector
_SMALLEST_SIDE = 16  # of a map: smaller ones take little time, and their errors show most
_BELOW, _ABOVE = 30, 225  # levels below and above zero: LeakyReLU, twice, leaves little below


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
        # The text encoder does a thousandth of the work: a lower precision is not worth the difference.
        self._precision = row.precision if graph == GENERATOR else "fp32"
        hint = _hint(self._core, self._precision)
        threads = threads or available_threads()
        # Captions vary in length. Compiling a small fp32 graph for one shape and one thread crashes OpenVINO 2026.4.
        fixed = graph == GENERATOR and (threads > 1 or hint == "bf16")
        with kept_signal_stack():
            self._model = self._compiled(hint, threads, fixed, profiled)
        found = self._model.get_property("INFERENCE_PRECISION_HINT").to_string()
        if found != hint:
            raise BackendError(
                f"{hint} was requested, but OpenVINO computes in {found} on this CPU: "
                "use another --precision or --backend"
            )
        self._idle: list[InferRequest] = []

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs.

        Raises `ShapeError` if a feed does not fit the declared shape, and `BackendError` if memory runs out.
        """
        check_feeds(self._graph, feeds, outputs)
        with _as_backend_errors(), self._request() as request:
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
        cached = cached_file(
            "openvino", self._sha256, openvino.__version__, self._precision, str(fixed), _REWRITING, processor()
        )
        try:
            return self._core.import_model(cached.read_bytes(), _DEVICE, options)
        except (OSError, RuntimeError):
            pass
        try:
            compiled = self._core.compile_model(self._read(fixed), _DEVICE, options)
        except MemoryError as error:
            raise BackendError(f"{OUT_OF_MEMORY['cpu']} (OpenVINO)") from error
        except RuntimeError as error:
            raise BundleError(f"OpenVINO {openvino.__version__} cannot load {self._file}: {error}") from None
        cache(cached, lambda file: file.write_bytes(compiled.export_model().getvalue()))
        return compiled

    def _read(self, fixed: bool) -> "Model":
        model = self._core.read_model(self._file)
        inputs = {
            tensor.any_name: [size.get_length() if size.is_static else None for size in tensor.partial_shape]
            for tensor in model.inputs
        }
        check_contract(self._graph, self._file, inputs, (tensor.any_name for tensor in model.outputs))
        if self._precision == "int8":
            quantize(model)
        rewrite(model)
        if fixed:
            model.reshape({tensor.name: tensor.sized({"B": 1}) for tensor in self._graph.inputs})
        return model


@contextlib.contextmanager
def _as_backend_errors() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, MemoryError) or "bad_alloc" in reason or "allocate" in reason:
            raise BackendError(f"{OUT_OF_MEMORY['cpu']} (OpenVINO)") from error
        raise BackendError(f"OpenVINO failed: {reason}") from error


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
    number = installed_versions(PACKAGES).get("openvino")
    if number is None:
        return Status(lacks='OpenVINO is not installed: pip install "t2i-engine[openvino]"')
    try:
        import openvino

        bf16 = _has_bf16(openvino.Core())
    except (ImportError, RuntimeError) as error:
        return Status(number, f"openvino {number} is damaged ({error}): pip install --force-reinstall openvino")
    precisions = {}
    if not bf16:
        precisions["bf16"] = "this CPU has no bf16 instructions: use --precision fp32"
    return Status(f"openvino {number}", devices={"cpu": None}, precisions=precisions)


def _has_bf16(core: "Core") -> bool:
    return "BF16" in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")


def _hint(core: "Core", precision: str) -> str:
    """The precision that OpenVINO is asked for: what int8 does not cover is bf16 if the CPU has it."""
    return "bf16" if precision == "bf16" or (precision == "int8" and _has_bf16(core)) else "f32"


def _parts(feeds: Mapping[str, Array]) -> Iterator[tuple[Array, Mapping[str, Array]]]:
    """The rows that are computed together, and their feeds.

    Captions are cut off at their length, because OpenVINO's LSTM does not stop at the padding.
    """
    if LENGTHS not in feeds:
        for row in range(len(next(iter(feeds.values())))):
            yield np.array([row]), {name: feed[row : row + 1] for name, feed in feeds.items()}
        return
    for length in np.unique(feeds[LENGTHS]):
        rows = np.flatnonzero(feeds[LENGTHS] == length)
        yield rows, {TOKENS: feeds[TOKENS][rows, :length], LENGTHS: feeds[LENGTHS][rows]}


@contextlib.contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Restores this thread's alternate signal stack.

    OpenVINO 2026.4 replaces it while compiling, and frees its own with the graph: the next signal that Python handles,
    such as Ctrl-C, would kill the process.
    """
    try:
        sigaltstack = ctypes.CDLL(None).sigaltstack
    except (AttributeError, OSError, TypeError):  # not a POSIX system
        yield
        return
    before = ctypes.create_string_buffer(64)  # an opaque stack_t, 24 bytes on Linux
    sigaltstack(None, before)
    try:
        yield
    finally:
        sigaltstack(before, None)


def in_8_bits(kernel: Sequence[int], side: int) -> bool:
    """Whether int8 rounds the operands of a convolution, by its kernel's shape (out, in, H, W) and its map's side.

    It rounds those of a block's two main convolutions, if the map is large enough and the channels fill a vector. It
    leaves out shortcuts, which are 1×1, and the last convolution, which is narrow.
    """
    return tuple(kernel[2:]) in ((2, 2), (3, 3)) and kernel[0] >= _VECTOR and side >= _SMALLEST_SIDE


def quantize(model: "Model") -> None:
    """Rounds what the blocks' convolutions multiply to 8 bits, in place: weights per channel, maps by their own range.

    A map is divided by its largest value, and the sums are multiplied by it, so each picture uses the full range of
    levels and no calibration is needed. Call this before `rewrite`.
    """
    from openvino import opset8 as ops

    rounded: dict[tuple[str, int], tuple[Any, Any]] = {}
    for convolution in _nodes(model, "Convolution"):
        source = convolution.input_value(0)
        if not in_8_bits(convolution.input(1).get_shape(), source.get_partial_shape()[2].get_length()):
            continue
        key = source.get_node().get_friendly_name(), source.get_index()  # phases share their map
        levels, largest = rounded[key] = rounded.get(key) or _by_own_range(source)
        users = convolution.output(0).get_target_inputs()
        sums = ops.multiply(convolution, largest)
        for user in users:
            user.replace_source_output(sums.output(0))
        convolution.input(0).replace_source_output(levels.output(0))
        weight = _constant(_sources(convolution)[1])
        top = np.maximum(np.abs(weight).max(axis=(1, 2, 3), keepdims=True), np.float32(1e-30))
        rounded_weight = ops.fake_quantize(ops.constant(weight), -top, top, -top, top, 255)
        convolution.input(1).replace_source_output(rounded_weight.output(0))


def _by_own_range(source: Any) -> tuple[Any, Any]:  # noqa: ANN401  (OpenVINO's Output)
    """A map (B, C, H, W) divided by its largest value and rounded to 256 levels, and that value (B, 1, 1, 1)."""
    from openvino import opset8 as ops

    largest = ops.maximum(ops.reduce_max(source, np.array([1, 2, 3]), keep_dims=True), np.float32(1e-30))
    low, high = np.float32(-_BELOW / _ABOVE), np.float32(1)
    return ops.fake_quantize(ops.divide(source, largest), low, high, low, high, _BELOW + _ABOVE + 1), largest


def rewrite(model: "Model") -> None:
    """Rewrites a graph in place into the form that OpenVINO runs fastest: equal within rounding.

    The files hold what ONNX Runtime prefers: four 2×2 convolutions whose results are interleaved along rows and
    columns. OpenVINO keeps channels last, and would transpose every map to interleave them.
    """
    from openvino import opset8 as ops

    for result in _nodes(model, "Reshape"):
        phases = _alternating(result)
        if phases is None:
            continue
        joined = _transposed_convolution([phase.get_node() for phase in phases])
        if joined is None:
            joined = ops.depth_to_space(ops.concat(phases, 1), "blocks_first", 2)
        result.output(0).replace(joined.output(0))


def _alternating(result: Any) -> list[Any] | None:  # noqa: ANN401  (OpenVINO's Node)
    """The four maps that are interleaved in a result, row by row; None if it is something else."""
    rows = _stacked(result)
    columns = [_stacked(row.get_node()) for row in rows or []]
    return [phase for pair in columns for phase in pair] if columns and all(columns) else None  # type: ignore[union-attr]


def _stacked(result: Any) -> list[Any] | None:  # noqa: ANN401
    """The two maps that are interleaved along one axis of a result: unsqueezed, concatenated, reshaped."""
    if result.get_type_name() != "Reshape" or _sources(result)[0].get_type_name() != "Concat":
        return None
    parts = _sources(_sources(result)[0])
    return [part.input_value(0) for part in parts] if _kinds(*parts) == ["Unsqueeze"] * 2 else None


def _transposed_convolution(biased: list[Any]) -> Any:  # noqa: ANN401
    """One transposed convolution for four 2×2 ones in fp32, with their taps reordered; None if they are not that."""
    from openvino import opset8 as ops

    if _kinds(*biased) != ["Add"] * 4:
        return None
    convolutions = [_sources(node)[0] for node in biased]
    if _kinds(*convolutions) != ["Convolution"] * 4:
        return None
    try:
        weights = [_constant(_sources(node)[1]) for node in convolutions]
        reshape = _sources(biased[0])[1]  # asks the convolution for its shape
        bias = _constant(_sources(reshape)[0])
    except LookupError:
        return None
    channels_out, channels_in = weights[0].shape[:2]
    kernel = np.empty((channels_in, channels_out, 4, 4), np.float32)
    for number, weight in enumerate(weights):
        row, column = divmod(number, 2)
        kernel[:, :, 3 - row :: -2, 3 - column :: -2] = weight.swapaxes(0, 1)
    sizes = {"strides": [2, 2], "pads_begin": [1, 1], "pads_end": [1, 1]}
    convolved = ops.convolution_backprop_data(convolutions[0].input_value(0), ops.constant(kernel), **sizes)
    return ops.add(convolved, ops.constant(bias.reshape(1, -1, 1, 1)))


def _constant(node: Any) -> Array:  # noqa: ANN401
    """The value of a constant, including one that is stored in half precision (export/half_weights.py).

    Raises `LookupError` for anything else.
    """
    match node.get_type_name():
        case "Constant":
            return np.asarray(node.get_data())
        case "Convert":
            return _constant(_sources(node)[0]).astype(np.float32)
        case "MatMul":
            first, second = map(_constant, _sources(node))
            return np.asarray(first @ second)
        case "Reshape":
            first, shape = map(_constant, _sources(node))
            return first.reshape(shape)
        case kind:
            raise LookupError(kind)


def _nodes(model: "Model", kind: str) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == kind]


def _kinds(*nodes: Any) -> list[str]:  # noqa: ANN401
    return [node.get_type_name() for node in nodes]


def _sources(node: Any) -> list[Any]:  # noqa: ANN401
    return [tensor.get_source_output().get_node() for tensor in node.inputs()]
