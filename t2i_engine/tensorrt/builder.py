"""Builds engines from ONNX graphs, with TensorRT 10 and 11 and TensorRT for RTX, and records what was built.

The network is strongly typed: every layer has the precision that the graph gives it, whatever the flags.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from t2i_engine.errors import BackendError, OptionError, unknown
from t2i_engine.files import cache
from t2i_engine.manifest import Graph, TensorSpec
from t2i_engine.tensorrt.record import EngineRecord, bindings, check_precision, compiled_layers, network_layers
from t2i_engine.tensorrt.variant import Variant

CURRENT = "current"  # the GPU of this machine
RTX_TARGETS = ("sm86", "sm89", "sm120")  # RTX 30, 40 and 50


class BuildError(BackendError):
    """A graph from which TensorRT cannot build an engine."""


@dataclass(frozen=True)
class Range:
    """The sizes an engine accepts, and the one it is tuned for."""

    minimum: int
    optimum: int
    maximum: int


@dataclass(frozen=True)
class Profile:
    """The dynamic sizes of an engine: B pictures or captions at once, captions of T tokens."""

    batch: Range = Range(1, 4, 16)
    tokens: Range = Range(1, 16, 256)

    def shapes(self, tensor: TensorSpec) -> tuple[tuple[int, ...], ...]:
        """The minimum, optimum and maximum shape of an input."""
        bounds = ("minimum", "optimum", "maximum")
        return tuple(
            tensor.sized({"B": getattr(self.batch, bound), "T": getattr(self.tokens, bound)}) for bound in bounds
        )

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raises `BackendError` if B or T is out of range."""
        for letter, allowed, what, cure in (
            ("B", self.batch, "a batch of {}", "draw fewer at once with --batch-size {}"),
            ("T", self.tokens, "a caption of {} words", "shorten it to {} words"),
        ):
            size = sizes.get(letter)
            if size is not None and not allowed.minimum <= size <= allowed.maximum:
                raise BackendError(
                    f"{what.format(size)} is outside the engine's range, {allowed.minimum} to {allowed.maximum}; "
                    f"{cure.format(allowed.maximum)}, or use another backend"
                )


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine and its record."""

    content: bytes
    record: EngineRecord


def build_engine(
    variant: Variant,
    onnx: bytes,
    graph: Graph,
    precision: str,
    profile: Profile,
    key: Mapping[str, str],
    targets: Sequence[str] = (CURRENT,),
    timing_cache: Path | None = None,
) -> BuiltEngine:
    """Builds an engine. `targets` are GPU architectures for TensorRT for RTX; plain TensorRT builds for this GPU only.

    `key` goes into the record. Only plain TensorRT reads and writes `timing_cache`. Raises `BuildError` with what
    TensorRT logged, and `PrecisionError` if a heavy layer is not in `precision`.
    """
    started = time.perf_counter()
    with variant.log.recording() as lines:
        builder = variant.start("Builder")
        network = _parsed(variant, builder, onnx)
        layers = network_layers(network)
        exceptions = check_precision(layers, (), precision)
        config = _configured(variant, builder, graph, profile, targets)
        timing_cache = None if variant.is_rtx else timing_cache
        if timing_cache:
            _read_timing_cache(config, timing_cache)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(f"{variant} cannot build an engine: {variant.log.reason()}")
        compiled = compiled_layers(lines)
    check_precision(layers, compiled, precision)
    if timing_cache:
        cache(timing_cache, bytes(config.get_timing_cache().serialize()))
    content = bytes(plan)
    record = EngineRecord(
        key=dict(key),
        sha256=sha256(content).hexdigest(),
        seconds=round(time.perf_counter() - started, 2),
        inputs=bindings(network.get_input(i) for i in range(network.num_inputs)),
        outputs=bindings(network.get_output(i) for i in range(network.num_outputs)),
        network=layers,
        compiled=compiled,
        exceptions=exceptions,
    )
    return BuiltEngine(content, record)


def _parsed(variant: Variant, builder: Any, onnx: bytes) -> Any:  # noqa: ANN401
    api = variant.api
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = api.OnnxParser(network, variant.log.logger)
    if not parser.parse(onnx):
        reasons = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise BuildError(f"{variant} cannot read the graph: {reasons}")
    return network


def _configured(variant: Variant, builder: Any, graph: Graph, profile: Profile, targets: Sequence[str]) -> Any:  # noqa: ANN401
    api = variant.api
    config = builder.create_builder_config()
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    config.clear_flag(api.BuilderFlag.TF32)  # fp32 means fp32
    shapes = builder.create_optimization_profile()
    for tensor in graph.inputs:
        shapes.set_shape(tensor.name, *profile.shapes(tensor))
    if config.add_optimization_profile(shapes) < 0:
        raise BuildError(f"{variant} does not accept the range of sizes {profile}: {variant.log.reason()}")
    if variant.is_rtx:
        known = [name.lower() for name in api.ComputeCapability.__members__ if name.startswith("SM")]
        for target in targets:
            if target not in (*known, CURRENT):
                raise OptionError(unknown("architecture", target, known))
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(getattr(api.ComputeCapability, target.upper()), index)
    return config


def _read_timing_cache(config: Any, file: Path) -> None:  # noqa: ANN401
    """Reads how fast each kernel was in earlier builds, so that plain TensorRT measures only new ones."""
    timings = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    if timings is None or not config.set_timing_cache(timings, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
