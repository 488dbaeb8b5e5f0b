"""Features of a data set's real pictures, computed once and kept by everything that they depend on."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from t2i_engine.pictures import Pixels
from training.evaluation.distances import KID_PICTURES, Distances
from training.evaluation.inception import FeatureNetwork
from training.evaluation.kept import find, keep
from training.evaluation.samples import in_batches

# Goes up whenever what is kept changes.
VERSION = 1


def add_reference(
    distances: Distances,
    pictures: Pixels,
    fingerprint: str,
    network: FeatureNetwork,
    cache: Path,
    on_progress: Callable[[int], None],
) -> None:
    """Gives `distances` the real `pictures`, uint8 (N, R, R, 3), whose content `fingerprint` names.

    What is kept is found again only for the same pictures in the same number and size, and for the same network.
    """
    known_by = [VERSION, KID_PICTURES, fingerprint, pictures.shape, network.name]
    digest = hashlib.sha256(json.dumps(known_by).encode()).hexdigest()[:24]
    path = cache / f"features-{digest}.pt"
    if kept := find(path):
        distances.load_reference(kept)
        return
    order = np.random.default_rng(0).permutation(len(pictures))  # so that the first ones, for KID, are a fair choice
    for numbers in in_batches(order):
        distances.update(network(pictures[np.sort(numbers)]), real=True)
        on_progress(distances.counts[True])
    keep(path, distances.reference())
