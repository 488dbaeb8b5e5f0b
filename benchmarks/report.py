"""report.json: figures and their conditions, in a versioned schema; Markdown and HTML are made from it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import Load, Machine
from benchmarks.statistics import Estimate, Timing
from benchmarks.targets import Case, label
from t2i_engine.errors import UserError, quoted
from t2i_engine.formats import Differences
from t2i_engine.schema import SchemaError, read_dataclass

SCHEMA = 3
FILE = "report.json"


class BaselineError(UserError):
    """A report that cannot be read or compared with."""


@dataclass(frozen=True)
class Measured:
    """One case's figures; times in milliseconds."""

    case: Case
    importing: float  # of the backend's packages
    opening: float  # from the bundle to an engine, with what an earlier opening compiled in the cache
    first_call: float
    warm_up: int  # calls between the first and the timed ones
    steady: bool  # whether call times had settled by then
    text_encoder: Timing
    generator: Timing
    request: Timing  # captions in, PNG files out
    pictures_per_second: float  # of whole requests, at their median
    peak_memory: int  # the process's peak resident memory in bytes
    speedup: Estimate | None  # of the whole request over PyTorch eager's, paired within rounds
    generator_speedup: Estimate | None
    roofline_share: float | None  # the generator's time on this machine's measured roofline over its median


@dataclass(frozen=True)
class StaticMetrics:
    """Metrics of a target on a device that hold at any batch size; GFLOP and MB are of one picture or caption."""

    target: str
    title: str
    network: str
    precision: str
    form: str  # how its graph computes upsample + convolution
    first_opening: float  # milliseconds with empty caches, compilation included
    file_size: int  # of all its files, in bytes
    differences: Differences  # from PyTorch's pictures, the largest
    gflop: float  # the generator's, `int8_gflop` of them with 8-bit operands
    int8_gflop: float
    megabytes: float  # moved by the generator's products, `weight_megabytes` of them shared by a whole batch
    weight_megabytes: float
    operators: Mapping[str, float]  # milliseconds per generator call of each kind of operator, longest first
    device: str = "cpu"

    @property
    def label(self) -> str:
        """The target, with the device unless it is the CPU."""
        return label(self.target, self.device)

    def moved(self, batch: int) -> float:
        """The megabytes moved for a batch."""
        return self.weight_megabytes + batch * (self.megabytes - self.weight_megabytes)


@dataclass(frozen=True)
class Roofline:
    """The machine's measured peaks, in 1e9 per second: operations of matrix products, and bytes of a copy."""

    device: str
    threads: int
    fp32: float | None
    bf16: float | None
    fp16: float | None
    int8: float | None
    bandwidth: float | None


@dataclass(frozen=True)
class ColdStart:
    """A whole process, from start to exit, in milliseconds."""

    command: str
    timing: Timing


@dataclass(frozen=True)
class Quality:
    """The quality of a format's pictures, as `t2i-engine evaluate` measures it."""

    target: str
    data: str
    pictures: int
    figures: Mapping[str, object]

    @property
    def fid(self) -> float | None:
        """The Fréchet distance, where it was measured."""
        return self._figure("fid", "value")

    @property
    def attribute_accuracy(self) -> float | None:
        """Percentage of pictures in which a classifier sees every attribute of the caption, where it was measured."""
        return self._figure("attribute_accuracy", "attributes", "everything asked for", "generated")

    def _figure(self, *path: str) -> float | None:
        found: Any = self.figures
        for name in path:
            found = found.get(name, {})
        return float(found) if isinstance(found, int | float) else None


@dataclass(frozen=True)
class Network:
    """The bundle that was measured."""

    name: str
    sizes: Mapping[str, object]
    files: Mapping[str, str]  # SHA-256 of each


@dataclass(frozen=True)
class Report:
    """A run of the benchmark."""

    created: str  # UTC, ISO 8601
    command: str
    commit: str | None  # of the checkout, with `-dirty` appended if it was changed
    machine: Machine
    network: Network
    load: Load
    rooflines: tuple[Roofline, ...] = ()
    static: tuple[StaticMetrics, ...] = ()
    cases: tuple[Measured, ...] = ()
    cold_start: tuple[ColdStart, ...] = ()
    quality: tuple[Quality, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)  # targets and cases that were not measured, and why
    missing: tuple[str, ...] = ()  # what an interrupted run did not reach
    warnings: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """The file's content."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def static_metrics(self, case: Case) -> StaticMetrics:
        """Those of a case's target on its network and device."""
        key = case.target, case.network, case.device
        return next(one for one in self.static if (one.target, one.network, one.device) == key)

    def is_exact(self, case: Case) -> bool:
        """Whether a case's pictures equal PyTorch's, within one level."""
        return self.static_metrics(case).differences.pixels in (0, 1)

    def roofline(self, case: Case) -> Roofline | None:
        """The machine's peaks on a case's device, with its threads."""
        key = case.device, case.threads
        return next((one for one in self.rooflines if (one.device, one.threads) == key), None)


def read_report(file: Path, any_schema: bool = False) -> Report:
    """Reads a report. Raises `BaselineError` if it is not one, or has another schema and `any_schema` is not set."""
    shown, cure = quoted(str(file), 200), "measure the baseline again"
    try:
        found = json.loads(file.read_bytes())
        schema = found.pop("schema")
        if schema != SCHEMA and not any_schema:
            raise BaselineError(
                f"{shown} has schema {quoted(str(schema))}, but this t2i-engine reads {SCHEMA}: {cure}, or add "
                "--compare-anyway"
            )
        return read_dataclass(Report, found)
    except SchemaError as error:
        raise BaselineError(f"{shown} cannot be read as a report: {error}; {cure}") from None
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not a report of t2i-engine benchmark"
        raise BaselineError(f"{shown} cannot be read ({reason}); give a {FILE}") from None
