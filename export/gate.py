"""The gate: every format is compared with PyTorch, through its own backend, before it enters a bundle."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from t2i_engine.backends.pytorch import exact_runners
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, BundleError, ParityError
from t2i_engine.formats import GENERATOR, Format, load
from t2i_engine.parity import MEDIAN_PSNR, Finding, GateSize, OpenFormat, as_table, compare, gate_cases
from training.models.text_to_image import TextToImage

EMULATED = 4  # batches of pictures: emulators are slow, and one picture exercises every layer


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
    model: TextToImage, staged: Bundle, rows: Sequence[Format], on_progress: Callable[[str], None], size: GateSize
) -> GateResult:
    """Compares formats of a staged bundle with the model; `on_progress` gets the table of worst differences."""
    if not rows:
        return GateResult([], {})
    on_progress("comparing with PyTorch")
    started = time.perf_counter()
    opened, unopened = [], {}
    for row in rows:
        try:
            opened.append(OpenFormat.open(staged, row))
        except (BackendError, BundleError, ParityError) as error:
            unopened[row.name] = error.message
    pytorch = exact_runners(model)
    findings = compare(opened, gate_cases(pytorch, model.sizes, size), "PyTorch", [MEDIAN_PSNR])
    for one in opened:
        if one.row.emulator is not None:
            emulated = OpenFormat(one.row, load(one.row.emulator)(model, one.row))
            pictures = (case for case in gate_cases(pytorch, model.sizes, size) if case.graph == GENERATOR)
            findings += compare([emulated], islice(pictures, EMULATED), f"PyTorch, in {one.row.precision}")
    for line in as_table(findings):
        on_progress(line)
    on_progress(f"compared in {time.perf_counter() - started:.1f} s")
    return GateResult(findings, unopened)
