"""FID and KID of generated pictures against real ones, as a measure."""

from collections.abc import Set
from dataclasses import asdict, dataclass
from typing import Any, Literal

from t2i_engine.pictures import Pixels
from training.evaluation.distances import KID_SUBSETS, Distances, Kid
from training.evaluation.inception import FeatureNetwork
from training.evaluation.report import table
from training.evaluation.samples import Sample, in_batches

Figure = Literal["fid", "kid", "fid-floor"]
FIGURES: frozenset[Figure] = frozenset({"fid", "kid", "fid-floor"})


class Comparison:
    """Compares features of generated pictures with those that `distances` already has of the test pictures."""

    def __init__(
        self, distances: Distances, network: FeatureNetwork, figures: Set[str], training: Pixels | None = None
    ) -> None:
        """For the figure `fid-floor`, `training` are real pictures, uint8 (N, R, R, 3), of the training split."""
        self.distances = distances
        self.network = network
        self.figures = figures
        self.training = training

    def update(self, sample: Sample) -> None:
        """Takes in generated pictures."""
        self.distances.update(self.network(sample.pixels), real=False)

    def result(self) -> "Compared":
        """The figures that were asked for."""
        counts, distances = self.distances.counts, self.distances
        fid = Fid(distances.fid(), counts[False], counts[True]) if "fid" in self.figures else None
        floor = self._floor(self.training) if self.training is not None else None
        return Compared(self.network.name, fid, distances.kid() if "kid" in self.figures else None, floor)

    def _floor(self, training: Pixels) -> "Fid":
        distances = Distances(self.network.width)
        distances.load_reference(self.distances.reference())
        for batch in in_batches(training):
            distances.update(self.network(batch), real=False)
        return Fid(distances.fid(), len(training), distances.counts[True])


@dataclass(frozen=True)
class Fid:
    """A Fréchet distance, and from how many pictures it was computed."""

    value: float
    pictures: int
    real: int


@dataclass(frozen=True)
class Compared:
    """Distances in features of `network`; those that were not asked for are None."""

    network: str
    fid: Fid | None
    kid: Kid | None
    floor: Fid | None

    def as_json(self) -> dict[str, Any]:
        """What was asked for, and by which features."""
        return {
            "features": self.network,
            **({"fid": asdict(self.fid)} if self.fid else {}),
            **({"kid": {**self.kid._asdict(), "subsets": KID_SUBSETS}} if self.kid else {}),
            **({"fid_floor": asdict(self.floor)} if self.floor else {}),
        }

    def as_markdown(self) -> str:
        """A table, the features, and a warning against comparing FID at unequal numbers."""
        rows = []
        if self.fid:
            rows.append(("FID", f"{self.fid.value:.2f}", f"{self.fid.pictures:,} against {self.fid.real:,} real"))
        if self.floor:
            pictures = f"{self.floor.pictures:,} to train with against {self.floor.real:,} to test with"
            rows.append(("FID of real pictures", f"{self.floor.value:.2f}", pictures))
        if self.kid:
            value = f"{1000 * self.kid.mean:.2f} ± {1000 * self.kid.deviation:.2f}"
            rows.append(("KID × 1000", value, f"{KID_SUBSETS} subsets of {self.kid.subset_size:,}"))
        few = " FID grows as pictures become fewer: compare it at equal numbers only." if self.fid or self.floor else ""
        return f"{table(('measure', 'value', 'pictures'), rows)}\n\nFeatures: {self.network}.{few}"
