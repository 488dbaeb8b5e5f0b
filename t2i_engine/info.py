"""What `t2i-engine info` shows: which backends run here, what `auto` chooses, and what a bundle is."""

import json
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import PurePath
from typing import TypeGuard

from t2i_engine.backend_selection import backend_names, backend_status, select_backend, selectable
from t2i_engine.backends.base import Status
from t2i_engine.bundle import Bundle, embedded_names
from t2i_engine.errors import UserError, listed
from t2i_engine.formats import Format, all_formats
from t2i_engine.table import aligned, size
from t2i_engine.tensorrt.engines import bundled_records, cached_records

WIDTH = 100
"""Columns of the text; only a path may be longer."""


@dataclass(frozen=True)
class SystemInfo:
    """The backends of this machine and, if one was asked about, a bundle."""

    version: str
    backends: Mapping[str, Status]
    auto: str
    embedded: Sequence[str]
    bundle: Bundle | None

    def as_json(self) -> dict[str, object]:
        """Everything; of a bundle its whole manifest."""
        info: dict[str, object] = {
            "version": self.version,
            "backends": {name: asdict(status) for name, status in self.backends.items()},
            "auto": self.auto,
            "bundles": list(self.embedded),
        }
        if self.bundle:
            info["folder"] = str(self.bundle.folder)
            info["bundle"] = json.loads(self.bundle.manifest.to_json())
            info["engines"] = [list(row) for row in _engine_rows(self.bundle)]
        return info

    def as_text(self) -> str:
        """A summary for people: at most 60 lines of `WIDTH` columns."""
        lines = [f"t2i-engine {self.version}", "", "Backends", *_table(_backend_rows(self.backends), most=12)]
        lines += ["", *textwrap.wrap(f"Auto chooses {_plain(self.auto)}", WIDTH, max_lines=3, break_on_hyphens=False)]
        lines += [f"Embedded bundles: {listed(self.embedded)}"]
        if self.bundle:
            folder = os.fsencode(self.bundle.folder).decode("utf-8", "replace")
            lines += ["", f"Bundle {self.bundle.name} in {_plain(folder)}", *_table(_bundle_rows(self.bundle), most=17)]
            lines += [
                "",
                "Formats, with their largest differences from PyTorch (pixels: levels of 255)",
                *_format_table(self.bundle),
            ]
            engines = [
                (file, f"{where}, TensorRT {built_with}, {target}: {proof}")
                for file, where, target, built_with, proof in _engine_rows(self.bundle)
            ]
            lines += ["", "Engines", *_table(engines, most=8)] if engines else []
        return "\n".join(lines)


def system_info(bundle: Bundle | None) -> SystemInfo:
    """Asks every backend. What `auto` chooses is for the bundle if one is given, otherwise for any format."""
    statuses = {name: backend_status(name) for name in backend_names()}
    return SystemInfo(
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


def _bundle_rows(bundle: Bundle) -> Iterator[tuple[str, str]]:
    sizes, files = bundle.sizes, bundle.manifest.files
    yield "resolution", f"{sizes.resolution} × {sizes.resolution}"
    parts = [
        f"{sizes.base_channels} base channels (up to {sizes.base_channels * sizes.max_channel_multiple})",
        f"noise {sizes.noise_width}",
        f"sentence {sizes.sentence_width}",
        f"{sizes.vocabulary_size - 1:,} words",
        *(["conditioning augmentation"] if sizes.conditioning_augmentation else []),
        *(["adaptive blocks"] if sizes.adaptive_block else []),
        *(["DF-GAN's first generation"] if sizes.first_generation else []),
    ]
    yield "model", ", ".join(parts)
    listed_files = ", ".join(f"{name} {size(entry.size)}" for name, entry in files.items())
    yield "files", f"{size(sum(entry.size for entry in files.values()))}: {listed_files}"
    yield from _provenance_rows(bundle.manifest.provenance)


def _provenance_rows(provenance: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """A summary of what may be there; the provenance is free JSON."""
    runs = list(_runs(provenance))
    dataset = provenance.get("dataset")
    if isinstance(dataset, dict):
        parts = [f"{dataset.get('source', 'unknown')}"]
        parts += [f"version {dataset['version']}"] if "version" in dataset else []
        parts += [f"{dataset['split']} split"] if "split" in dataset else []
        parts += [f"{dataset[name]:,} {name}" for name in ("pictures", "captions") if _is_number(dataset.get(name))]
        yield "data", ", ".join(parts)
        if dataset.get("note"):
            yield "", _shown(dataset["note"])
    elif dataset is not None:
        yield "data", _shown(dataset)
    steps = [f"{count:,} {phase}" for phase, count in _steps(runs).items()]
    if steps:
        yield "steps", " + ".join(steps) + (f", in {len(runs)} successive runs" if len(runs) > 1 else "")
    hours = sum(hours for run in runs if _is_number(hours := run.get("hours")))
    if hours:
        yield "hours", f"{hours:.1f}"
    for name in ("hardware", "commit", "license", "licence", "notes", "note"):
        if provenance.get(name):
            yield name, _shown(provenance[name])
    metrics = provenance.get("metrics")
    if isinstance(metrics, dict):
        yield from _metric_rows(metrics)


def _runs(provenance: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """The runs that made a model, the last one first; each started from the next."""
    run: object = provenance
    while isinstance(run, dict):
        yield run
        run = run.get("initial")


def _steps(runs: Sequence[Mapping[str, object]]) -> dict[str, int]:
    """Steps by phase over all runs; of a run whose encoders alone were taken, the GAN's do not count."""
    total: dict[str, int] = {}
    for run in runs:
        steps = run.get("steps")
        steps = steps if isinstance(steps, dict) else {"": steps}
        for phase, count in steps.items():
            if isinstance(count, int) and count and not (phase == "gan" and run.get("part") == "encoders"):
                name = {"gan": "GAN", "damsm": "DAMSM"}.get(phase, phase)
                total[name] = total.get(name, 0) + count
    return dict(sorted(total.items(), reverse=True))


def _metric_rows(metrics: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The chief figures of the evaluation with most pictures, the last one if several have as many."""
    evaluations = metrics.get("evaluations")
    found = [one for one in evaluations if isinstance(one, dict)] if isinstance(evaluations, list) else []
    if not found:
        return
    chief = max(reversed(found), key=lambda one: one["captions"] if _is_number(one.get("captions")) else 0)
    where = [_shown(chief[name]) for name in ("data", "runs_as") if chief.get(name)]
    yield "measured", ", ".join([*where[:1], f"{chief.get('split', 'test')} split", *where[1:]])
    if chief.get("note"):
        yield "", _shown(chief["note"])
    match chief.get("fid"):
        case {"value": int() | float() as value, "pictures": int(pictures)}:
            yield "FID", f"{value:.1f} ({pictures:,} pictures)"
    match chief.get("r_precision"):
        case {"generated": int() | float() as ours, "real": int() | float() as real, "candidates": int(candidates)}:
            yield "R-precision", f"{ours:.1f} % among {candidates} candidates (real pictures {real:.1f} %)"
    match chief.get("attribute_accuracy"):
        case {
            "attributes": {
                "everything asked for": {"generated": int() | float() as ours, "renders": int() | float() as real}
            }
        }:
            yield "attributes", f"{ours:.1f} % of captions have everything asked for (real pictures {real:.1f} %)"


def _format_table(bundle: Bundle) -> list[str]:
    manifest = bundle.manifest
    rows: list[tuple[str, ...]] = [("format", "backend", "precision", "sentence", "image", "pixels", "PSNR")]
    for row in bundle.formats:
        parity = manifest.parity.get(row.name)
        cells = ["-", "-", "-", "-"]
        if parity:
            worst = parity.worst
            cells = [
                f"{worst.sentence:.1e}",
                f"{worst.image:.1e}" if worst.image is not None else "-",
                f"{worst.pixels}" if worst.pixels is not None else "-",
                f"{worst.psnr:.1f} dB" if worst.psnr is not None else "-",
            ]
        rows.append((row.name, row.backend, row.precision, *cells))
    reasons = [(name, f"built, not run: {why}") for name, why in manifest.unverified.items()]
    reasons += [(name, f"rejected: {why}") for name, why in manifest.rejected.items()]
    return [*_table(rows, most=13), *(_table(reasons, most=6, most_lines=2) if reasons else [])]


def _engine_rows(bundle: Bundle) -> Iterator[tuple[str, str, str, str, str]]:
    """TensorRT engines in the bundle and in this machine's cache, with what their records prove."""
    for where, records in (("bundle", bundled_records(bundle)), ("cache", cached_records(bundle))):
        for file, record in records:
            target = record.key["targets"] if where == "bundle" else record.key["gpu"]
            yield PurePath(file).name, where, target, record.key["version"], record.summary()


def _table(rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]], most: int, most_lines: int = 3) -> list[str]:
    """Rows as at most that many indented lines that fit `WIDTH`."""
    lines = aligned([[_plain(cell) for cell in row] for row in rows], WIDTH - 2, most_lines)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"… and {len(lines) - most + 1} more lines: --json"]
    return [f"  {line}" if line else "" for line in lines]


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plain(text: str) -> str:
    """The text itself, unless it would do something to the terminal."""
    return text if text.isprintable() else json.dumps(text)
