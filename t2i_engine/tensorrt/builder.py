"""Builds engines from ONNX graphs, with TensorRT 10, 11 and TensorRT for RTX alike, and records what was built.

The network is strongly typed: each layer has the precision that the graph gives it, and no flag changes that.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from t2i_engine.bundle import Graph
from t2i_engine.errors import BackendError, OptionError, unknown
from t2i_engine.tensorrt.flavour import Flavour, Log
from t2i_engine.tensorrt.profile import Profile
from t2i_engine.tensorrt.record import EngineRecord, bindings, check_precision, compiled_layers, network_layers

CURRENT = "current"  # the GPU of this machine
RTX_TARGETS = ("sm86", "sm89", "sm120")  # RTX 30, 40 and 50


class BuildError(BackendError):
    """A graph that TensorRT cannot build an engine from."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine, serialised, and its record."""

    content: bytes
    record: EngineRecord


def build_engine(
    flavour: Flavour,
    onnx: bytes,
    graph: Graph,
    precision: str,
    profile: Profile,
    key: Mapping[str, str],
    targets: Sequence[str] = (CURRENT,),
    timing_cache: Path | None = None,
) -> BuiltEngine:
    """Builds an engine. `targets` are architectures of TensorRT for RTX; plain TensorRT builds for this GPU alone.

    `key` goes into the record. `timing_cache` is read and written by plain TensorRT only. Raises `BuildError` with what
    TensorRT logged, and `PrecisionError` where a heavy layer is not in `precision`.
    """
    api, log = flavour.api, Log(flavour.api)
    started = time.perf_counter()
    builder = api.Builder(log.logger)
    if builder is None:
        raise BuildError(f"{flavour.name} cannot start: {log.failures()}")
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = api.OnnxParser(network, log.logger)
    if not parser.parse(onnx):
        reasons = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise BuildError(f"{flavour.name} {flavour.version} cannot read the graph: {reasons}")
    layers = network_layers(network)
    exceptions = check_precision(layers, (), precision)
    config = _configured(builder, flavour, graph, profile, targets)
    cache = _read_timing_cache(config, flavour, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"{flavour.name} {flavour.version} cannot build an engine: {log.failures()}")
    compiled = compiled_layers(log.lines)
    check_precision(layers, compiled, precision)
    if cache is not None and timing_cache is not None:
        timing_cache.parent.mkdir(parents=True, exist_ok=True)
        timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    content = bytes(plan)
    inputs = bindings(network.get_input(i) for i in range(network.num_inputs))
    outputs = bindings(network.get_output(i) for i in range(network.num_outputs))
    seconds = round(time.perf_counter() - started, 2)
    record = EngineRecord(
        dict(key), sha256(content).hexdigest(), seconds, inputs, outputs, layers, compiled, exceptions
    )
    return BuiltEngine(content, record)


def check_targets(flavour: Flavour, targets: Sequence[str]) -> None:
    """Raises `OptionError` for an architecture that the flavour does not know."""
    known = [name.lower() for name in flavour.api.ComputeCapability.__members__ if name.startswith("SM")]
    for target in targets:
        if target not in (*known, CURRENT):
            raise OptionError(unknown("architecture", target, known))


def _configured(builder: Any, flavour: Flavour, graph: Graph, profile: Profile, targets: Sequence[str]) -> Any:  # noqa: ANN401
    api = flavour.api
    config = builder.create_builder_config()
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    config.clear_flag(api.BuilderFlag.TF32)  # fp32 means fp32
    shapes = builder.create_optimization_profile()
    for tensor in graph.inputs:
        shapes.set_shape(tensor.name, *profile.shapes(tensor))
    if config.add_optimization_profile(shapes) < 0:
        raise BuildError(f"{flavour.name} {flavour.version} refuses the range of sizes {profile}")
    if flavour.is_rtx:
        check_targets(flavour, targets)
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(getattr(api.ComputeCapability, target.upper()), index)
    return config


def _read_timing_cache(config: Any, flavour: Flavour, file: Path | None) -> Any:  # noqa: ANN401
    """How fast each kernel was in earlier builds: plain TensorRT then measures only what is new."""
    if flavour.is_rtx or file is None:
        return None
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return config.get_timing_cache()
