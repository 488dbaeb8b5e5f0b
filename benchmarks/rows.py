"""What is measured: every row of the table of formats, and beside them what one would use without this project."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.machine import has_bf16
from t2i_engine.backend_selection import row_lacks
from t2i_engine.backends import find_backend
from t2i_engine.backends.base import Runner
from t2i_engine.bundle import Bundle
from t2i_engine.errors import OptionError, unknown
from t2i_engine.formats import Form, Format, all_formats, find, load

REFERENCE = "pytorch"  # PyTorch eager in fp32: what differences and ratios are against
COMPILED = "torch-compile"

BUNDLE, UNFOLDED, PLAIN = "bundle", "unfolded", "plain"  # the folders of benchmarks/material.py


@dataclass(frozen=True)
class Row:
    """A way to run the model. `material` is the folder that has its files, `lacks` what this machine lacks besides."""

    format: Format
    what: str
    material: str = BUNDLE
    lacks: Callable[[str], str | None] = lambda device: None
    opener: str | None = None  # lazy `module:function` name, in place of the backend's open_runner

    def open(self, bundle: Bundle, graph: str, device: str, threads: int | None) -> Runner:
        """Opens a graph of a bundle."""
        open_runner = load(self.opener) if self.opener else find_backend(self.format.backend).open_runner
        runner: Runner = open_runner(bundle, self.format, graph, device, threads)
        return runner

    @property
    def name(self) -> str:
        """The name of its format, or of its own."""
        return self.format.name

    def missing(self, device: str) -> str | None:
        """What this machine lacks to run the row on a device; None where nothing is."""
        return row_lacks(self.format, device) or self.lacks(device)


def _lacks_bf16(device: str) -> str | None:
    if device == "cpu" and not has_bf16():
        return "this CPU has no bf16 instructions; PyTorch would emulate them"
    return None


def _lacks_compiler(device: str) -> str | None:
    if device == "cpu" and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        return "torch.compile needs a C++ compiler: install g++"
    return None


_WHAT = {
    "onnxruntime": "ONNX Runtime, the bundle's graphs",
    "openvino": "OpenVINO, the bundle's graphs",
    "pytorch": "PyTorch eager, as trained",
    "tensorrt": "TensorRT, engines built from the bundle's graphs",
    "tensorrt-rtx": "TensorRT for RTX, engines built from the bundle's graphs",
}

ROWS: tuple[Row, ...] = (
    *(Row(row, _WHAT[row.backend]) for row in all_formats()),
    Row(
        replace(find(REFERENCE), name="pytorch-bf16", precision="bf16"),
        "PyTorch eager, generator in bf16 and channels-last",
        opener="benchmarks.variants:open_bf16",
        lacks=_lacks_bf16,
    ),
    Row(
        replace(find(REFERENCE), name=COMPILED),
        "torch.compile of the generator, as trained",
        opener="benchmarks.variants:open_compiled",
        lacks=_lacks_compiler,
    ),
    Row(
        replace(find("onnx"), name="onnx-unfolded", form=Form.TRAINED),
        "ONNX Runtime, exported without the fold",
        UNFOLDED,
    ),
    Row(
        replace(find("onnx"), name="onnx-plain", form=Form.TRAINED),
        "ONNX Runtime as it comes, on what torch.onnx.export makes of the generator; pixels in NumPy",
        PLAIN,
        opener="benchmarks.variants:open_plain",
    ),
)


def find_row(name: str) -> Row:
    """The row called `name`. Raises `OptionError`, with a suggestion, where there is none."""
    for row in ROWS:
        if row.name == name:
            return row
    raise OptionError(unknown("format", name, [row.name for row in ROWS]))
