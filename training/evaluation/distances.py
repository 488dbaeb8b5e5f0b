"""FID (Heusel et al., 2017) and KID (Bińkowski et al., 2018) of generated pictures, computed by torchmetrics."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from t2i_engine.pictures import Pixels
from training.distributed import total
from training.evaluation import GeneratedBatch, Result, cached, table
from training.evaluation.draws import RealPictures
from training.evaluation.features import FeatureNetwork

DISTANCES = frozenset({"fid", "kid", "fid-floor"})
KID_PICTURES = 5_000
"""KID compares the features themselves, so only those of the first pictures on each side are stored."""
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1_000
VERSION = 1
"""Part of the cache key: increment it when the content or computation of `RealStatistics` changes."""

RealStatistics = dict[str, Any]
"""What FID and KID need to know of the real pictures, in tensors and plain values."""

_SUMS = ("features_sum", "features_cov_sum", "features_num_samples")


class Fid(NamedTuple):
    """The Fréchet distance, and how many pictures of either side it was computed from."""

    value: float
    pictures: int
    real: int


class Kid(NamedTuple):
    """The squared maximum mean discrepancy: mean and standard deviation over subsets."""

    mean: float
    deviation: float
    subset_size: int


class Distances:
    """Distances between real and other features; its memory does not grow with their number.

    FID needs sums and sums of products, in float64; KID the first 5,000 vectors of either side.
    """

    def __init__(self, width: int, real: RealStatistics | None = None) -> None:
        """Features have `width` entries; those of the real pictures may be given by their statistics."""
        # `add_up` adds up what processes found, without KID's part.
        self._fid = FrechetInceptionDistance(_Identity(width), sync_on_compute=False)
        self._fid.orig_dtype = torch.float64  # as its update sets it, which a process without pictures never calls
        self._features: dict[bool, list[Tensor]] = {True: [], False: []}
        self.counts = {True: 0, False: 0}
        if real:
            for name in _SUMS:
                setattr(self._fid, f"real_{name}", real["sums"][f"real_{name}"])
            self._features[True], self.counts[True] = [real["features"]], real["count"]

    def update(self, features: Tensor, real: bool) -> None:
        """Takes in `features` float32 (B, width) of real or of other pictures."""
        self._fid.update(features.double(), real)
        room = max(0, KID_PICTURES - self.counts[real])
        self._features[real].append(features[:room].clone())
        self.counts[real] += len(features)

    def add_up(self) -> None:
        """Sums what FID needs of the pictures that are not real over all processes, which must all call this."""
        for name in _SUMS:
            setattr(self._fid, f"fake_{name}", total(getattr(self._fid, f"fake_{name}")))
        self.counts[False] = int(self._fid.fake_features_num_samples)

    def fid(self) -> Fid:
        """The Fréchet distance; needs at least two pictures of either side."""
        # A distance is not negative, but the computed one of equal sets may be, by about 1e-10.
        return Fid(max(0.0, float(self._fid.compute())), self.counts[False], self.counts[True])

    def kid(self) -> Kid:
        """The unbiased kernel distance, over 100 subsets that are always the same."""
        sides = {real: torch.cat(features).double() for real, features in self._features.items()}
        fewest = min(len(features) for features in sides.values())
        size = min(KID_SUBSET_SIZE, max(2, fewest // 2))  # subsets of all pictures would not differ
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about its memory, which is bounded here
            metric = KernelInceptionDistance(nn.Identity(), subsets=KID_SUBSETS, subset_size=size)
        for real, features in sides.items():
            metric.update(features, real)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            mean, deviation = metric.compute()
        return Kid(float(mean), float(deviation), size)

    def real_statistics(self) -> RealStatistics:
        """The statistics of the real pictures so far."""
        sums = {f"real_{name}": getattr(self._fid, f"real_{name}") for name in _SUMS}
        return {"sums": sums, "features": torch.cat(self._features[True]), "count": self.counts[True]}


def real_statistics(
    network: FeatureNetwork, real: RealPictures, fingerprint: str, cache: Path, on_progress: Callable[[int], None]
) -> RealStatistics:
    """The statistics of real pictures, whose content `fingerprint` identifies; cached.

    The cache key is the fingerprint, number and resolution of the pictures, their crops, and the network with its
    runtime.
    """
    key = [VERSION, KID_PICTURES, fingerprint, real.pictures.shape, *real.description, network.name]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]

    def compute() -> RealStatistics:
        distances = Distances(network.width)
        for pixels in real.batches():  # KID takes the first
            distances.update(network(pixels), real=True)
            on_progress(distances.counts[True])
        return distances.real_statistics()

    return cached(cache / f"real-statistics-{digest}.pt", compute)


class DistanceMeasure:
    """The requested ones of FID, KID and the FID floor, which is the FID of real training pictures.

    With another network than Inception they are different metrics, with names of their own: CLIP-FID.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        real: RealStatistics,
        wanted: Set[str],
        training: Iterable[Pixels] | None = None,
        prefix: str = "",
    ) -> None:
        """Takes statistics of the `real` test pictures, and the metrics `wanted`, whose names begin with the prefix.

        `training`, batches uint8 (B, R, R, 3), is needed for the floor only.
        """
        self._network, self._real, self._wanted, self._training = network, real, wanted, training
        self._prefix = prefix
        self._distances = Distances(network.width, real)

    def update(self, batch: GeneratedBatch) -> None:
        """Takes in generated pictures."""
        self._distances.update(self._network(batch.pixels), real=False)

    def result(self) -> Result:
        """The requested distances, with a warning not to compare FIDs of different numbers of pictures."""
        fid_name, kid_name = f"{self._prefix}fid", f"{self._prefix}kid"
        values: dict[str, Any] = {"features": self._network.name}
        rows = []
        if fid_name in self._wanted:
            fid = self._distances.fid()
            values["fid"] = fid._asdict()
            rows.append((fid_name.upper(), f"{fid.value:.2f}", f"{fid.pictures:,} against {fid.real:,} real"))
        if self._training is not None:
            of_training = Distances(self._network.width, self._real)
            for pixels in self._training:
                of_training.update(self._network(pixels), real=False)
            floor = of_training.fid()
            values["fid_floor"] = floor._asdict()
            pictures = f"{floor.pictures:,} training against {floor.real:,} test pictures"
            rows.append((f"{fid_name.upper()} of real pictures", f"{floor.value:.2f}", pictures))
        if kid_name in self._wanted:
            kid = self._distances.kid()
            values["kid"] = {**kid._asdict(), "subsets": KID_SUBSETS}
            value = f"{1000 * kid.mean:.2f} ± {1000 * kid.deviation:.2f}"
            rows.append((f"{kid_name.upper()} × 1000", value, f"{KID_SUBSETS} subsets of {kid.subset_size:,}"))
        few = (
            " FID rises with fewer pictures: compare equal numbers only."
            if any("FID" in row[0] for row in rows)
            else ""
        )
        markdown = f"{table(('metric', 'value', 'pictures'), rows)}\n\nFeatures: {self._network.name}.{few}"
        return Result({self._prefix.replace("-", "_") + name: value for name, value in values.items()}, markdown)


class _Identity(nn.Module):
    """Stands for the network that torchmetrics asks for: features are computed once, outside, for all metrics."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features
