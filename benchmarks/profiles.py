"""Where a call's time goes, by kind of operator, as ONNX Runtime and OpenVINO tell it themselves."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from t2i_engine.backends.base import Array
from t2i_engine.bundle import Bundle
from t2i_engine.formats import GENERATOR, Format

CALLS = 10

Operators = list[tuple[str, float]]
"""Kinds of operators with the milliseconds that they take in one call, longest first."""


def profile_onnxruntime(bundle: Bundle, row: Format, feeds: Mapping[str, Array], threads: int) -> Operators:
    """The generator's operators after ONNX Runtime has fused them, on the CPU."""
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="t2i-engine-") as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            bundle.path(row.files[GENERATOR]), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(1 + CALLS):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = [event for event in events if event["name"] == "model_run"]
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    warm = [event for event in nodes if event["ts"] >= runs[1]["ts"]]
    return _summed((event["args"]["op_name"], event["dur"] / 1000 / CALLS) for event in warm)


def profile_openvino(bundle: Bundle, row: Format, feeds: Mapping[str, Array], threads: int) -> Operators:
    """The generator's operators after OpenVINO has fused them, for one picture as the backend computes it."""
    import openvino

    from t2i_engine.backends.openvino_rewriting import rewrite

    core = openvino.Core()
    model = core.read_model(bundle.path(row.files[GENERATOR]))
    rewrite(model)
    alone = {name: feed[:1] for name, feed in feeds.items()}
    hint = "bf16" if row.precision == "bf16" else "f32"
    if threads > 1 or hint == "bf16":  # as the backend does, which says why
        model.reshape({name: list(feed.shape) for name, feed in alone.items()})
    options = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    request.infer(alone)
    found: Operators = []
    for _ in range(CALLS):
        request.infer(alone)
        for node in request.profiling_info:
            if node.status == openvino.ProfilingInfo.Status.EXECUTED:
                milliseconds = node.real_time.total_seconds() * 1000 / CALLS * len(next(iter(feeds.values())))
                found.append((f"{node.node_type} ({node.exec_type})", milliseconds))
    return _summed(found)


PROFILERS: Mapping[str, Callable[[Bundle, Format, Mapping[str, Array], int], Operators]] = {
    "onnxruntime": profile_onnxruntime,
    "openvino": profile_openvino,
}


def _summed(found: Iterable[tuple[str, float]]) -> Operators:
    sums: dict[str, float] = defaultdict(float)
    for kind, milliseconds in found:
        sums[kind] += milliseconds
    return sorted(sums.items(), key=lambda pair: -pair[1])
