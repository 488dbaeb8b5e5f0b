"""The table of formats: what a bundle can hold, which backend runs it, what builds it, and its tolerance.

Export, verify, benchmark, `t2i-engine info`, the README's table and the tests all read it. A new format is one row and
the module that builds it. A new backend is one module; its rows are here or, in another distribution, in that module
(`all_formats`). Rows are in order of preference for `auto`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from pkgutil import resolve_name
from typing import Any

from t2i_engine.errors import OptionError, unknown

TEXT_ENCODER = "text_encoder"
GENERATOR = "generator"
PSNR = "psnr"
DEVICES = ("cuda", "cpu")  # in order of preference for `auto`, before that of the rows


@dataclass(frozen=True)
class Differences:
    """Largest absolute differences from PyTorch in fp32, per output: as found, or as allowed (None: no limit).

    Reduced precisions are limited by `psnr`, the peak signal-to-noise ratio in dB of the worst image.
    """

    sentence: float
    image: float | None = None
    pixels: int | None = None
    psnr: float | None = None

    def within(self, allowed: "Differences") -> bool:
        """Whether every measure is as good as `allowed`; NaN and missing values are not."""
        return all(meets(field.name, getattr(self, field.name), getattr(allowed, field.name)) for field in fields(self))


def meets(measure: str, found: float | None, bound: float | None) -> bool:
    """Whether one field of `Differences` is within its limit: at least that for psnr, at most that for the others."""
    if bound is None:
        return True
    return found is not None and (found >= bound if measure == PSNR else found <= bound)


class Form(StrEnum):
    """How a graph computes upsample + convolution: as trained, or folded in one of two ways."""

    TRAINED = "trained"
    TRANSPOSED = "transposed"
    PHASES = "phases"


@dataclass(frozen=True)
class Format:
    """One row. `extras` maps each device to the extra to install; `builder` is a lazy `module:function` name.

    The builder takes (model, format) and yields `Artifact`s. It is not called if all files exist already, from another
    row or in the bundle that formats are added to; a row that shares another's files may leave it empty.
    """

    name: str
    files: Mapping[str, str]  # graph -> file in the bundle
    precision: str
    backend: str
    extras: Mapping[str, str]  # device -> extra
    builder: str
    tolerance: Differences
    reason: str  # why the tolerance is what it is
    form: Form = Form.PHASES
    emulator: str | None = None  # gives a `Runner` per graph that shows what the backend hides on a CPU
    calibrated: bool = False  # the builder also takes token ids of real captions, and the files built so far
    built_ahead: bool = False  # can be built where it cannot run; the bundle then lists it as unverified
    extra_files: tuple[str, ...] = ()  # further files that its builder yields and its backend reads

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that the format runs on, in order of preference for `auto`."""
        return tuple(self.extras)

    @property
    def all_files(self) -> set[str]:
        """Every file that the format has in a bundle."""
        return {*self.files.values(), *self.extra_files}


_ONNX_FILES = {TEXT_ENCODER: "text_encoder.onnx", GENERATOR: "generator.onnx"}
_FP16_FILES = {TEXT_ENCODER: "text_encoder.fp16.onnx", GENERATOR: "generator.fp16.onnx"}
_INT8_FILES = {TEXT_ENCODER: "text_encoder.onnx", GENERATOR: "generator.int8.onnx"}
_WEIGHTS = {TEXT_ENCODER: "weights.safetensors", GENERATOR: "weights.safetensors"}

_ORT = {"cuda": "gpu", "cpu": "cpu"}
_ORT_CPU = {"cpu": "cpu"}
_OPENVINO = {"cpu": "openvino"}
_PYTORCH = {"cuda": "export", "cpu": "export"}

_ONNX_BUILDER, _INT8_BUILDER = "export.onnx_graphs:build", "export.int8:build"

# 1e-7 per LSTM state of an fp32 text encoder, which 64 words of a well-trained one amplify to 3e-5.
_SENTENCE = 1e-4
_EXACT = Differences(sentence=_SENTENCE, image=1e-4, pixels=1)
_SAME_ARITHMETIC = (
    "the same fp32 arithmetic summed in another order: about 1e-7 per LSTM state, amplified word by word up to 3e-5, "
    "and 7e-6 per image value; a value that close to a rounding boundary moves one level"
)
_SAME_CODE = "the same weights in the same code; batch size and number of threads change the order of sums"
_BF16 = Differences(sentence=_SENTENCE, psnr=45)
_BF16_REASON = "8 bits of mantissa: about 52 dB, 4 levels where there is contrast; the text encoder stays in fp32"
_FP16 = Differences(sentence=2e-3, psnr=60)
_TENSORRT_FP16 = Differences(sentence=2e-3, pixels=4, psnr=55)
_FP16_REASON = "11 bits of mantissa in every layer: about 69 dB, and 5e-4 per LSTM state"
_INT8 = Differences(sentence=_SENTENCE, psnr=35)
_INT8_REASON = "256 levels per layer, chosen on real captions: about 40 dB; the text encoder stays in fp32"


def _tensorrt(backend: str, precision: str) -> Format:
    """A row of TensorRT. Both variants share their graphs; the one for RTX also has engines built ahead of time."""
    name, graphs = f"{backend}-{precision}", (TEXT_ENCODER, GENERATOR)
    engines = [f"{graph}.{name}.engine" for graph in graphs]
    ahead = backend == "tensorrt-rtx"
    return Format(
        name=name,
        files={graph: f"{graph}.tensorrt-{precision}.onnx" for graph in graphs},
        precision=precision,
        backend=backend,
        extras={"cuda": backend},
        builder=f"export.tensorrt_graphs:{'build_with_engines' if ahead else 'build'}",
        tolerance=_EXACT if precision == "fp32" else _TENSORRT_FP16,
        reason=_SAME_ARITHMETIC if precision == "fp32" else _FP16_REASON,
        form=Form.TRANSPOSED,
        built_ahead=True,
        extra_files=tuple(file for engine in engines for file in (engine, f"{engine}.json")) if ahead else (),
    )


FORMATS: tuple[Format, ...] = (
    _tensorrt("tensorrt", "fp16"),
    _tensorrt("tensorrt-rtx", "fp16"),
    _tensorrt("tensorrt", "fp32"),
    _tensorrt("tensorrt-rtx", "fp32"),
    # name, files, precision, backend, extras, builder, tolerance, reason
    Format("openvino-bf16", _ONNX_FILES, "bf16", "openvino", _OPENVINO, _ONNX_BUILDER, _BF16, _BF16_REASON),
    Format("onnx", _ONNX_FILES, "fp32", "onnxruntime", _ORT, _ONNX_BUILDER, _EXACT, _SAME_ARITHMETIC),
    Format("openvino", _ONNX_FILES, "fp32", "openvino", _OPENVINO, _ONNX_BUILDER, _EXACT, _SAME_ARITHMETIC),
    Format("pytorch", _WEIGHTS, "fp32", "pytorch", _PYTORCH, "export.artifact:build_weights", _EXACT, _SAME_CODE),
    Format(
        "onnx-fp16",
        _FP16_FILES,
        "fp16",
        "onnxruntime",
        _ORT,
        "export.fp16:build",
        _FP16,
        _FP16_REASON,
        emulator="export.fp16:emulate",
    ),
    Format(
        "openvino-int8", _INT8_FILES, "int8", "openvino", _OPENVINO, _INT8_BUILDER, _INT8, _INT8_REASON, calibrated=True
    ),
    Format(
        "onnx-int8", _INT8_FILES, "int8", "onnxruntime", _ORT_CPU, _INT8_BUILDER, _INT8, _INT8_REASON, calibrated=True
    ),
)


@cache
def all_formats() -> tuple[Format, ...]:
    """`FORMATS`, followed by the rows of third-party backends."""
    from t2i_engine.backends import third_party_backends

    return (*FORMATS, *(row for backend in third_party_backends().values() for row in getattr(backend, "FORMATS", ())))


def find(name: str) -> Format:
    """The row called `name`. Raises `OptionError`, with a suggestion, where there is none."""
    for row in all_formats():
        if row.name == name:
            return row
    raise OptionError(unknown("format", name, (row.name for row in all_formats())))


def load(dotted: str) -> Callable[..., Any]:
    """The function behind a row's lazy `module:function` name."""
    loaded: Callable[..., Any] = resolve_name(dotted)
    return loaded
