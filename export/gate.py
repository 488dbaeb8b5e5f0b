"""The gate: every format compared with PyTorch, through its backend, before a bundle with it is written."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from export.parity import gate_cases
from t2i_engine.bundle import Bundle, Parity
from t2i_engine.errors import BackendError, BundleError
from t2i_engine.formats import GENERATOR, Format, load
from t2i_engine.parity import OpenFormat, Worst, as_parity, as_table, compare
from training.models.text_to_image import TextToImage

EMULATED = 4  # batches of pictures: an emulator is slow, and sees each layer in every picture

Report = Callable[[str], None]


@dataclass(frozen=True)
class Proof:
    """What the gate found."""

    worst: Sequence[Worst]
    unopened: Mapping[str, str]
    """Formats whose backend refused their files, and why."""

    @property
    def missed(self) -> dict[str, str]:
        """The formats that cannot be kept, and why; of several reasons the first."""
        failures = {found.format: str(found) for found in reversed(self.worst) if not found.ok}
        return {**failures, **self.unopened}

    def parity(self, row: Format) -> Parity:
        """What the manifest records of a format that was not missed."""
        return as_parity(self.worst, row)


def prove(model: TextToImage, staged: Bundle, rows: Iterable[Format], report: Report) -> Proof:
    """Compares formats of a bundle with the model; `report` gets the table of the worst differences."""
    rows = list(rows)
    if not rows:
        return Proof([], {})
    report("comparing with PyTorch")
    started = time.perf_counter()
    opened, unopened = [], {}
    for row in rows:
        try:
            opened.append(OpenFormat.open(staged, row))
        except (BackendError, BundleError) as error:
            unopened[row.name] = error.message
    worst = compare(opened, gate_cases(model), "PyTorch")
    for one in opened:
        if one.row.emulator is not None:
            emulated = OpenFormat(one.row, load(one.row.emulator)(model, one.row))
            pictures = (case for case in gate_cases(model) if case.graph == GENERATOR)
            worst += compare([emulated], islice(pictures, EMULATED), f"PyTorch, in {one.row.precision}")
    for line in as_table(worst):
        report(line)
    report(f"compared in {time.perf_counter() - started:.1f} s")
    return Proof(worst, unopened)
