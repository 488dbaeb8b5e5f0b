"""What is true of a row whatever the batch: its first opening, its files, its work, and how far it is from PyTorch."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.counting import Work, count_pytorch, count_work, form_of
from benchmarks.material import WORDS, Material
from benchmarks.processes import Worker, WorkerError
from benchmarks.report import Case, Differences, Limit, RowFacts
from benchmarks.rows import REFERENCE, find_row
from t2i_engine.bundle import Bundle
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Form

_WIDTHS = {"bf16": 2, "fp16": 2}  # bytes of what a file, or PyTorch, has in float32


def examine(case: Case, material: Material, scratch: Path, say: Callable[[str], None]) -> RowFacts:
    """Opens a row in a process of its own, with nothing kept from earlier. Raises `WorkerError` where that fails.

    A profile that fails costs the row nothing but its profile, and `say` gets a line.
    """
    row, folder = find_row(case.row), material.folder(case.network, find_row(case.row))
    asked = {"reference": str(material.reference(case.network)), "batch": case.batch}
    operators: list[tuple[str, float]] = []
    worker = Worker(scratch, case.threads)
    try:
        opened = worker.ask("open", folder=str(folder), row=case.row, device=case.device, threads=case.threads)
        differences = worker.ask("differences", **asked)
        try:
            operators = worker.ask("operators", **asked)
        except WorkerError as error:
            say(f"no profile of {case.row}: {error}")
    finally:
        worker.close()
    work, form = _generator_work(case, folder)
    return RowFacts(
        row=case.row,
        what=row.what,
        network=case.network,
        side=case.side,
        precision=case.precision,
        form=form,
        first_opening=opened["importing"] + opened["opening"],
        file_size=sum(Bundle.open(folder).manifest.files[name].size for name in row.format.all_files),
        differences=Differences(**differences),
        gflop=work.flop / 1e9,
        int8_gflop=work.int8_flop / 1e9,
        megabytes=work.bytes / 1e6,
        weight_megabytes=work.weight_bytes / 1e6,
        text_encoder_gflop=_text_encoder_gflop(case, folder),
        operators=tuple((kind, f"{milliseconds:.3f}") for kind, milliseconds in operators),
    )


def time_at_limit(facts: RowFacts, case: Case, limit: Limit) -> float | None:
    """Milliseconds that the generator's products take at the machine's rates, or their bytes at its bandwidth.

    The longer of both counts. ONNX Runtime computes FP16 graphs on a CPU in fp32. None where a rate is not known.
    """
    precision = (
        "fp32" if case.precision == "int8" or (case.precision, case.device) == ("fp16", "cpu") else case.precision
    )
    rate: float | None = getattr(limit, precision)
    bandwidth = limit.bandwidth
    if not rate or not bandwidth or (facts.int8_gflop and not limit.int8):
        return None
    seconds = case.batch * (facts.gflop - facts.int8_gflop) / rate
    if facts.int8_gflop and limit.int8:
        seconds += case.batch * facts.int8_gflop / limit.int8
    moved = facts.weight_megabytes + case.batch * (facts.megabytes - facts.weight_megabytes)
    return 1000 * max(seconds, moved / 1000 / bandwidth)


def _generator_work(case: Case, folder: Path) -> tuple[Work, str]:
    """For one picture, counted from the file, or where the row is PyTorch from the model; and the form of the graph."""
    row, width = find_row(case.row).format, _WIDTHS.get(case.precision, 4)
    if row.backend == REFERENCE:
        return count_pytorch(Bundle.open(folder).sizes, 1, width), Form.TRAINED
    file = folder / row.files[GENERATOR]
    return count_work(file, {"B": 1}, width), form_of(file)


def _text_encoder_gflop(case: Case, folder: Path) -> float | None:
    row = find_row(case.row).format
    if row.backend == REFERENCE:
        return None
    return count_work(folder / row.files[TEXT_ENCODER], {"B": 1, "T": WORDS}).flop / 1e9
