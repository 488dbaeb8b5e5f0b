"""FID of the averaged generator during GAN training, computed as `t2i-engine evaluate` does."""

from collections.abc import Callable
from typing import Any

import torch

from t2i_engine.files import cache_folder
from t2i_engine.sampler import Sampler
from training.config import RunConfig
from training.data.source import DataError, open_source
from training.evaluation.distances import Distances, real_statistics
from training.evaluation.draws import CaptionDraws, load_split
from training.evaluation.inception import FeatureNetwork, Inception
from training.progress import Progress


class PeriodicFid:
    """Compares pictures drawn for test captions with the test pictures."""

    def __init__(self, config: RunConfig, sampler: Sampler, device: torch.device, progress: Progress) -> None:
        """Computes the real statistics. Raises `MissingExtra`, and `DataError` if there are too few test pictures."""
        self.network: FeatureNetwork = Inception(device)
        source, cache = open_source(config.data.source, config.fid.count), cache_folder()
        listing, real = load_split(source, "test", config.data.resolution, cache, progress)
        self.draws = CaptionDraws(sampler, real, config.fid.count)
        if min(self.draws.drawable(), len(real.keys)) < 2:
            raise DataError(
                f"fid.every: {source.name} has fewer than two test pictures with known captions; "
                "drop fid.every, or add pictures"
            )
        progress.start("features of real pictures", len(real.pictures))
        self.real = real_statistics(
            self.network, real.pictures, listing.fingerprint, cache, lambda done: progress.report(done, {})
        )

    def measure(self, stopped: Callable[[], bool]) -> dict[str, Any] | None:
        """The FID, the numbers of pictures, and the features; None if `stopped` returned true before the end."""
        distances = Distances(self.network.width, self.real)
        for batch in self.draws.batches():
            if stopped():
                return None
            distances.update(self.network(batch.pixels), real=False)
        return {**distances.fid()._asdict(), "features": self.network.name}
