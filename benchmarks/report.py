"""report.json: what was measured, with every condition, in a versioned schema; Markdown and HTML are made from it."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.machine import Load, Machine
from benchmarks.statistics import Estimate, Timing
from t2i_engine.errors import OutputError, UserError, quoted
from t2i_engine.schema import SchemaError, read_dataclass

SCHEMA = 1
FILE = "report.json"
HOW_LIMITS = {
    "fp32": "GFLOP/s, torch.mm of 1536 × 1536 matrices",
    "bf16": "GFLOP/s, torch.mm in bfloat16, 1536 × 1536 (256 × 256 where the CPU has no bf16)",
    "fp16": "GFLOP/s, torch.mm in float16 on a GPU, 4096 × 4096",
    "int8": "GOP/s, ONNX Runtime's MatMulInteger (u8 × s8), 1536 × 1536; torch._int_mm on a GPU",
    "bandwidth": "GB/s, torch's copy of 256 MiB, bytes read + bytes written",
}

_LARGEST = 256 << 20


class BaselineError(UserError):
    """A report that cannot be read, or not be compared with."""


@dataclass(frozen=True)
class Case:
    """What is timed: one row, on one network, with one batch size and number of threads."""

    row: str
    network: str
    """The bundle's name, or `paper R=…`."""
    side: int
    precision: str
    device: str
    batch: int
    threads: int

    @property
    def block(self) -> tuple[str, str, int, int]:
        """What it shares with the cases that it is compared with: all but the row."""
        return self.network, self.device, self.batch, self.threads

    def __str__(self) -> str:
        return f"{self.row} on {self.device}, {self.network}, batch {self.batch}, threads {self.threads}"


@dataclass(frozen=True)
class Measured:
    """One case's figures; times in milliseconds."""

    case: Case
    importing: float
    """Of the backend's packages."""
    opening: float
    """From the bundle to an engine, with what was compiled kept from an earlier opening."""
    first_call: float
    warm_up: int
    """Calls between the first and those that are timed."""
    steady: bool
    """Whether calls had come to take equally long by then."""
    text_encoder: Timing
    generator: Timing
    request: Timing
    """Captions in, PNG files out."""
    pictures_per_second: float
    """Of whole requests, at their median."""
    peak_memory: int
    """Bytes resident at most, of the process."""
    speedup: Estimate | None
    """Of the whole request over PyTorch eager's, paired within rounds."""
    generator_speedup: Estimate | None
    limit: float | None
    """Milliseconds that the machine's limit allows the generator's arithmetic."""
    share: float | None
    """The limit over the generator's median."""


@dataclass(frozen=True)
class Differences:
    """The worst from PyTorch's pictures; None where it is not finite."""

    sentence: float | None
    image: float | None
    pixels: int | None
    psnr: float | None


@dataclass(frozen=True)
class RowFacts:
    """What is true of a row whatever the batch."""

    row: str
    what: str
    network: str
    side: int
    precision: str
    form: str
    """How its graph computes upsample + convolution."""
    first_opening: float
    """Milliseconds, with nothing kept from earlier; what is compiled at opening is compiled here."""
    file_size: int
    """Bytes of its files."""
    differences: Differences
    gflop: float
    """Of the generator for one picture, as of `int8_gflop`, the part in 8 bits."""
    int8_gflop: float
    megabytes: float
    """Moved by the generator's products for one picture, as of `weight_megabytes`, the part that a batch shares."""
    weight_megabytes: float
    text_encoder_gflop: float | None
    """For one caption, where it is counted: PyTorch's is not."""
    operators: tuple[tuple[str, ...], ...] = ()
    """Kinds of operators and the milliseconds they take in one call of the generator, as texts."""


@dataclass(frozen=True)
class Limit:
    """The machine's best, in 1e9 per second: operations of matrix products, and bytes of a copy."""

    device: str
    threads: int
    fp32: float | None
    bf16: float | None
    fp16: float | None
    int8: float | None
    bandwidth: float | None


@dataclass(frozen=True)
class ColdStart:
    """A whole process, from its start to its end; milliseconds."""

    name: str
    command: str
    timing: Timing


@dataclass(frozen=True)
class Quality:
    """How good the pictures of a format are (t2i-engine evaluate)."""

    row: str
    data: str
    pictures: int
    figures: Mapping[str, object]


@dataclass(frozen=True)
class Network:
    """The bundle that was measured."""

    name: str
    sizes: Mapping[str, object]
    files: Mapping[str, str]
    """SHA-256 of each."""


@dataclass(frozen=True)
class Report:
    """A run of the benchmark."""

    created: str
    """UTC, ISO 8601."""
    command: str
    commit: str | None
    """Of the checkout that ran, with `-dirty` behind it if changed."""
    machine: Machine
    network: Network
    words: int
    """In each caption."""
    load: Load
    limits: tuple[Limit, ...] = ()
    rows: tuple[RowFacts, ...] = ()
    cases: tuple[Measured, ...] = ()
    cold_start: tuple[ColdStart, ...] = ()
    quality: tuple[Quality, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Rows that were not measured, and why."""
    missing: tuple[str, ...] = ()
    """What an interrupted run did not come to."""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """The file's content."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def facts(self, case: Case) -> RowFacts | None:
        """What is true of a case's row on its network."""
        return next((row for row in self.rows if (row.row, row.network) == (case.row, case.network)), None)


def read_report(file: Path, any_schema: bool = False) -> Report:
    """Reads a report. Raises `BaselineError` where it is none, or of another schema and not asked for all the same."""
    shown = quoted(str(file), 200)
    try:
        if file.stat().st_size > _LARGEST:
            raise BaselineError(f"{shown} is larger than a report can be; give a {FILE}")
        found = json.loads(file.read_bytes())
        schema = found.pop("schema")
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is not a report of t2i-engine benchmark"
        raise BaselineError(f"{shown} cannot be read ({reason}); give a {FILE}") from None
    if schema != SCHEMA and not any_schema:
        raise BaselineError(
            f"{shown} has schema {quoted(str(schema))}, this t2i-engine writes {SCHEMA}: measure the baseline again, "
            "or add --compare-anyway"
        )
    try:
        return read_dataclass(Report, found)
    except SchemaError as error:
        raise BaselineError(f"{shown} cannot be read as a report: {error}; measure the baseline again") from None


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes each file whole or not at all. Raises `OutputError` where the folder cannot be written."""
    paths = []
    for name, content in files.items():
        partial, path = folder / f".{os.getpid()}-{name}.partial", folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(path)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"cannot write to {quoted(str(folder), 200)} ({reason}); choose another --out") from None
        finally:
            with contextlib.suppress(OSError, ValueError):
                partial.unlink()
        paths.append(path)
    return paths
