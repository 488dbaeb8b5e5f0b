"""What `t2i-engine info` tells: which backends can run here, what `auto` chooses, and what a bundle holds."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import PurePath

from click import format_filename

from t2i_engine.backend_selection import backend_names, backend_status, select_backend, selectable
from t2i_engine.backends.base import Status
from t2i_engine.bundle import Bundle, embedded_names
from t2i_engine.errors import UserError, listed
from t2i_engine.formats import Format, all_formats
from t2i_engine.table import aligned, size
from t2i_engine.tensorrt.engines import bundled_records, cached_records


@dataclass(frozen=True)
class Report:
    """What is there; `bundle` is None where none was asked about."""

    version: str
    backends: Mapping[str, Status]
    auto: str
    embedded: Sequence[str]
    bundle: Bundle | None

    def as_json(self) -> dict[str, object]:
        """The report for programs; a bundle as its manifest."""
        report: dict[str, object] = {
            "version": self.version,
            "backends": {name: asdict(status) for name, status in self.backends.items()},
            "auto": self.auto,
            "bundles": list(self.embedded),
        }
        if self.bundle:
            report["folder"] = str(self.bundle.folder)
            report["bundle"] = json.loads(self.bundle.manifest.to_json())
            report["engines"] = [list(row) for row in _engine_rows(self.bundle)]
        return report

    def as_text(self) -> str:
        """The report for people."""
        lines = [f"t2i-engine {self.version}", "", "Backends", *_indent(aligned(_backend_rows(self.backends)))]
        lines += ["", f"Auto chooses {self.auto}", f"Embedded bundles: {listed(self.embedded)}"]
        if self.bundle:
            lines += [
                "",
                f"Bundle {self.bundle.name} in {format_filename(self.bundle.folder)}",
                *_indent(_bundle_lines(self.bundle)),
            ]
        return "\n".join(lines)


def report(bundle: Bundle | None) -> Report:
    """Asks every backend; what `auto` chooses is for the bundle where one is given, for any format otherwise."""
    statuses = {name: backend_status(name) for name in backend_names()}
    return Report(
        version("t2i-engine"),
        statuses,
        _auto(selectable(bundle) if bundle else all_formats()),
        embedded_names(),
        bundle,
    )


def _auto(rows: Sequence[Format]) -> str:
    try:
        return str(select_backend(rows))
    except UserError as error:
        return f"none: {error}"


def _backend_rows(statuses: Mapping[str, Status]) -> Iterator[tuple[str, ...]]:
    for name, status in statuses.items():
        if status.lacks:
            yield name, "no", status.lacks
        for device, lacks in status.devices.items():
            yield name, device, f"no: {lacks}" if lacks else f"yes, {status.version}"
        for precision, lacks in status.precisions.items():
            yield name, precision, f"no: {lacks}"


def _bundle_lines(bundle: Bundle) -> Iterator[str]:
    manifest = bundle.manifest
    yield "Model"
    yield from _indent(aligned(_leaves(asdict(bundle.sizes))))
    yield ""
    yield "Formats"
    yield from _indent(aligned(_format_rows(bundle)))
    yield ""
    yield "Files"
    yield from _indent(
        aligned((name, size(record.size), record.sha256[:16]) for name, record in manifest.files.items())
    )
    yield ""
    engines = list(_engine_rows(bundle))
    if engines:
        yield "Engines"
        yield from _indent(aligned(engines))
        yield ""
    yield "Provenance"
    yield from _indent(aligned(_leaves(manifest.provenance)))


def _format_rows(bundle: Bundle) -> Iterator[tuple[str, ...]]:
    for row in bundle.formats:
        parity = bundle.manifest.parity.get(row.name)
        if row.name in bundle.manifest.unverified:
            proof = f"built, not run: {bundle.manifest.unverified[row.name]}"
        elif parity is None:
            proof = "parity not measured"
        else:
            worst = parity.worst
            proof = (
                f"largest differences from PyTorch in {parity.cases:,} cases: "
                f"sentence {worst.sentence:.1e}, image {worst.image:.1e}, pixels {worst.pixels}"
                + (f", psnr {worst.psnr:.1f} dB" if worst.psnr is not None else "")
            )
        yield row.name, row.backend, row.precision, proof
    for name, reason in bundle.manifest.rejected.items():
        yield name, "", "", f"left out: {reason}"


def _engine_rows(bundle: Bundle) -> Iterator[tuple[str, ...]]:
    """TensorRT's engines, in the bundle and in this machine's cache, with what their records prove."""
    for where, records in (("bundle", bundled_records(bundle)), ("cache", cached_records(bundle))):
        for file, record in records:
            target = record.key["targets"] if where == "bundle" else record.key["gpu"]
            yield PurePath(file).name, where, target, record.key["version"], record.summary()


def _leaves(record: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield _plain(f"{prefix}{name}"), _plain(value) if isinstance(value, str) else json.dumps(value)


def _plain(text: str) -> str:
    """The text itself, unless it would do something to the terminal."""
    return text if text.isprintable() else json.dumps(text)


def _indent(lines: Iterator[str] | Sequence[str]) -> list[str]:
    return [f"  {line}" if line else "" for line in lines]
