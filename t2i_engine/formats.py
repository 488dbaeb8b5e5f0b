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
SENTENCE_SHARE = "sentence_share"
PICTURE_SHARES = ("frechet_share", "mean_share", "worst_share")
DEVICES = ("cuda", "cpu")  # in order of preference for `auto`, which outranks the order of rows


@dataclass(frozen=True)
class Differences:
    """Differences from PyTorch in fp32: as measured, or as allowed (None: no limit).

    Full precision is limited by the largest absolute difference of each output. Reduced precision is limited by its
    effect on pictures, relative to that of other seeds (t2i_engine/picture_reference.py).
    """

    sentence: float | None = None
    image: float | None = None
    pixels: int | None = None
    psnr: float | None = None  # of the worst image, in dB; as a limit, a guard against broken pictures
    sentence_share: float | None = None  # of the change that would turn a picture into one of another seed
    frechet_share: float | None = None
    mean_share: float | None = None
    worst_share: float | None = None

    def within(self, allowed: "Differences") -> bool:
        """Whether every measure is within `allowed`; NaN and missing values are not."""
        return all(meets(field.name, getattr(self, field.name), getattr(allowed, field.name)) for field in fields(self))


def meets(measure: str, found: float | None, bound: float | None) -> bool:
    """Whether one field of `Differences` is within its bound: a minimum for psnr, a maximum for the others."""
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
    emulator: str | None = None  # makes `Runner`s that show overflow on a CPU, which the backend hides
    built_ahead: bool = False  # can be built where it cannot run; the bundle then lists it as unverified
    extra_files: tuple[str, ...] = ()  # further files that its builder yields and its backend reads

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that the format runs on, in order of preference for `auto`."""
        return tuple(self.extras)

    @property
    def judged_by_pictures(self) -> bool:
        """Whether its tolerance needs a bundle's picture reference."""
        limits = (getattr(self.tolerance, name) for name in (SENTENCE_SHARE, *PICTURE_SHARES))
        return any(limit is not None for limit in limits)

    @property
    def all_files(self) -> set[str]:
        """All of the format's files in a bundle."""
        return {*self.files.values(), *self.extra_files}


_ONNX_FILES = {TEXT_ENCODER: "text_encoder.onnx", GENERATOR: "generator.onnx"}
_FP16_FILES = {TEXT_ENCODER: "text_encoder.fp16.onnx", GENERATOR: "generator.fp16.onnx"}
_WEIGHTS = {TEXT_ENCODER: "weights.safetensors", GENERATOR: "weights.safetensors"}

_ORT = {"cuda": "gpu", "cpu": "cpu"}
_OPENVINO = {"cpu": "openvino"}
_PYTORCH = {"cuda": "export", "cpu": "export"}

_ONNX_BUILDER = "export.onnx_graphs:build"

# 1e-7 per LSTM state of an fp32 text encoder, which 64 words of a well-trained one amplify to 3e-5.
_SENTENCE = 1e-4
# For words in random order, PyTorch's own fp32 is up to 1.4e-4 from float64 (cub); 5e-4 is a sixteenth of a level.
_EXACT = Differences(sentence=_SENTENCE, image=5e-4, pixels=1)
_SAME_ARITHMETIC = (
    "the same fp32 arithmetic summed in another order: about 1e-7 per LSTM state, amplified word by word up to 3e-5, "
    "and 7e-6 per image value, 2e-4 for words in random order; a value that close to a rounding boundary moves one "
    "level"
)
_SAME_CODE = "the same weights in the same code; batch size and number of threads change the order of sums"
# From fp32's own pictures (0 %) to those of other seeds (100 %), over 1,000 pairs (docs/lab/graphs.md).
# The guard is just above the 15 dB of unrelated pictures: PSNR punishes an edge that moved, and misses grain.
_GUARD = 20
_FP16 = Differences(psnr=_GUARD, sentence_share=0.05, frechet_share=0.005, mean_share=0.02, worst_share=0.05)
_FP16_REASON = "11 bits of mantissa in every layer: 0.03 % as a set, 0.9 % on average, 1.4 % at worst"
_BF16 = Differences(_SENTENCE, psnr=_GUARD, frechet_share=0.05, mean_share=0.04, worst_share=0.2)
_BF16_REASON = "8 bits of mantissa, except in the text encoder: 1 % as a set, 3 % on average, 6 % at worst"
_INT8 = Differences(_SENTENCE, psnr=_GUARD, frechet_share=0.1, mean_share=0.1, worst_share=0.2)
_INT8_REASON = "256 levels for each map of a picture, the rest in bf16: 7 % as a set and on average, 10 % at worst"


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
        tolerance=_EXACT if precision == "fp32" else _FP16,
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
    Format("openvino-int8", _ONNX_FILES, "int8", "openvino", _OPENVINO, _ONNX_BUILDER, _INT8, _INT8_REASON),
)


@cache
def all_formats() -> tuple[Format, ...]:
    """`FORMATS`, followed by the rows of third-party backends."""
    from t2i_engine.backends import third_party_backends

    return (*FORMATS, *(row for backend in third_party_backends().values() for row in getattr(backend, "FORMATS", ())))


def find(name: str) -> Format:
    """The row called `name`. Raises `OptionError`, with a suggestion, if there is none."""
    for row in all_formats():
        if row.name == name:
            return row
    raise OptionError(unknown("format", name, (row.name for row in all_formats())))


def load(dotted: str) -> Callable[..., Any]:
    """The function behind a row's lazy `module:function` name."""
    loaded: Callable[..., Any] = resolve_name(dotted)
    return loaded
