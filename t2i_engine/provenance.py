"""Reading a model's provenance, which training writes: the runs that made it, and the terms of their data."""

from collections.abc import Iterator, Mapping

_CUB = (
    "research only, not under Apache-2.0: trained on CUB-200-2011, photos from Flickr for non-commercial research "
    "(Wah et al., 2011) with captions by Reed et al. (2016)"
)
_COCO = (
    "trained on COCO, photos from Flickr under their owners' licences, many of them non-commercial, "
    "with captions under CC BY 4.0 (Chen et al., 2015)"
)
_TERMS = {"cub": _CUB, "cub+attributes": _CUB, "coco": _COCO}
"""By the kind of data source, which its name begins with; `cub+attributes` was a kind in version 0.1.0."""


def runs(provenance: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """The runs that made a model, the last one first; each started from the next."""
    run: object = provenance
    while isinstance(run, dict):
        yield run
        run = run.get("initial")


def data_terms(provenance: Mapping[str, object]) -> str | None:
    """The terms of all data that a model has learned from, in one line; None if none are known."""
    datasets = [dataset for run in runs(provenance) if isinstance(dataset := run.get("dataset"), dict)]
    names = [str(dataset.get(field)) for dataset in datasets for field in ("source", "origin")]
    found = (_TERMS.get(name.partition(":")[0]) for name in names)
    return "; ".join(dict.fromkeys(filter(None, found))) or None
