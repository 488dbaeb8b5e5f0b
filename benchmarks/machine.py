"""The machine that figures are from, and how busy it was: without this no timing can be read or repeated."""

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from t2i_engine.backends.base import available_threads

PACKAGES = (
    "t2i-engine", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "onnx", "scipy", "tensorrt",
    "tensorrt-rtx-cu13",
)  # fmt: skip
BUSY = 0.1  # of a processor, used by others: more of it and figures are doubtful

_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is Arm's name


@dataclass(frozen=True)
class Machine:
    """What does not change between two runs, unless somebody changes it."""

    cpu: str
    processors: int
    usable_processors: int
    flags: str
    governor: str
    memory: int  # bytes
    system: str
    python: str
    versions: Mapping[str, str]
    variables: Mapping[str, str]  # of the environment, which set threads and instructions
    gpus: tuple[Mapping[str, str], ...] = ()

    @property
    def identity(self) -> str:
        """What a baseline must share: figures of other hardware are other figures."""
        gpus = [gpu.get("name", "") for gpu in self.gpus]
        return ", ".join([self.cpu, f"{self.usable_processors} processors", f"{self.memory / 2**30:.0f} GiB", *gpus])


@dataclass(frozen=True)
class Load:
    """How much of the machine others used, in processors: 1.0 is one processor all the time."""

    before: float
    during: tuple[float, ...]
    """One figure for each round."""
    average: tuple[float, ...]
    """The system's load averages over 1, 5 and 15 minutes when the run began."""

    @property
    def busy(self) -> bool:
        """True where the figures are doubtful."""
        return max([self.before, *self.during]) > BUSY


def describe_machine() -> Machine:
    """Asks the system. What it does not tell is an empty text."""
    info = _cpu_info()
    uname = platform.uname()
    return Machine(
        cpu=info.get("model name") or platform.processor() or uname.machine,
        processors=psutil.cpu_count() or 1,
        usable_processors=available_threads(),
        flags=info.get("flags") or info.get("Features", ""),
        governor=_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        memory=psutil.virtual_memory().total,
        system=f"{uname.system} {uname.release} {uname.machine}",
        python=platform.python_version(),
        versions=_versions(),
        variables={
            name: value
            for name, value in sorted(os.environ.items())
            if re.match(r"(OMP|MKL|KMP|GOMP|ONEDNN|DNNL|OPENBLAS|ATEN|CUDA|NVIDIA|MALLOC)_", name) and "/" not in value
        },
        gpus=_gpus(),
    )


def has_bf16() -> bool:
    """Whether the CPU multiplies in bf16 itself."""
    info = _cpu_info()
    return bool(_BF16 & set((info.get("flags") or info.get("Features", "")).split()))


class LoadMeter:
    """How many processors others use between two readings: all that were busy, less what this run used itself."""

    def __init__(self, own: float = 0.0) -> None:
        self._last = (time.perf_counter(), _busy_seconds(), own)

    def read(self, own: float = 0.0) -> float:
        """Since the last reading; `own` is the processor time in seconds that this run's processes have used so far."""
        before, now = self._last, (time.perf_counter(), _busy_seconds(), own)
        self._last = now
        wall, busy, ours = (new - old for new, old in zip(now, before, strict=True))
        return round(max(0.0, (busy - ours) / wall), 2) if wall > 0 else 0.0


def _busy_seconds() -> float:
    """Processor time of everything since the system's start, and what other guests of its host took of it."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted within user already
    return float(sum(times) - idle - guest)


@cache
def _cpu_info() -> dict[str, str]:
    pairs = (line.partition(":") for line in _text("/proc/cpuinfo").splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _gpus() -> tuple[Mapping[str, str], ...]:
    """Name, driver and clocks of each NVIDIA GPU; a clock that is pinned is the application clock."""
    fields = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.applications.graphics",
              "power.limit")  # fmt: skip
    tool = shutil.which("nvidia-smi")
    if not tool:
        return ()
    try:
        asked = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
        lines = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(dict(zip(fields, (part.strip() for part in line.split(",")), strict=False)) for line in lines)
