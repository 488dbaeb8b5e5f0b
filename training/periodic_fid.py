"""FID of the averaged generator while the GAN trains, by evaluation's own measure (training/evaluation)."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from t2i_engine.files import cache_folder
from t2i_engine.sampler import Sampler
from training.config import RunConfig
from training.data.rendered import render
from training.data.source import DataError, require_usable
from training.data.sources import open_source
from training.evaluation.comparison import Comparison
from training.evaluation.distances import Distances
from training.evaluation.inception import FeatureNetwork, Inception
from training.evaluation.reference import add_reference
from training.evaluation.samples import Requests
from training.progress import Progress


class PeriodicFid:
    """Compares what a model draws for test captions with the test pictures."""

    def __init__(self, config: RunConfig, sampler: Sampler, device: torch.device, progress: Progress) -> None:
        """Takes in the real pictures. Raises `MissingExtra`, and `DataError` where there is too little to test with."""
        self.network: FeatureNetwork = Inception(device)
        source = open_source(config.data.source, config.fid.pictures)
        listing = source.listing("test")
        require_usable(source.name, "test", len(listing.items), listing.problems)
        progress.start("pictures to test with", len(listing.items))
        real = render(listing, config.data.resolution, cache_folder(), lambda done: progress.report(done, {}))
        require_usable(source.name, "test", len(real.keys), real.broken)
        self.requests = Requests(sampler, real, config.fid.pictures)
        if min(self.requests.drawable(), len(real.keys)) < 2:
            raise DataError(
                f"fid.every: {source.name} has fewer than two pictures with known captions to test with; "
                "leave it out, or add some"
            )
        progress.start("features of real pictures", len(real.pictures))
        distances = Distances(self.network.width)
        add_reference(
            distances, real.pictures, listing.fingerprint, self.network, cache_folder(),
            lambda done: progress.report(done, {}),
        )  # fmt: skip
        self.reference = distances.reference()

    def measure(self, stopped: Callable[[], bool]) -> dict[str, Any] | None:
        """The FID, with numbers of pictures and features; None where it was `stopped` before it was done."""
        distances = Distances(self.network.width)
        distances.load_reference(self.reference)
        comparison = Comparison(distances, self.network, {"fid"})
        for sample in self.requests.draw():
            if stopped():
                return None
            comparison.update(sample)
        fid = comparison.result().fid
        assert fid is not None
        return {**asdict(fid), "features": self.network.name}
