"""FID (Heusel et al., 2017) and KID (Bińkowski et al., 2018) between two streams of features, by torchmetrics."""

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

KID_PICTURES = 5_000
"""KID compares features themselves: so many are kept of either side, the first ones."""
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1_000

_REFERENCE = ("real_features_sum", "real_features_cov_sum", "real_features_num_samples")


class Kid(NamedTuple):
    """The squared maximum mean discrepancy over subsets: its mean and standard deviation."""

    mean: float
    deviation: float
    subset_size: int


class Distances:
    """Takes in features of real and of other pictures; what it keeps does not grow with their number.

    FID keeps sums and sums of products in float64, KID the first 5,000 vectors of either side.
    """

    def __init__(self, width: int) -> None:
        self._fid = FrechetInceptionDistance(_Identity(width))
        self._kept: dict[bool, list[Tensor]] = {True: [], False: []}
        self.counts = {True: 0, False: 0}

    def update(self, features: Tensor, real: bool) -> None:
        """Takes in `features` float32 (B, width) of real pictures, or of those to be judged."""
        self._fid.update(features.double(), real)
        room = max(0, KID_PICTURES - self.counts[real])
        self._kept[real].append(features[:room].clone())
        self.counts[real] += len(features)

    def fid(self) -> float:
        """The Fréchet distance; both sides need two pictures at least."""
        # A distance is not negative, but the computed one of equal sets may be, by about 1e-10.
        return max(0.0, float(self._fid.compute()))

    def kid(self) -> Kid:
        """The kernel distance, unbiased, over 100 subsets that are always the same."""
        sides = {real: torch.cat(kept).double() for real, kept in self._kept.items()}
        fewest = min(len(features) for features in sides.values())
        size = min(KID_SUBSET_SIZE, max(2, fewest // 2))  # subsets of everything would all be the same
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it keeps all features: here they are bounded
            metric = KernelInceptionDistance(nn.Identity(), subsets=KID_SUBSETS, subset_size=size)
        for real, features in sides.items():
            metric.update(features, real)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            mean, deviation = metric.compute()
        return Kid(float(mean), float(deviation), size)

    def reference(self) -> dict[str, Any]:
        """Everything known of the real pictures, to be kept."""
        sums = {name: getattr(self._fid, name) for name in _REFERENCE}
        return {"sums": sums, "features": torch.cat(self._kept[True]), "count": self.counts[True]}

    def load_reference(self, reference: dict[str, Any]) -> None:
        """Takes up what `reference` returned."""
        for name in _REFERENCE:
            setattr(self._fid, name, reference["sums"][name])
        self._kept[True], self.counts[True] = [reference["features"]], reference["count"]


class _Identity(nn.Module):
    """Torchmetrics asks for a network; features are computed once, outside, for all measures."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features
