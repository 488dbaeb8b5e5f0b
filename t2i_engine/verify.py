"""Verify: a bundle's files against its manifest, and its formats against the stored reference and PyTorch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from t2i_engine.backend_selection import backend_status, row_lacks
from t2i_engine.backends.pytorch import open_exact
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, BundleError, CaptionError, OptionError, UserError, listed
from t2i_engine.latents import draw
from t2i_engine.parity import GATE, Finding, GateSize, OpenFormat, as_table, compare, gate_cases, verification_device
from t2i_engine.picture_reference import PictureReference, read_picture_reference, sentence_reach
from t2i_engine.reference import Reference, read_reference
from t2i_engine.table import aligned, size
from t2i_engine.tokenizer import pad

PYTORCH = "pytorch"

# Noise is computed in float64 with the C library's logarithm and rounded to float32: the last digit may differ.
_NOISE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Verification:
    """What was found: a line in `failures` for everything that is wrong, in `skipped` for everything not compared."""

    bundle: Bundle
    files: tuple[str, ...]  # that match the manifest
    worst: tuple[Finding, ...]
    failures: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures

    def as_json(self) -> dict[str, object]:
        """The findings for programs; a difference that is not finite is null."""
        return {
            "bundle": self.bundle.name,
            "folder": str(self.bundle.folder),
            "passed": self.passed,
            "files": {name: name in self.files for name in self.bundle.manifest.files},
            "differences": [
                asdict(found)
                | {"difference": value if math.isfinite(value := found.difference) else None, "ok": found.ok}
                for found in self.worst
            ],
            "failures": self.failures,
            "skipped": self.skipped,
        }

    def as_text(self) -> str:
        """The findings as readable text; the last line is PASSED or FAILED."""
        rows = [("file", "size", "SHA-256")]
        for name, entry in self.bundle.manifest.files.items():
            rows.append((name, size(entry.size), "ok" if name in self.files else "FAILED"))
        lines = [f"Bundle {self.bundle.name} in {self.bundle.folder}", "", *aligned(rows)]
        lines += ["", *as_table(self.worst)] if self.worst else []
        lines += ["", *(f"skipped: {reason}" for reason in self.skipped)]
        lines += [f"failed: {reason}" for reason in self.failures]
        return "\n".join([*lines, "PASSED" if self.passed else "FAILED"])


def verify(bundle: Bundle, on_progress: Callable[[str], None], size: GateSize = GATE) -> Verification:
    """Checks everything that can be checked on this machine; `on_progress` gets a line per step.

    Raises `BackendError` if no format can run here.
    """
    on_progress(f"checking {len(bundle.manifest.files)} files")
    bad: dict[str, str] = {}
    for name in bundle.manifest.files:
        try:
            bundle.path(name)
        except BundleError as error:
            bad[name] = str(error)
    failures, skipped = list(bad.values()), []
    opened: list[OpenFormat] = []
    for row in bundle.formats:
        status = backend_status(row.backend)
        if status.lacks and status.version:  # installed but broken: report it instead of skipping it
            raise BackendError(status.lacks)
        lacks = row_lacks(row, verification_device(row))
        if lacks:
            skipped.append(f"format {row.name}: {lacks}")
        elif bad.keys().isdisjoint(row.files.values()):
            try:
                opened.append(OpenFormat.open(bundle, row))
            except UserError as error:
                failures.append(f"format {row.name}: {error}")
    if not opened and not failures:
        reasons = "; ".join(skipped) or "it has no complete format; export it again"
        raise BackendError(f"no format of bundle {bundle.name!r} can run here: {reasons}")
    pictures: PictureReference | None = None
    if any(one.row.judged_by_pictures for one in opened):
        try:
            pictures = read_picture_reference(bundle)
        except BundleError as error:
            failures.append(str(error))
            opened = [one for one in opened if not one.row.judged_by_pictures]
    reach = sentence_reach(pictures)
    worst: list[Finding] = []
    for compare_with in (_with_reference, partial(_with_pytorch, size=size)):
        try:
            worst += compare_with(bundle, opened, on_progress, reach)
        except BackendError as error:
            skipped.append(f"comparison with PyTorch: {error}")
        except BundleError as error:
            failures.append(str(error))
    if pictures:
        judged = [one for one in opened if one.row.judged_by_pictures]
        on_progress(f"comparing pictures of {listed(one.row.name for one in judged)} with those of fp32")
        for one in judged:
            worst += pictures.judge(one, bundle.sizes, "fp32's pictures", size.pairs)
    failures += [str(found) for found in worst if not found.ok]
    good = tuple(name for name in bundle.manifest.files if name not in bad)
    return Verification(bundle, good, tuple(worst), tuple(dict.fromkeys(failures)), tuple(skipped))


def _with_reference(
    bundle: Bundle, opened: Sequence[OpenFormat], on_progress: Callable[[str], None], reach: float
) -> list[Finding]:
    reference = read_reference(bundle)
    on_progress(f"comparing {listed(one.row.name for one in opened)} with the reference")
    _check_inputs(bundle, reference)
    return compare(opened, reference.cases(), "reference", sentence_reach=reach)


def _check_inputs(bundle: Bundle, reference: Reference) -> None:
    """Raises `BundleError` unless, here, the reference's captions give its tokens and its seeds give its noise."""
    tokenizer = bundle.tokenizer()
    try:
        tokens, lengths = pad([tokenizer.encode(str(caption)).ids for caption in reference.captions])
        drawn = draw(reference.seeds.tolist(), bundle.sizes.noise_width, bundle.sizes.sentence_width)
    except (CaptionError, OptionError) as error:
        raise BundleError(f"the reference has captions or seeds that cannot be drawn here: {error}") from None
    if not (np.array_equal(tokens, reference.tokens) and np.array_equal(lengths, reference.lengths)):
        raise BundleError(
            "the reference's captions give different tokens here than on the machine that exported the bundle"
        )
    pairs = [(drawn.noise, reference.noise), (drawn.condition_noise, reference.condition_noise)]
    if not all(
        np.allclose(ours, theirs, rtol=0, atol=_NOISE_TOLERANCE) for ours, theirs in pairs if theirs is not None
    ):
        raise BundleError(
            "the reference's seeds give different noise here than on the machine that exported the bundle"
        )


def _with_pytorch(
    bundle: Bundle, opened: Sequence[OpenFormat], on_progress: Callable[[str], None], reach: float, size: GateSize
) -> list[Finding]:
    """Compares with the model in `weights.safetensors` over the gate's cases; PyTorch is not compared with itself."""
    lacks = backend_status(PYTORCH).lacks
    if lacks:
        raise BackendError(lacks)
    others = [one for one in opened if one.row.backend != PYTORCH]
    if not others:
        return []
    pytorch = open_exact(bundle)
    on_progress(f"comparing {listed(one.row.name for one in others)} with PyTorch")
    return compare(others, gate_cases(pytorch, bundle.sizes, size), "PyTorch", sentence_reach=reach)
