"""The machine that figures come from: what it is, how busy it was, and its measured peaks.

A peak is the best of several runs. On a CPU: PyTorch's product of two square matrices in fp32 and bf16, ONNX Runtime's
MatMulInteger (8 bits, unsigned times signed, in its own kernel on every CPU), and PyTorch's copy of an array far larger
than the caches. On an NVIDIA GPU: PyTorch's products in fp32 without TF32, fp16, bf16 and int8, and its copy.
"""

import contextlib
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import psutil

from t2i_engine.backend_selection import backend_names
from t2i_engine.backends import find_backend
from t2i_engine.backends.base import available_threads, installed_versions

PACKAGES = ("t2i-engine", "numpy", "pillow", "onnx", "scipy")  # and those that backends name
BUSY = 0.1  # processors used by others, above which figures are unreliable
PEAKS = {
    "fp32": "torch.mm in float32, without TF32",
    "bf16": "torch.mm in bfloat16 (256 × 256 on a CPU without bf16 instructions)",
    "fp16": "torch.mm in float16, on a GPU only",
    "int8": "ONNX Runtime's MatMulInteger (uint8 × int8) on a CPU, torch._int_mm on a GPU",
    "bandwidth": "a copy of 256 MiB with PyTorch, counting both the bytes read and the bytes written",
}

CPU_WIDTH, GPU_WIDTH = 1536, 4096  # of the matrices

_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is Arm's name
_GPU_FIELDS = (
    "name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.applications.graphics",
    "power.limit",
)  # fmt: skip
_SECONDS = 0.6  # per peak
_COPIED = 256 << 20  # bytes


@dataclass(frozen=True)
class Machine:
    """Hardware, software and settings, which stay the same from run to run unless someone changes them."""

    cpu: str
    processors: int
    usable_processors: int
    flags: str
    governor: str
    memory: int  # bytes
    system: str
    python: str
    versions: Mapping[str, str]
    variables: Mapping[str, str]  # environment variables that set threads and instructions
    gpus: tuple[Mapping[str, str], ...] = ()

    @property
    def identity(self) -> str:
        """The hardware; only figures of the same hardware can be compared."""
        gpus = [gpu.get("name", "") for gpu in self.gpus]
        return ", ".join([self.cpu, f"{self.usable_processors} processors", f"{self.memory / 2**30:.0f} GiB", *gpus])


@dataclass(frozen=True)
class Load:
    """How much of the machine others used, in processors: 1.0 is one processor all the time."""

    before: float
    during: tuple[float, ...]
    """One figure per round."""

    @property
    def busy(self) -> bool:
        """Whether the figures are unreliable."""
        return max([self.before, *self.during]) > BUSY


def describe_machine() -> Machine:
    """Asks the system; what it does not report is an empty string."""
    info = _cpu_info()
    uname = platform.uname()
    return Machine(
        cpu=info.get("model name") or platform.processor() or uname.machine,
        processors=psutil.cpu_count() or 1,
        usable_processors=available_threads(),
        flags=info["flags"],
        governor=_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        memory=psutil.virtual_memory().total,
        system=f"{uname.system} {uname.release} {uname.machine}",
        python=platform.python_version(),
        versions=installed_versions(
            (*PACKAGES, *(package for name in backend_names() for package in find_backend(name).PACKAGES))
        ),
        variables={
            name: value
            for name, value in sorted(os.environ.items())
            if re.match(r"(OMP|MKL|KMP|GOMP|ONEDNN|DNNL|OPENBLAS|ATEN|CUDA|NVIDIA|MALLOC)_", name) and "/" not in value
        },
        gpus=_gpus(),
    )


def has_bf16() -> bool:
    """Whether the CPU has bf16 instructions."""
    return not _BF16.isdisjoint(_cpu_info()["flags"].split())


class LoadMeter:
    """How many processors others use between two readings: all busy ones, less this process and its children."""

    def __init__(self) -> None:
        self._last = time.perf_counter(), _seconds_of_others()

    def read(self) -> float:
        """Processors that others have used since the last reading."""
        before, self._last = self._last, (time.perf_counter(), _seconds_of_others())
        return round(max(0.0, (self._last[1] - before[1]) / (self._last[0] - before[0])), 2)


def measure_peaks(device: str, threads: int) -> dict[str, float | None]:
    """The figures that `PEAKS` describes, in 1e9 per second; None where the device cannot do it."""
    import torch

    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    found: dict[str, float | None] = dict.fromkeys(PEAKS)
    on_cpu = device == "cpu"
    width = CPU_WIDTH if on_cpu else GPU_WIDTH
    with torch.inference_mode():
        for name in ("fp32", "bf16") if on_cpu else ("fp32", "bf16", "fp16"):
            found[name] = product_peak(name, device)
        product = _onnx_integer_product(width, threads) if on_cpu else _torch_integer_product(width)
        found["int8"] = 2 * width**3 / _best(product, device) / 1e9
        source, target = (torch.ones(_COPIED // 4, device=device) for _ in range(2))
        found["bandwidth"] = 2 * _COPIED / _best(partial(target.copy_, source), device) / 1e9
    return found


def product_peak(precision: str, device: str) -> float:
    """GFLOP/s of PyTorch's product of two square matrices in fp32, bf16 or fp16 on "cpu" or "cuda"."""
    import torch

    width = CPU_WIDTH if device == "cpu" else GPU_WIDTH
    if device == "cpu" and precision == "bf16" and not has_bf16():
        width = 256
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    first, second, out = (torch.randn(width, width, device=device).to(dtype) for _ in range(3))
    return 2 * width**3 / _best(partial(torch.mm, first, second, out=out), device) / 1e9


def _torch_integer_product(width: int) -> Callable[[], object]:
    import torch

    first, second = (torch.randint(-9, 9, (width, width), device="cuda", dtype=torch.int8) for _ in range(2))
    return lambda: torch._int_mm(first, second)


def _onnx_integer_product(width: int, threads: int) -> Callable[[], object]:
    import numpy as np
    import onnx
    import onnxruntime

    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 18]>
        product (uint8[{width}, {width}] a) => (int32[{width}, {width}] c) {{ c = MatMulInteger(a, b) }}"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((width, width), np.int8), "b"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"a": np.ones((width, width), np.uint8)}
    return lambda: session.run(None, feeds)


def _best(work: Callable[[], object], device: str) -> float:
    """The shortest time in seconds, after one untimed run."""
    import torch

    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    work()
    times: list[float] = []
    while sum(times) < _SECONDS or len(times) < 3:
        wait()
        started = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - started)
    return min(times)


def _seconds_of_others() -> float:
    """Processor time since boot, including what the host took for other guests, without this run's own."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # already counted in user
    own, this = 0.0, psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            own += sum(process.cpu_times()[:4])  # user and system, and that of children that have ended
    return float(sum(times) - idle - guest - own)


@cache
def _cpu_info() -> dict[str, str]:
    pairs = (line.partition(":") for line in _text("/proc/cpuinfo").splitlines())
    found = {name.strip(): value.strip() for name, _, value in pairs}
    return {"flags": found.get("Features", "")} | found  # Arm's name for them


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _gpus() -> tuple[Mapping[str, str], ...]:
    """Name, driver and clocks of each NVIDIA GPU; a pinned clock shows as the application clock."""
    query = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(dict(zip(_GPU_FIELDS, map(str.strip, line.split(",")), strict=False)) for line in lines)
