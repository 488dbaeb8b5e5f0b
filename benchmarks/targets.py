"""What is measured: targets (every format, and what one would use without this project), and their cases.

Everything that is wrong with the command's options is reported here, before anything runs.
"""

import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

from benchmarks.machine import has_bf16
from t2i_engine.backend_selection import build_needed, row_lacks
from t2i_engine.backends import find_backend, pytorch
from t2i_engine.backends.base import Array, Runner, available_threads
from t2i_engine.bundle import Bundle
from t2i_engine.engine import LARGEST_BATCH, MOST_THREADS
from t2i_engine.errors import BackendError, OptionError, unknown
from t2i_engine.formats import GENERATOR, Format, all_formats, find

EAGER = "pytorch"  # PyTorch eager in fp32, which differences and speed-ups are relative to
COMPILED = "torch-compile"
BUNDLE, UNFOLDED = "bundle", "unfolded"  # fixtures

ALL = "all"
PAPER = "paper"  # the network of the paper's size with random weights
RESOLUTIONS = (64, 128, 256)
SCALED = ("onnx", "openvino", "openvino-bf16", EAGER)  # targets that are timed at every resolution

_SLOW = {COMPILED: "compiling", "onnx-unfolded": "exporting", "onnx-plain": "exporting"}  # too slow for --quick

Opener = Callable[[Bundle, Format, str, int | None], Runner]


@dataclass(frozen=True)
class Target:
    """A way to run the model: a format, as it is or as a variant that opens its files differently."""

    name: str
    format: Format
    precision: str
    title: str  # for people
    fixture: str = BUNDLE
    """The bundle with its files (benchmarks/fixtures.py)."""
    lacks: Callable[[str], str | None] = lambda device: None
    """What a variant lacks on a device of this machine, with the cure."""
    opener: Opener | None = None
    """A variant's way to open the generator, in place of the backend's."""

    def open(self, bundle: Bundle, graph: str, device: str, threads: int) -> Runner:
        """Opens a graph of a bundle. Raises as the backend's `open_runner`."""
        if self.opener and graph == GENERATOR:
            return self.opener(bundle, self.format, device, threads)
        return find_backend(self.format.backend).open_runner(bundle, self.format, graph, device, threads)


@cache
def all_targets() -> tuple[Target, ...]:
    """Every format of the table, then the variants."""
    eager, onnx = find(EAGER), find("onnx")
    return (
        *(
            Target(row.name, row, row.precision, f"{find_backend(row.backend).TITLE}, {row.precision}")
            for row in all_formats()
        ),
        Target(
            "pytorch-bf16", eager, "bf16", "PyTorch, generator in bf16 and channels-last",
            lacks=_lacks_bf16, opener=_open_bf16,
        ),
        Target(
            COMPILED, eager, "fp32", "PyTorch, fp32, generator compiled with torch.compile",
            lacks=_lacks_compiler, opener=_open_compiled,
        ),
        Target("onnx-unfolded", onnx, "fp32", "ONNX Runtime, fp32, exported as trained, without folding", UNFOLDED),
        Target(
            "onnx-plain", onnx, "fp32",
            "ONNX Runtime with default settings, fp32, exported as trained, without folding", UNFOLDED,
            opener=_PlainRunner,
        ),
    )  # fmt: skip


def find_target(name: str) -> Target:
    """The target called `name`. Raises `OptionError`, with a suggestion, if there is none."""
    for target in all_targets():
        if target.name == name:
            return target
    raise OptionError(unknown("format", name, [target.name for target in all_targets()]))


def label(target: str, device: str) -> str:
    """How reports name a target on a device."""
    return target if device == "cpu" else f"{target} ({device})"


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
        """The common properties of cases that are compared with each other: all but the target."""
        return self.network, self.device, self.batch, self.threads

    @property
    def label(self) -> str:
        """The target, with the device unless it is the CPU."""
        return label(self.target, self.device)

    @property
    def caches(self) -> str:
        """The name of its target's own caches: formats share parts, which the first to be opened would compile."""
        return f"{self.network} {self.target}"

    def __str__(self) -> str:
        return f"{self.target} on {self.device}, {self.network}, batch {self.batch}, threads {self.threads}"


@dataclass(frozen=True)
class Options:
    """The command line's options; None where --quick decides."""

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


def paper_name(resolution: int) -> str:
    """What `paper` at another resolution is called; no bundle can have that name."""
    return f"{PAPER} R={resolution}"


def make_plan(bundle: Bundle, options: Options) -> Plan:
    """The cases for a bundle on this machine; targets that cannot run here are listed with the reason.

    Raises `OptionError` for what is unknown or out of range, and `BackendError` if a target that was named, or PyTorch
    eager, cannot run here.
    """
    quick, every = options.quick, available_threads()
    batches = _checked("batch size", options.batch_sizes or ((1,) if quick else (1, 4, 16)), LARGEST_BATCH)
    threads = _checked("number of threads", options.threads or ((every,) if quick else (1, every)), MOST_THREADS)
    minutes = options.minutes if options.minutes is not None else (0.2 if quick else 4.0)
    if not 0 < minutes <= 24 * 60:
        raise OptionError(f"{minutes:g} minutes are out of range; expected more than 0 and at most 1440")
    names = {name.strip() for name in options.formats.split(",")}
    available, unavailable = _available(bundle, names, quick, max(batches))
    resolutions = () if quick else RESOLUTIONS
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
    fixtures = frozenset(target.fixture for target, _ in available)
    return Plan(tuple(cases), fixtures, resolutions, unavailable, 60 * minutes, quick)


def _available(
    bundle: Bundle, names: set[str], quick: bool, batch: int
) -> tuple[list[tuple[Target, list[str]]], dict[str, str]]:
    """Targets with the devices that they run on here, PyTorch eager first, and the others with what they lack."""
    named = {find_target(name).name for name in names - {ALL}} | {EAGER}
    available, unavailable = [], {}
    for target in sorted(all_targets(), key=lambda target: target.name != EAGER):
        asked = target.name in named
        if not asked and ALL not in names:
            continue
        devices, lacks = _devices(bundle, target)
        largest = getattr(find_backend(target.format.backend), "MAX_BATCH", batch)
        if batch > largest and (asked or devices):
            raise OptionError(
                f"batch size {batch} exceeds {target.name}'s maximum, {largest}; give smaller --batch-sizes, or other "
                "--formats"
            )
        if asked and not devices:
            raise BackendError(f"{target.name!r} cannot be measured here: {lacks}")
        if quick and not asked and target.name in _SLOW:
            lacks = lacks or f"{_SLOW[target.name]} takes longer than --quick allows"
        if lacks:
            unavailable[target.name] = lacks
        else:
            available.append((target, devices))
    return available, unavailable


def _devices(bundle: Bundle, target: Target) -> tuple[list[str], str | None]:
    """The devices that a target runs on here; where there are none, what it lacks, with the cure."""
    reasons = {device: row_lacks(target.format, device) or target.lacks(device) for device in target.format.devices}
    devices = [device for device, lacks in reasons.items() if lacks is None]
    lacks = None if devices else reasons.get("cpu") or next(iter(reasons.values()))
    if devices and target.fixture == BUNDLE:
        if target.format not in bundle.formats:
            folder = shlex.quote(str(bundle.folder))
            lacks = f"not in the bundle: t2i-engine export {folder} --formats {target.format.name}"
        else:
            lacks = build_needed(bundle, target.format)
    return ([], lacks) if lacks else (devices, None)


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


def _open_compiled(bundle: Bundle, row: Format, device: str, threads: int | None) -> Runner:
    runner = pytorch.open_runner(bundle, row, GENERATOR, device, threads)
    runner.module.compile()  # at its first call
    return runner


def _open_bf16(bundle: Bundle, row: Format, device: str, threads: int | None) -> Runner:
    """The generator computes in bf16 and channels-last, between float32 inputs and image."""
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

    runner = pytorch.open_runner(bundle, row, GENERATOR, device, threads)
    runner.module = Bf16(runner.module)
    return runner


class _PlainRunner:
    """An ONNX Runtime session with default settings, except for threads."""

    def __init__(self, bundle: Bundle, row: Format, device: str, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or available_threads()
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        file = bundle.path(row.files[GENERATOR])
        self._session = onnxruntime.InferenceSession(file, options, providers=[provider])

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs."""
        return dict(zip(outputs, self._session.run(list(outputs), dict(feeds)), strict=True))
