"""How good the pictures of each format are, so that speed never hides quality: FID and what the captions ask for."""

from collections.abc import Callable, Iterator, Mapping

from benchmarks.report import Quality
from t2i_engine.backend_selection import row_lacks
from t2i_engine.bundle import Bundle
from t2i_engine.engine import Engine
from t2i_engine.errors import MissingExtra, OptionError

RANDOM = "random"  # what the provenance of `paper` says of its weights
FEWEST = 100
FIGURES = ("fid", "attributes")


def check_quality(bundle: Bundle, data: str, count: int) -> None:
    """Raises a `UserError` where the bundle's pictures mean nothing or cannot be judged, or the data is unknown."""
    if bundle.manifest.provenance.get("weights") == RANDOM:
        raise OptionError(f"the weights of {bundle.name!r} are random: its pictures have no quality to measure")
    if count < FEWEST:
        raise OptionError(f"{count} pictures are too few to judge; at least {FEWEST} expected")
    try:
        import training.evaluation.evaluate  # noqa: F401
        from training.data.sources import open_source
    except ModuleNotFoundError as error:
        raise MissingExtra("--quality", f"the package {error.name}", "evaluate") from None
    open_source(data, count)


def measure_quality(
    bundle: Bundle, formats: set[str], data: str, count: int, report: Callable[[str], None]
) -> Iterator[Quality]:
    """FID and, for synthbirds, the attributes that captions name, of `count` pictures of each format that runs here."""
    from training.data.sources import SYNTHBIRDS, public_name
    from training.evaluation.evaluate import EvaluatedModel, evaluate

    metrics = FIGURES if data == SYNTHBIRDS else FIGURES[:1]
    for row in bundle.formats:
        device = next((name for name in row.devices if row_lacks(row, name) is None), None)
        if device and row.name in formats:
            report(f"quality of {row.name}, {count:,} pictures")
            engine = Engine.open(bundle.folder, row.backend, row.precision, device)
            figures = evaluate(
                EvaluatedModel(engine.bundle.name, str(engine.selection), engine), data, metrics, "", count
            ).as_json()
            yield Quality(row.name, public_name(data), count, figures)


def fid(found: Quality) -> float | None:
    """The Fréchet distance, where it was measured."""
    return _figure(found.figures, "fid", "value")


def consistency(found: Quality) -> float | None:
    """In how many of 100 pictures a classifier sees everything that the caption asks for, where it was measured."""
    return _figure(found.figures, "attribute_accuracy", "attributes", "everything asked for", "generated")


def _figure(figures: object, *path: str) -> float | None:
    for name in path:
        figures = figures.get(name) if isinstance(figures, Mapping) else None
    return float(figures) if isinstance(figures, int | float) else None
