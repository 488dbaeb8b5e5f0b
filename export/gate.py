"""The gate: every format is compared with PyTorch, through its own backend, before it enters a bundle."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from t2i_engine.backend_selection import row_lacks
from t2i_engine.backends.pytorch import exact_runners
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, BundleError, ParityError
from t2i_engine.formats import GENERATOR, Format, all_formats, load
from t2i_engine.parity import (
    CPU,
    Finding,
    GateSize,
    OpenFormat,
    as_table,
    compare,
    gate_cases,
    verification_device,
)
from t2i_engine.picture_reference import (
    PICTURES,
    PictureReference,
    make_picture_reference,
    read_picture_reference,
    sentence_reach,
)
from training.models.text_to_image import TextToImage

EMULATED = 4  # batches of pictures: emulators are slow, and one picture exercises every layer
MOST_FLOOR = 0.02  # share of the way: another runtime further from PyTorch than that cannot stand for fp32


@dataclass(frozen=True)
class GateResult:
    """What the gate found."""

    findings: Sequence[Finding]
    unopened: Mapping[str, str]
    """Formats whose backend refused their files, and why."""

    @property
    def rejected(self) -> dict[str, str]:
        """The formats outside their tolerance, each with the first reason."""
        failures = {finding.format: str(finding) for finding in reversed(self.findings) if not finding.ok}
        return {**failures, **self.unopened}


def run_gate(
    model: TextToImage,
    staged: Bundle,
    rows: Sequence[Format],
    on_progress: Callable[[str], None],
    size: GateSize,
    pictures: PictureReference | None = None,
) -> GateResult:
    """Compares formats of a staged bundle with the model; `on_progress` gets the table of worst differences.

    Raises `ValueError` for formats that are judged by pictures without `pictures`: none passes unjudged.
    """
    if not rows:
        return GateResult([], {})
    if pictures is None and (judged := [row.name for row in rows if row.judged_by_pictures]):
        raise ValueError(f"{', '.join(judged)} cannot be judged without pictures")
    on_progress("comparing with PyTorch")
    started = time.perf_counter()
    opened, unopened = [], {}
    for row in rows:
        try:
            opened.append(OpenFormat.open(staged, row))
        except (BackendError, BundleError, ParityError) as error:
            unopened[row.name] = error.message
    pytorch = exact_runners(model)
    reach = sentence_reach(pictures)
    findings = compare(opened, gate_cases(pytorch, model.sizes, size), "PyTorch", reach, with_median=True)
    for one in opened:
        if pictures and one.row.judged_by_pictures:
            findings += pictures.judge(one, model.sizes, "fp32's pictures", size.pairs)
        if one.row.emulator is not None:
            emulated = OpenFormat(one.row, load(one.row.emulator)(model, one.row))
            cases = (case for case in gate_cases(pytorch, model.sizes, size) if case.graph == GENERATOR)
            findings += compare([emulated], islice(cases, EMULATED), f"PyTorch, in {one.row.precision}")
            if pictures and one.row.judged_by_pictures:
                findings += pictures.judge(
                    emulated, model.sizes, f"fp32's pictures, in {one.row.precision}", size.emulated
                )
    for line in as_table(findings):
        on_progress(line)
    on_progress(f"compared in {time.perf_counter() - started:.1f} s")
    return GateResult(findings, unopened)


def picture_reference(
    model: TextToImage, staged: Bundle, on_progress: Callable[[str], None], size: GateSize
) -> PictureReference:
    """The staged bundle's picture reference, drawn now if it has none; `on_progress` then gets a line.

    The bundle's first fp32 format that is near enough to PyTorch draws it, which is faster; else PyTorch itself.
    Raises `BundleError` if the bundle's own cannot be used.
    """
    if PICTURES in staged.manifest.files:
        return read_picture_reference(staged)
    on_progress(f"drawing {size.pairs:,} pairs of pictures to judge reduced precision by")
    pytorch = exact_runners(model)
    for row in all_formats():
        if row.precision != "fp32" or row.judged_by_pictures or verification_device(row) != CPU or row_lacks(row, CPU):
            continue
        if row.backend == "pytorch" or not row.all_files <= staged.manifest.files.keys():
            continue
        try:
            made = make_picture_reference(OpenFormat.open(staged, row).runners, pytorch, model.sizes, size.pairs)
        except Exception:  # the gate names what is wrong with the format
            continue
        if made.floor_share < MOST_FLOOR:
            return made
    return make_picture_reference(pytorch, pytorch, model.sizes, size.pairs)
