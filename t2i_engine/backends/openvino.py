"""OpenVINO: the bundle's ONNX graphs on the CPU, compiled at first use and kept for this machine."""

import contextlib
import ctypes
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_engine.backends.base import Array, Status, available_threads, check_feeds
from t2i_engine.bundle import Bundle
from t2i_engine.caches import cache_folder
from t2i_engine.errors import BackendError, BundleError
from t2i_engine.formats import GENERATOR, Format

if TYPE_CHECKING:
    from openvino import CompiledModel, Model

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
        processor: str = self._core.get_property(_DEVICE, "FULL_DEVICE_NAME")
        key = " ".join([self._sha256, openvino.__version__, hint, str(fixed), processor])
        kept = cache_folder() / "openvino" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.blob"
        try:
            return self._core.import_model(kept.read_bytes(), _DEVICE, options)
        except (OSError, RuntimeError):
            pass
        try:
            compiled = self._core.compile_model(self._model(fixed), _DEVICE, options)
        except RuntimeError as error:
            raise BundleError(f"OpenVINO {openvino.__version__} cannot load {self._file}: {error}") from None
        _keep(compiled, kept)
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
        transpose_phases(model)
        if fixed:
            model.reshape({name: [size or 1 for size in sizes] for name, sizes in declared.items()})
        return model


def transpose_phases(model: "Model") -> None:
    """Puts one transposed convolution in the place of each four 2×2 ones: the same products, a fifth faster here.

    ONNX Runtime prefers the four, so the file has those (export/folded.py): the weights are only put in another order.
    """
    from openvino import opset8 as ops

    for interleaved in [node for node in model.get_ordered_ops() if node.get_type_name() == "DepthToSpace"]:
        phases = _inputs(_inputs(_inputs(interleaved)[0])[0])  # behind a reshape and a concatenation
        biased = [_inputs(phase)[0] for phase in phases]
        convolutions = [_inputs(node)[0] for node in biased]
        if [node.get_type_name() for node in (*biased, *convolutions)] != ["Add"] * 4 + ["Convolution"] * 4:
            continue
        weights = [_inputs(node)[1] for node in convolutions]
        if any(node.get_type_name() != "Constant" for node in weights):
            continue
        channels_out, channels_in = weights[0].get_output_shape(0)[:2]
        kernel = np.empty((channels_in, channels_out, 4, 4), np.float32)
        for number, weight in enumerate(weights):
            row, column = divmod(number, 2)
            kernel[:, :, 3 - row :: -2, 3 - column :: -2] = weight.get_data().swapaxes(0, 1)
        features, bias = convolutions[0].input_value(0), biased[0].input_value(1)
        convolved = ops.convolution_backprop_data(
            features, ops.constant(kernel), strides=[2, 2], pads_begin=[1, 1], pads_end=[1, 1]
        )
        interleaved.output(0).replace(ops.add(convolved, bias).output(0))


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


def _keep(compiled: "CompiledModel", file: Path) -> None:
    """Writes the compiled graph, whole or not at all; a machine that cannot keep it compiles it again next time."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(compiled.export_model().getvalue())
        temporary.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _inputs(node: Any) -> list[Any]:  # noqa: ANN401  (OpenVINO's Node)
    return [tensor.get_source_output().get_node() for tensor in node.inputs()]


def _sizes(shape: Any) -> list[int | None]:  # noqa: ANN401  (OpenVINO's PartialShape)
    return [size.get_length() if size.is_static else None for size in shape]
