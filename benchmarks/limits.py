"""What the machine can do at most, measured with what is at hand: matrix products and a copy, the best of several.

On a CPU: PyTorch's product of two square matrices in fp32 and bf16, ONNX Runtime's MatMulInteger (unsigned times signed
8 bits, its own kernel on every CPU), and PyTorch's copy of an array far larger than the caches, read once and written
once. On an NVIDIA GPU: PyTorch's products in fp32 without TF32, fp16, bf16 and int8, and its copy.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.machine import has_bf16
from benchmarks.report import HOW_LIMITS

SECONDS = 0.6  # per figure
COPIED = 256 << 20  # bytes


def measure_limits(device: str, threads: int) -> dict[str, float | None]:
    """The figures that `HOW_LIMITS` describes, in 1e9 per second; None for what the device cannot do."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        found: dict[str, float | None] = dict.fromkeys(HOW_LIMITS)
        found.update(_on_cpu(threads) if device == "cpu" else _on_gpu())
    return found


def _on_cpu(threads: int) -> Iterator[tuple[str, float]]:
    for name, dtype, side in (("fp32", torch.float32, 1536), ("bf16", torch.bfloat16, 1536 if has_bf16() else 256)):
        first, second = (torch.randn(side, side).to(dtype) for _ in range(2))
        out = torch.empty(side, side, dtype=dtype)
        yield name, 2 * side**3 / _best(partial(torch.mm, first, second, out=out)) / 1e9
    yield "int8", 2 * 1536**3 / _best(_integer_product(1536, threads)) / 1e9
    yield "bandwidth", _bandwidth("cpu")


def _on_gpu() -> Iterator[tuple[str, float]]:
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        first, second = (torch.randn(4096, 4096, device="cuda", dtype=dtype) for _ in range(2))
        yield name, 2 * 4096**3 / _best(partial(torch.mm, first, second), "cuda") / 1e9
    first, second = (torch.randint(-9, 9, (4096, 4096), device="cuda", dtype=torch.int8) for _ in range(2))
    yield "int8", 2 * 4096**3 / _best(lambda: torch._int_mm(first, second), "cuda") / 1e9
    yield "bandwidth", _bandwidth("cuda")


def _bandwidth(device: str) -> float:
    source, target = (torch.ones(COPIED // 4, device=device) for _ in range(2))
    return 2 * COPIED / _best(lambda: target.copy_(source), device) / 1e9


def _integer_product(side: int, threads: int) -> Callable[[], object]:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [side, side])],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [side, side])],
        [onnx.numpy_helper.from_array(np.ones((side, side), np.int8), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"a": np.ones((side, side), np.uint8)}
    return lambda: session.run(None, feeds)


def _best(work: Callable[[], object], device: str = "cpu") -> float:
    """The shortest time in seconds, behind one run that is not timed."""
    work()
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 3:
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)
