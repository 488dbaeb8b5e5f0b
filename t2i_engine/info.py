"""What `t2i-engine info` shows: which backends run here, what `auto` chooses, and what a bundle is."""

import json
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import PurePath

from t2i_engine.backend_selection import backend_names, backend_status, select_backend, selectable
from t2i_engine.backends.base import Status
from t2i_engine.bundle import Bundle, embedded_names
from t2i_engine.engine import MANY
from t2i_engine.errors import UserError, listed
from t2i_engine.formats import Format, all_formats
from t2i_engine.provenance import runs
from t2i_engine.speed import fastest_first, speed
from t2i_engine.table import aligned, size
from t2i_engine.tensorrt.engines import bundled_records, cached_records

WIDTH = 100
"""Columns of the text; only a path may be longer."""

MOST_SEGMENTS = 4
"""Only this many of a run's last segments are shown in the text."""

# A field of a record -> how it is shown.
_DATASET = {
    "source": "{}",
    "origin": "packed from {}",
    "version": "version {}",
    "split": "{} split",
    "pictures": "{:,} pictures",
    "captions": "{:,} captions",
    "validation": "held out: {}",
}
_PHASES = {"gan": "GAN", "damsm": "DAMSM"}
_MEASURES = {
    "sentence": "{:.1e}",
    "image": "{:.1e}",
    "pixels": "{}",
    "psnr": "{:.1f} dB",
    "frechet_share": "{:.1%}",
    "mean_share": "{:.1%}",
}
_FIGURES = (
    ("FID", "fid", "{value:.1f} ({pictures:,} pictures)"),
    ("R-precision", "r_precision", "{generated:.1f} % among {candidates} candidates (real pictures {real:.1f} %)"),
    (
        "attributes",
        "attribute_accuracy",
        "{attributes[everything asked for][generated]:.1f} % of captions have everything asked for "
        "(real pictures {attributes[everything asked for][renders]:.1f} %)",
    ),
)


@dataclass(frozen=True)
class SystemInfo:
    """The backends of this machine and, if one was asked about, a bundle."""

    version: str
    backends: Mapping[str, Status]
    auto: str
    """What `auto` chooses for one picture."""
    auto_many: str
    """What `auto` chooses for as many pictures as a server draws."""
    embedded: Sequence[str]
    bundle: Bundle | None

    def as_json(self) -> dict[str, object]:
        """Everything, with a bundle's whole manifest."""
        info: dict[str, object] = {
            "version": self.version,
            "backends": {name: asdict(status) for name, status in self.backends.items()},
            "auto": self.auto,
            "auto_many": self.auto_many,
            "bundles": list(self.embedded),
        }
        if self.bundle:
            info["folder"] = str(self.bundle.folder)
            info["bundle"] = json.loads(self.bundle.manifest.to_json())
            info["speed"] = {
                row.name: asdict(found) for row in self.bundle.formats if (found := speed(self.bundle, row))
            }
            info["engines"] = [list(row) for row in _engine_rows(self.bundle)]
        return info

    def as_text(self) -> str:
        """A summary for people: at most 60 lines of `WIDTH` columns."""
        lines = [f"t2i-engine {self.version}", "", "Backends", *_table(_backend_rows(self.backends), most=12)]
        auto = f"Auto chooses {_plain(self.auto)}"
        if self.auto_many != self.auto:
            auto += f"; for many pictures {_plain(self.auto_many)}"
        lines += ["", *textwrap.wrap(auto, WIDTH, max_lines=3, break_on_hyphens=False)]
        lines += [f"Embedded bundles: {listed(self.embedded)}"]
        if self.bundle:
            folder = os.fsencode(self.bundle.folder).decode("utf-8", "replace")
            lines += ["", f"Bundle {self.bundle.name} in {_plain(folder)}", *_table(bundle_rows(self.bundle), most=19)]
            title = "Formats, with their largest differences from PyTorch (px: levels of 255), and ms to draw here"
            lines += ["", title]
            lines += _table(_format_rows(self.bundle), most=12) + _table(_reasons(self.bundle), most=5, most_lines=2)
            engines = [
                (file, f"{where}, TensorRT {built_with}, {target}: {proof}")
                for file, where, target, built_with, proof in _engine_rows(self.bundle)
            ]
            lines += ["", "Engines", *_table(engines, most=8)] if engines else []
        return "\n".join(lines)


def system_info(bundle: Bundle | None) -> SystemInfo:
    """Asks every backend. What `auto` chooses refers to the bundle if one is given, otherwise to all formats.

    Speeds are those already known: nothing is measured.
    """
    statuses = {name: backend_status(name) for name in backend_names()}
    auto, auto_many = (_auto(bundle, pictures) for pictures in (1, MANY))
    return SystemInfo(version("t2i-engine"), statuses, auto, auto_many, embedded_names(), bundle)


def _auto(bundle: Bundle | None, pictures: int) -> str:
    order = partial(fastest_first, bundle, pictures=pictures, measures=False) if bundle else list
    try:
        return str(select_backend(selectable(bundle) if bundle else all_formats(), cpu_order=order))
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


def bundle_rows(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """What a manifest says about model, data, training and metrics, as (name, text) rows.

    A row with an empty name continues the one before it.
    """
    sizes, files, provenance = bundle.sizes, bundle.manifest.files, bundle.manifest.provenance
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
    if bundle.license:
        yield "license", bundle.license
    dataset = provenance.get("dataset")
    if isinstance(dataset, dict):
        parts = [filled for name, template in _DATASET.items() if (filled := _filled(template, dataset.get(name)))]
        yield "data", ", ".join(parts) or "unknown"
        if dataset.get("note"):
            yield "", _shown(dataset["note"])
    elif dataset is not None:
        yield "data", _shown(dataset)
    yield from _run_rows(list(runs(provenance)))
    yield from _segment_rows(provenance.get("segments"))
    for name in ("hardware", "commit", "notes", "note"):
        if provenance.get(name):
            yield name, _shown(provenance[name])
    yield from _metric_rows(provenance.get("metrics"))


def differences(bundle: Bundle, row: Format) -> dict[str, str]:
    """A format's largest differences from PyTorch by measure, as text; empty if it was built but not run."""
    parity = bundle.manifest.parity.get(row.name)
    worst = asdict(parity.worst) if parity else {}
    return {name: text for name, template in _MEASURES.items() if (text := _filled(template, worst.get(name)))}


def _run_rows(runs: Sequence[Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    """Steps by phase, and hours, over all runs; GAN steps of runs that only gave their encoders don't count."""
    total: dict[str, int] = {}
    for run in runs:
        steps = run.get("steps")
        for phase, count in (steps if isinstance(steps, dict) else {"": steps}).items():
            if isinstance(count, int) and count and not (phase == "gan" and run.get("part") == "encoders"):
                name = _PHASES.get(phase, phase)
                total[name] = total.get(name, 0) + count
    if total:
        phases = " + ".join(f"{count:,} {phase}" for phase, count in sorted(total.items(), reverse=True))
        yield "steps", phases + (f", in {len(runs)} successive runs" if len(runs) > 1 else "")
    hours = sum(hours for run in runs if isinstance(hours := run.get("hours"), int | float))
    if hours:
        yield "hours", f"{hours:.1f}"


def _segment_rows(segments: object) -> Iterator[tuple[str, str]]:
    """What each process contributed to the last run, one line each; if there are many, only the last ones."""
    found = [one for one in segments if isinstance(one, dict)] if isinstance(segments, list) else []
    for number, segment in list(enumerate(found, 1))[-MOST_SEGMENTS:]:
        steps = segment.get("steps")
        parts = [
            *(_steps(phase, span) for phase, span in (steps.items() if isinstance(steps, dict) else ())),
            _filled("{:.1f} h", segment.get("hours")),
            *(_shown(segment[name]) for name in ("note", "hardware") if segment.get(name)),
            _filled("torch {}", segment.get("torch")),
            _filled("commit {:.7}", segment.get("commit")),
        ]
        yield f"segment {number}", textwrap.shorten(", ".join(filter(None, parts)), WIDTH - 16, placeholder=" …")


def _steps(phase: str, span: object) -> str:
    """The steps of a phase in a segment; empty if there were none."""
    idle = isinstance(span, list) and len(span) == 2 and span[0] == span[1]
    return "" if idle else _filled(f"{_PHASES.get(phase, 'steps')} {{0[0]:,}}–{{0[1]:,}}", span)


def _metric_rows(metrics: object) -> Iterator[tuple[str, str]]:
    """The main metrics, each from the evaluation with the most pictures; of several, from the last.

    All share one data set, format and truncation: those of the largest evaluation, preferably at truncation 1.
    """
    evaluations = metrics.get("evaluations") if isinstance(metrics, dict) else None
    found = [one for one in evaluations if isinstance(one, dict)] if isinstance(evaluations, list) else []
    if not found:
        return
    found.sort(key=lambda one: count if isinstance(count := one.get("captions"), int | float) else 0)
    largest = found[::-1]
    chief = next((one for one in largest if one.get("truncation", 1) == 1), largest[0])
    where = [_shown(chief[name]) for name in ("data", "runs_as") if chief.get(name)]
    truncation = "" if chief.get("truncation", 1) == 1 else f"truncation {_shown(chief['truncation'])}"
    yield (
        "measured",
        ", ".join(filter(None, [*where[:1], f"{chief.get('split', 'test')} split", *where[1:], truncation])),
    )
    if chief.get("note"):
        yield "", _shown(chief["note"])
    conditions = ("data", "split", "runs_as", "truncation")
    alike = [one for one in largest if all(one.get(name) == chief.get(name) for name in conditions)]
    for title, name, template in _FIGURES:
        if figures := next(filter(None, (_filled(template, one.get(name)) for one in alike)), None):
            yield title, figures


def _format_rows(bundle: Bundle) -> Iterator[tuple[str, ...]]:
    yield "format", "backend", "precision", "sentence", "image", "px", "PSNR", "set", "mean", "first", "each"
    for row in bundle.formats:
        worst, found = differences(bundle, row), speed(bundle, row)
        cells = [worst.get(name, "-") for name in _MEASURES]
        times = (f"{found.first:,.0f}", f"{found.each:.1f}") if found else ("-", "-")
        yield row.name, row.backend, row.precision, *cells, *times


def _reasons(bundle: Bundle) -> Iterator[tuple[str, str]]:
    yield from ((name, f"built, not run: {why}") for name, why in bundle.manifest.unverified.items())
    yield from ((name, f"rejected: {why}") for name, why in bundle.manifest.rejected.items())


def _engine_rows(bundle: Bundle) -> Iterator[tuple[str, str, str, str, str]]:
    """TensorRT engines in the bundle and in this machine's cache, with what their records prove."""
    for where, records in (("bundle", bundled_records(bundle)), ("cache", cached_records(bundle))):
        for file, record in records:
            target = record.key["targets"] if where == "bundle" else record.key["gpu"]
            yield PurePath(file).name, where, target, record.key["version"], record.summary()


def _table(rows: Iterable[tuple[str, ...]], most: int, most_lines: int = 3) -> list[str]:
    """Rows as at most that many indented lines that fit `WIDTH`."""
    lines = aligned([[_plain(cell) for cell in row] for row in rows], WIDTH - 2, most_lines)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"… and {len(lines) - most + 1} more lines: --json"]
    return [f"  {line}" if line else "" for line in lines]


def _filled(template: str, value: object) -> str:
    """A template filled with a value or a record's fields; empty if they do not fit, since provenance has no schema."""
    if value is not None:
        with suppress(LookupError, TypeError, ValueError, OverflowError):
            return template.format(value, **value) if isinstance(value, dict) else template.format(value)
    return ""


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plain(text: str) -> str:
    """The text itself, or escaped if it has characters that a terminal would act on."""
    return text if text.isprintable() else json.dumps(text)
