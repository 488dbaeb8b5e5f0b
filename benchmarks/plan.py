"""What to measure: from the command's options to cases, with everything that is wrong said before anything runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from benchmarks.material import paper_name
from benchmarks.report import Case
from benchmarks.rows import BUNDLE, COMPILED, PLAIN, REFERENCE, ROWS, UNFOLDED, Row, find_row
from t2i_engine.backend_selection import build_needed
from t2i_engine.backends.base import available_threads
from t2i_engine.bundle import Bundle
from t2i_engine.engine import LARGEST_BATCH, MOST_THREADS
from t2i_engine.errors import BackendError, OptionError
from t2i_engine.formats import all_formats
from t2i_engine.tensorrt.builder import Profile

ALL = "all"
SIDES = (64, 128, 256)
SCALED = ("onnx", "openvino", "openvino-bf16", REFERENCE)  # rows that are timed at every side

_SLOW = {
    COMPILED: "compiling takes longer than --quick has",
    "onnx-unfolded": "exporting takes longer than --quick has",
    "onnx-plain": "exporting takes longer than --quick has",
}


@dataclass(frozen=True)
class Options:
    """As the command line gives them; None where --quick decides."""

    formats: str = ALL
    batch_sizes: tuple[int, ...] | None = None
    threads: tuple[int, ...] | None = None
    minutes: float | None = None
    quick: bool = False


@dataclass(frozen=True)
class Plan:
    """The cases, block by block, in each block PyTorch eager first."""

    cases: tuple[Case, ...]
    materials: tuple[str, ...]
    sides: tuple[int, ...]
    unavailable: dict[str, str]
    seconds: float
    """For the rounds; preparations come on top."""
    quick: bool

    @property
    def most(self) -> int:
        """The largest batch."""
        return max(case.batch for case in self.cases)

    @property
    def devices(self) -> list[str]:
        """Those that cases run on."""
        return sorted({case.device for case in self.cases})


def make_plan(bundle: Bundle, options: Options) -> Plan:
    """The cases for a bundle on this machine; a row that cannot run here is listed with the reason.

    Raises `OptionError` for what is unknown or out of range, and `BundleError` or `BackendError` where a row that is
    named, or PyTorch eager, cannot be had.
    """
    batches = _checked("batch size", options.batch_sizes or ((1,) if options.quick else (1, 4, 16)), LARGEST_BATCH)
    every = available_threads()
    threads = _checked(
        "number of threads", options.threads or ((every,) if options.quick else (1, every)), MOST_THREADS
    )
    minutes = options.minutes if options.minutes is not None else (0.2 if options.quick else 4.0)
    if not 0 < minutes <= 24 * 60:
        raise OptionError(f"{minutes:g} minutes are out of range; above 0, and 1440 at most, expected")
    names = [name.strip() for name in options.formats.split(",")]
    named = {find_row(name).name for name in names if name != ALL}
    _check_profiles(map(find_row, named), batches)
    available, unavailable = _available(bundle, named, ALL in names, options.quick)
    _check_profiles((row for row, _ in available), batches)
    sides = () if options.quick else SIDES
    networks = [(bundle.name, bundle.sizes.resolution, batches, threads)]
    networks += [(paper_name(side), side, (1,), threads[-1:]) for side in sides]
    cases = [
        Case(row.name, network, side, row.format.precision, device, batch, count)
        for network, side, batches_there, threads_there in networks
        for batch, count in product(batches_there, threads_there)
        for device in ("cpu", "cuda")
        for row, devices in available
        if device in devices and (device == "cpu" or count == threads_there[-1])
        if network == bundle.name or row.name in SCALED
    ]
    materials = {row.material for row, _ in available} & {UNFOLDED, PLAIN}
    return Plan(tuple(cases), tuple(sorted(materials)), sides, unavailable, 60 * minutes, options.quick)


def _available(
    bundle: Bundle, named: set[str], every: bool, quick: bool
) -> tuple[list[tuple[Row, list[str]]], dict[str, str]]:
    """Rows with the devices that they run on here, PyTorch eager first, and the others with what they lack."""
    available, unavailable = [], {}
    for row in sorted(ROWS, key=lambda row: row.name != REFERENCE):
        asked = row.name in named or row.name == REFERENCE
        if not asked and not every:
            continue
        devices, lacks = _devices(bundle, row)
        if devices and quick and not asked and row.name in _SLOW:
            unavailable[row.name] = _SLOW[row.name]
        elif devices:
            available.append((row, devices))
        elif asked:
            raise BackendError(f"format {row.name!r} cannot be measured here: {lacks}")
        else:
            unavailable[row.name] = lacks
    return available, unavailable


def _devices(bundle: Bundle, row: Row) -> tuple[list[str], str]:
    reasons = {device: row.missing(device) for device in row.format.devices}
    devices = [device for device, lacks in reasons.items() if lacks is None]
    if not devices:
        return [], reasons.get("cpu") or next(iter(reasons.values())) or ""
    if row.material == BUNDLE:
        table = next(
            form for form in all_formats() if form.files == row.format.files and form.backend == row.format.backend
        )
        name = row.name if row.name in {form.name for form in all_formats()} else table.name
        if name not in {form.name for form in bundle.formats}:
            return [], f"not in the bundle: t2i-engine export {bundle.name} --formats {name}"
        needs_build = build_needed(bundle, row.format)
        if needs_build:
            return [], needs_build
    return devices, ""


def _check_profiles(rows: Iterable[Row], batches: Sequence[int]) -> None:
    """Raises `OptionError` where an engine is built for fewer pictures than are asked for."""
    most = Profile().batch.maximum
    engines = [row.name for row in rows if row.format.backend.startswith("tensorrt")]
    if engines and max(batches) > most:
        raise OptionError(
            f"a batch of {max(batches)} is more than the engines of {engines[0]} are built for, {most}; "
            "give smaller --batch-sizes, or other --formats"
        )


def _checked(kind: str, numbers: Sequence[int], most: int) -> tuple[int, ...]:
    for number in numbers:
        if not 1 <= number <= most:
            raise OptionError(f"the {kind} {number} is out of range; 1 to {most} expected")
    return tuple(sorted(set(numbers)))
