"""The table of formats: what a bundle can hold, which backend runs it, who builds it and how exact it must be.

Export, verify, benchmark, `t2i-engine info`, the README's table and the tests all read `FORMATS`. A new format is one
row here and one module that builds it. Rows are in the order in which `auto` prefers them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from importlib import import_module
from typing import Any

from t2i_engine.errors import OptionError, unknown

TEXT_ENCODER = "text_encoder"
GENERATOR = "generator"
PSNR = "psnr"
DEVICES = ("cuda", "cpu")  # in the order in which `auto` prefers them, whatever the row


@dataclass(frozen=True)
class Differences:
    """Largest absolute differences from PyTorch in fp32, per output: those found, or those allowed (None: not bounded).

    Reduced precisions are bounded by `psnr`, the peak signal-to-noise ratio in dB of the worst image.
    """

    sentence: float
    image: float | None
    pixels: int | None
    psnr: float | None = None

    def within(self, allowed: "Differences") -> bool:
        """True where no difference is larger, and no ratio smaller, than allowed; NaN and what is missing never are."""
        measures = [field.name for field in fields(self)]
        return all(meets(name, getattr(self, name), getattr(allowed, name)) for name in measures)


def meets(measure: str, found: float | None, bound: float | None) -> bool:
    """Whether one field of `Differences` keeps its bound: psnr is at least that, the others at most."""
    if bound is None:
        return True
    return found is not None and (found >= bound if measure == PSNR else found <= bound)


class Form(StrEnum):
    """How a graph computes upsample + convolution: as trained, or folded in one of two ways (export/folded.py)."""

    TRAINED = "trained"
    TRANSPOSED = "transposed"
    PHASES = "phases"


@dataclass(frozen=True)
class Format:
    """One row. `extras` maps each device to the extra to install; builder and opener are lazy `module:function` names.

    The opener takes (bundle, format, graph, device, threads) and gives a `Runner`.
    """

    name: str
    files: Mapping[str, str]  # graph -> file in the bundle
    precision: str
    backend: str
    extras: Mapping[str, str]  # device -> extra
    builder: str
    opener: str
    tolerance: Differences
    reason: str  # why the tolerance is what it is
    form: Form = Form.PHASES
    emulator: str | None = None  # gives a `Runner` per graph that shows what its backend hides here (export/half.py)
    built_ahead: bool = False  # can be built where it cannot run; the bundle then marks it "built, not run"

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that the format runs on, in the order in which `auto` prefers them."""
        return tuple(self.extras)


FORMATS: tuple[Format, ...] = (
    Format(
        name="onnx",
        files={TEXT_ENCODER: "text_encoder.onnx", GENERATOR: "generator.onnx"},
        precision="fp32",
        backend="onnxruntime",
        extras={"cuda": "gpu", "cpu": "cpu"},
        builder="export.onnx_graphs:build",
        opener="t2i_engine.backends.onnxruntime:open_runner",
        tolerance=Differences(sentence=1e-5, image=1e-4, pixels=1),
        reason="the same fp32 arithmetic summed in another order: about 1e-7 per LSTM state and 7e-6 per image value; "
        "a value that close to a rounding border moves one level",
    ),
    Format(
        name="pytorch",
        files={TEXT_ENCODER: "weights.safetensors", GENERATOR: "weights.safetensors"},
        precision="fp32",
        backend="pytorch",
        extras={"cuda": "export", "cpu": "export"},
        builder="export.weights:build",
        opener="t2i_engine.backends.pytorch:open_runner",
        tolerance=Differences(sentence=1e-5, image=1e-4, pixels=1),
        reason="the same weights in the same code; batch size and number of threads change the order of sums",
    ),
)


def find(name: str) -> Format:
    """The row called `name`. Raises `OptionError`, with a suggestion, where there is none."""
    for row in FORMATS:
        if row.name == name:
            return row
    raise OptionError(unknown("format", name, (row.name for row in FORMATS)))


def load(dotted: str) -> Callable[..., Any]:
    """The function behind a row's lazy `module:function` name."""
    module, _, function = dotted.partition(":")
    loaded: Callable[..., Any] = getattr(import_module(module), function)
    return loaded
