"""The quality of each format's pictures, so that speed never hides a loss of quality: FID, and attributes that
captions name.
"""

from collections.abc import Callable, Iterator

from benchmarks.fixtures import RANDOM
from benchmarks.report import Quality
from t2i_engine.backend_selection import row_lacks
from t2i_engine.bundle import Bundle
from t2i_engine.engine import Engine
from t2i_engine.errors import OptionError, needs_extra

FEWEST = 100
FIGURES = ("fid", "attributes")


def check_quality(bundle: Bundle, data: str, count: int) -> None:
    """Raises a `UserError` if the weights are random, `count` is too small, or the data or a package is missing."""
    if bundle.manifest.provenance.get("weights") == RANDOM:
        raise OptionError(f"{bundle.name!r} has random weights, so there is no quality to measure: drop --quality")
    if count < FEWEST:
        raise OptionError(f"{count} pictures are too few to judge; at least {FEWEST} expected")
    with needs_extra("--quality", "evaluate"):
        import training.evaluation.evaluate  # noqa: F401
        from training.data.source import open_source
    open_source(data, count)


def measure_quality(
    bundle: Bundle, formats: set[str], data: str, count: int, on_progress: Callable[[str], None]
) -> Iterator[Quality]:
    """FID, and for synthbirds attribute accuracy, of `count` pictures of each of the formats that runs here."""
    from training.data.source import SYNTHBIRDS, public_name
    from training.evaluation.evaluate import EvaluatedModel, evaluate

    metrics = FIGURES if data == SYNTHBIRDS else FIGURES[:1]
    for row in bundle.formats:
        device = next((name for name in row.devices if row_lacks(row, name) is None), None)
        if device and row.name in formats:
            on_progress(f"quality of {row.name}, {count:,} pictures")
            with Engine.open(bundle.folder, row.backend, row.precision, device, exact_words=True) as engine:
                model = EvaluatedModel(engine.bundle.name, str(engine.selection), engine)
                figures = evaluate(model, data, metrics, "", count).as_json()
            yield Quality(row.name, public_name(data), count, figures)
