"""Diversity: how far the pictures of one caption lie apart, beside renders that the same caption is true of."""

from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2i_engine.pictures import Pixels
from t2i_engine.sampler import Sampler
from training.data.synthbirds import SynthBirds
from training.evaluation.attributes import asked, shown
from training.evaluation.inception import FeatureNetwork
from training.evaluation.report import table
from training.evaluation.samples import in_batches

CAPTIONS = ("a yellow bird", "a red owl", "a white gull", "a green parrot", "a bird on a branch", "a duck on the water")
SEEDS = 64


@dataclass(frozen=True)
class Spread:
    """The mean distance between two pictures of one caption, in features."""

    caption: str
    generated: float
    renders: float

    @property
    def ratio(self) -> float:
        """1: as far apart as renders; 0: always the same picture. Flaws that vary lie far apart too, even above 1."""
        return self.generated / self.renders


def measure_diversity(caption: str, seeds: int, sampler: Sampler, network: FeatureNetwork) -> Spread:
    """Draws the caption with the seeds 0, 1, … and compares the pictures with as many test renders that show the same.

    Raises `CaptionError` where the model knows no word of the caption.
    """
    sentence = sampler.encode([caption])
    generated = np.concatenate(
        [sampler.draw(sentence.repeat(len(part), axis=0), part) for part in _parts(range(seeds))]
    )
    return Spread(
        caption,
        mean_distance(_features(generated, network)),
        mean_distance(_features(renders_of(caption, seeds, sampler.sizes.resolution), network)),
    )


@dataclass(frozen=True)
class Diversity:
    """The spreads of several captions."""

    network: str
    seeds: int
    spreads: list[Spread]

    def as_json(self) -> dict[str, Any]:
        """Each caption's distances and their ratio."""
        spreads = [{**asdict(spread), "ratio": spread.ratio} for spread in self.spreads]
        return {"diversity": {"features": self.network, "seeds": self.seeds, "captions": spreads}}

    def as_markdown(self) -> str:
        """One row for each caption."""
        rows = [
            (spread.caption, f"{spread.generated:.2f}", f"{spread.renders:.2f}", f"{spread.ratio:.2f}")
            for spread in self.spreads
        ]
        return (
            f"{table(('caption', 'generated', 'renders', 'ratio'), rows)}\n\nMean distance in features between two "
            f"pictures of one caption; {self.seeds} seeds, and as many renders that the caption is true of."
        )


def renders_of(caption: str, number: int, side: int) -> Pixels:
    """The first `number` pictures of the test split that show what the caption asks for: uint8 (N, R, R, 3)."""
    wanted = asked(caption)
    birds = SynthBirds("test", 10**6, side)
    fitting = (index for index in range(len(birds)) if wanted.items() <= shown(birds.attributes(index)).items())
    return np.stack([birds[index].image for index in islice(fitting, number)])


def mean_distance(features: Tensor) -> float:
    """The mean Euclidean distance of all pairs of `features` (N, width)."""
    return float(torch.pdist(features.double()).mean())


def _features(pictures: Pixels, network: FeatureNetwork) -> Tensor:
    return torch.cat([network(batch) for batch in in_batches(pictures)])


def _parts(seeds: range) -> list[range]:
    return [seeds[start : start + 32] for start in range(0, len(seeds), 32)]
