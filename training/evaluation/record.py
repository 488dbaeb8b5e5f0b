"""What was measured of a bundle, written into its manifest, so that a model's quality travels with it."""

from dataclasses import asdict, replace
from typing import Any

from t2i_engine.bundle import Bundle, check_target, write_bundle
from t2i_engine.errors import OptionError
from training.evaluation.report import Report


def recordable(model: str) -> Bundle:
    """The bundle to record findings in. Raises `OptionError` for a checkpoint, `OutputError` where it cannot be."""
    if model.endswith(".pt"):
        raise OptionError("--record writes into a bundle's manifest, and a checkpoint has none; export it first")
    bundle = Bundle.open(model)
    check_target(bundle.folder)
    return bundle


def record(bundle: Bundle, report: Report) -> None:
    """Adds a report to the metrics of a bundle's provenance; one of the same conditions is replaced.

    A kill at any moment leaves the bundle as it was. Raises `OutputError` where it cannot be written.
    """
    provenance: dict[str, Any] = dict(bundle.manifest.provenance)
    conditions = asdict(report.conditions).items()
    metrics = dict(provenance.get("metrics") or {})
    others = [found for found in metrics.get("evaluations", []) if not conditions <= found.items()]
    metrics["evaluations"] = [*others, report.as_json()]
    manifest = replace(bundle.manifest, provenance=provenance | {"metrics": metrics})
    write_bundle(bundle.folder, manifest, {name: bundle.path(name) for name in manifest.files})
