"""What is measured: targets, which are every format and what one would use without this project, and their cases.

Everything that is wrong with the command's options is reported here, before anything runs.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

from benchmarks.machine import has_bf16
from t2i_engine.backend_selection import build_needed, row_lacks
from t2i_engine.backends import find_backend, onnxruntime, pytorch
from t2i_engine.backends.base import Array, Runner, available_threads
from t2i_engine.bundle import Bundle
from t2i_engine.engine import LARGEST_BATCH, MOST_THREADS
from t2i_engine.errors import BackendError, OptionError, unknown
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Format, all_formats, find

EAGER = "pytorch"  # PyTorch eager in fp32, which differences and speed-ups are relative to
COMPILED = "torch-compile"
BUNDLE, UNFOLDED = "bundle", "unfolded"  # fixtures

ALL = "all"
PAPER = "paper"  # the network of the paper's size with random weights
RESOLUTIONS = (64, 128, 256)
SCALED = ("onnx", "openvino", "openvino-bf16", EAGER)  # targets that are timed at every resolution

_SLOW = {
    COMPILED: "compiling takes longer than --quick allows",
    "onnx-unfolded": "exporting takes longer than --quick allows",
    "onnx-plain": "exporting takes longer than --quick allows",
}

Opener = Callable[[Bundle, Format, str, str, int | None], Runner]


@dataclass(frozen=True)
class Target:
    """A way to run the model: a format, as it is or as a variant that opens its files differently."""

    name: str
    format: Format
    precision: str
    description: str = ""
    fixture: str = BUNDLE
    """The bundle with its files (benchmarks/fixtures.py)."""
    lacks: Callable[[str], str | None] = lambda device: None
    """What a variant lacks on a device of this machine, with the cure."""
    opener: Opener | None = None
    """A variant's, in place of the backend's `open_runner`."""

    @property
    def title(self) -> str:
        """What it is, for people."""
        return self.description or f"{find_backend(self.format.backend).TITLE}, {self.precision}"

    def missing(self, device: str) -> str | None:
        """What this machine lacks to run it on a device, with the cure; None where nothing is."""
        return row_lacks(self.format, device) or self.lacks(device)

    def open(self, bundle: Bundle, graph: str, device: str, threads: int) -> Runner:
        """Opens a graph of a bundle. Raises as the backend's `open_runner`."""
        opener = self.opener or find_backend(self.format.backend).open_runner
        return opener(bundle, self.format, graph, device, threads)


@cache
def all_targets() -> tuple[Target, ...]:
    """Every format of the table, then the variants."""
    eager, onnx = find(EAGER), find("onnx")
    return (
        *(Target(row.name, row, row.precision) for row in all_formats()),
        Target(
            "pytorch-bf16", eager, "bf16", "PyTorch eager, generator in bf16, channels-last",
            lacks=_lacks_bf16, opener=_open_bf16,
        ),
        Target(
            COMPILED, eager, "fp32", "PyTorch, generator through torch.compile",
            lacks=_lacks_compiler, opener=_open_compiled,
        ),
        Target("onnx-unfolded", onnx, "fp32", "ONNX Runtime, exported without the fold", UNFOLDED),
        Target(
            "onnx-plain", onnx, "fp32", "ONNX Runtime with default settings, exported without the fold",
            UNFOLDED, opener=_open_plain,
        ),
    )  # fmt: skip


def find_target(name: str) -> Target:
    """The target called `name`. Raises `OptionError`, with a suggestion, where there is none."""
    for target in all_targets():
        if target.name == name:
            return target
    raise OptionError(unknown("format", name, [target.name for target in all_targets()]))


@dataclass(frozen=True)
class Case:
    """What is timed: one target with one network, batch size and number of threads."""

    target: str
    network: str  # the bundle's name, or `paper R=…`
    resolution: int
    precision: str
    device: str
    batch: int
    threads: int

    @property
    def block(self) -> tuple[str, str, int, int]:
        """What the cases that are compared with each other share: all but the target."""
        return self.network, self.device, self.batch, self.threads

    def __str__(self) -> str:
        return f"{self.target} on {self.device}, {self.network}, batch {self.batch}, threads {self.threads}"


@dataclass(frozen=True)
class Options:
    """The command line's; None where --quick decides."""

    formats: str = ALL
    batch_sizes: tuple[int, ...] | None = None
    threads: tuple[int, ...] | None = None
    minutes: float | None = None
    quick: bool = False


@dataclass(frozen=True)
class Plan:
    """The cases, block by block, each block led by PyTorch eager."""

    cases: tuple[Case, ...]
    fixtures: frozenset[str]
    resolutions: tuple[int, ...]
    unavailable: dict[str, str]
    seconds: float
    """For the rounds; preparation comes on top."""
    quick: bool

    @property
    def largest_batch(self) -> int:
        """Of all cases."""
        return max(case.batch for case in self.cases)

    @property
    def devices(self) -> list[str]:
        """Of all cases."""
        return sorted({case.device for case in self.cases})


def paper_name(resolution: int) -> str:
    """What `paper` at another resolution is called; no bundle can have that name."""
    return f"{PAPER} R={resolution}"


def make_plan(bundle: Bundle, options: Options) -> Plan:
    """The cases for a bundle on this machine; targets that cannot run here are listed with the reason.

    Raises `OptionError` for what is unknown or out of range, and `BackendError` where a target that was named, or
    PyTorch eager, cannot run here.
    """
    batches = _checked("batch size", options.batch_sizes or ((1,) if options.quick else (1, 4, 16)), LARGEST_BATCH)
    every = available_threads()
    threads = _checked(
        "number of threads", options.threads or ((every,) if options.quick else (1, every)), MOST_THREADS
    )
    minutes = options.minutes if options.minutes is not None else (0.2 if options.quick else 4.0)
    if not 0 < minutes <= 24 * 60:
        raise OptionError(f"{minutes:g} minutes are out of range; more than 0, and at most 1440, expected")
    names = [name.strip() for name in options.formats.split(",")]
    named = {find_target(name).name for name in names if name != ALL}
    _check_batches(map(find_target, named), max(batches))
    available, unavailable = _available(bundle, named, ALL in names, options.quick)
    _check_batches((target for target, _ in available), max(batches))
    resolutions = () if options.quick else RESOLUTIONS
    networks = [(bundle.name, bundle.sizes.resolution, batches, threads)]
    networks += [(paper_name(resolution), resolution, (1,), threads[-1:]) for resolution in resolutions]
    cases = [
        Case(target.name, network, resolution, target.precision, device, batch, count)
        for network, resolution, batches_there, threads_there in networks
        for batch, count in product(batches_there, threads_there)
        for device in ("cpu", "cuda")
        for target, devices in available
        if device in devices and (device == "cpu" or count == threads_there[-1])
        if network == bundle.name or target.name in SCALED
    ]
    fixtures = frozenset(target.fixture for target, _ in available) - {BUNDLE}
    return Plan(tuple(cases), fixtures, resolutions, unavailable, 60 * minutes, options.quick)


def _available(
    bundle: Bundle, named: set[str], every: bool, quick: bool
) -> tuple[list[tuple[Target, list[str]]], dict[str, str]]:
    """Targets with the devices that they run on here, PyTorch eager first, and the others with what they lack."""
    available, unavailable = [], {}
    for target in sorted(all_targets(), key=lambda target: target.name != EAGER):
        asked = target.name in named or target.name == EAGER
        if not asked and not every:
            continue
        devices, lacks = _devices(bundle, target)
        if devices and quick and not asked and target.name in _SLOW:
            unavailable[target.name] = _SLOW[target.name]
        elif devices:
            available.append((target, devices))
        elif asked:
            raise BackendError(f"{target.name!r} cannot be measured here: {lacks}")
        else:
            unavailable[target.name] = lacks
    return available, unavailable


def _devices(bundle: Bundle, target: Target) -> tuple[list[str], str]:
    reasons = {device: target.missing(device) for device in target.format.devices}
    devices = [device for device, lacks in reasons.items() if lacks is None]
    if not devices:
        return [], reasons.get("cpu") or next(iter(reasons.values())) or ""
    if target.fixture == BUNDLE:
        if target.format not in bundle.formats:
            return [], f"not in the bundle: t2i-engine export {bundle.name} --formats {target.format.name}"
        if needs_build := build_needed(bundle, target.format):
            return [], needs_build
    return devices, ""


def _check_batches(targets: Iterable[Target], batch: int) -> None:
    """Raises `OptionError` where a backend runs no batch that large."""
    for target in targets:
        largest = getattr(find_backend(target.format.backend), "MAX_BATCH", batch)
        if batch > largest:
            raise OptionError(
                f"a batch of {batch} is more than {target.name} runs, {largest}; give smaller --batch-sizes, or other "
                "--formats"
            )


def _checked(kind: str, numbers: Sequence[int], most: int) -> tuple[int, ...]:
    for number in numbers:
        if not 1 <= number <= most:
            raise OptionError(f"the {kind} {number} is out of range; 1 to {most} expected")
    return tuple(sorted(set(numbers)))


def _lacks_bf16(device: str) -> str | None:
    if device == "cpu" and not has_bf16():
        return "this CPU has no bf16 instructions; PyTorch would emulate them"
    return None


def _lacks_compiler(device: str) -> str | None:
    if device == "cpu" and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        return "torch.compile needs a C++ compiler: install g++"
    return None


def _open_compiled(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> Runner:
    """The generator is compiled at its first call; the text encoder is not, as packed sequences do not compile."""
    runner = pytorch.open_runner(bundle, row, graph, device, threads)
    if graph == GENERATOR:
        runner.module.compile()
    return runner


def _open_bf16(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> Runner:
    """The generator computes in bf16 and channels-last, between float32 inputs and image."""
    runner = pytorch.open_runner(bundle, row, graph, device, threads)
    if graph == GENERATOR:
        import torch
        from torch import Tensor, nn

        from training.models.generator import GeneratedImage

        class Bf16(nn.Module):
            def __init__(self, generator: nn.Module) -> None:
                super().__init__()
                self.generator = generator.to(torch.bfloat16).to(memory_format=torch.channels_last)

            def forward(self, *feeds: Tensor | None) -> GeneratedImage:
                image = self.generator(*(None if feed is None else feed.to(torch.bfloat16) for feed in feeds)).image
                return GeneratedImage(image.float(), None, None)

        runner.module = Bf16(runner.module)
    return runner


class _PlainRunner:
    """An ONNX Runtime session with default settings, except for threads."""

    def __init__(self, bundle: Bundle, row: Format, device: str, threads: int | None) -> None:
        import onnxruntime as runtime

        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or available_threads()
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        self._session = runtime.InferenceSession(bundle.path(row.files[GENERATOR]), options, providers=[provider])

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs."""
        return dict(zip(outputs, self._session.run(list(outputs), dict(feeds)), strict=True))


def _open_plain(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> Runner:
    """The text encoder, which does not export plainly, is opened as the format's own."""
    if graph == TEXT_ENCODER:
        return onnxruntime.open_runner(bundle, row, graph, device, threads)
    return _PlainRunner(bundle, row, device, threads)
