"""FID of the averaged generator during GAN training, against the pictures held out for validation."""

from collections.abc import Callable
from typing import Any

import torch

from t2i_engine.files import cache_folder
from t2i_engine.sampler import Sampler
from training.config import RunConfig
from training.data.loading import loaded_resolution
from training.data.source import DataError
from training.data.validation import validation_listing
from training.distributed import agreed, first_before_others, rank, world
from training.evaluation.distances import Distances, real_statistics
from training.evaluation.draws import BATCH, CaptionDraws, RealPictures, load_pictures
from training.evaluation.features import FeatureNetwork
from training.evaluation.inception import Inception
from training.progress import Progress


class PeriodicFid:
    """Compares pictures drawn for held-out captions with the held-out pictures, on all processes together."""

    def __init__(self, config: RunConfig, sampler: Sampler, device: torch.device, progress: Progress) -> None:
        """Computes the real statistics. Raises `MissingExtra`, and `DataError` if too few pictures are held out."""
        self.network: FeatureNetwork = Inception(device)
        cache, source = cache_folder(), config.data.source
        listing = validation_listing(config.data)
        loaded = loaded_resolution(config.data.resolution, config.data.random_crop)
        real = load_pictures(listing, source, "validation", loaded, cache, progress)
        self.draws = CaptionDraws(sampler, real, config.fid.count, rank(), world())
        drawable = self.draws.drawable()
        if min(drawable, len(real.keys)) < 2:
            raise DataError(
                f"fid.every: {source} has fewer than two held-out pictures with known captions; "
                "raise data.validation_share, or drop fid.every"
            )
        self.crops = config.data.random_crop
        self.rounds = -(-drawable // (BATCH * world()))
        data = config.data
        compared = RealPictures.as_compared(real.pictures, data.resolution, config.fid.count, data.horizontal_flip)
        progress.start("features of real pictures", len(real.pictures) * compared.views)
        with first_before_others():
            self.real = real_statistics(self.network, compared, listing.fingerprint, cache, progress.report)

    def measure(self, stopped: Callable[[], bool]) -> dict[str, Any] | None:
        """The FID, the numbers of pictures, and the features; all processes must call this, and get the same.

        `stopped` is asked before every batch; None if it returned true in any process.
        """
        distances = Distances(self.network.width, self.real)
        batches = self.draws.batches()
        for _ in range(self.rounds):
            if agreed(stopped()):
                return None
            batch = next(batches, None)  # in the last round some processes may have none
            if batch is not None:
                distances.update(self.network(batch.pixels), real=False)
        distances.add_up()
        return {**distances.fid()._asdict(), "features": self.network.name, "random_crop": self.crops}
