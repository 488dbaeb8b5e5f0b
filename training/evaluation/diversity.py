"""Diversity: how far apart the pictures of one caption are, compared with renders that fit the same caption."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from t2i_engine.pictures import Pixels
from t2i_engine.sampler import Sampler
from training.data.synthbirds import SynthBirds
from training.data.synthbirds.caption_attributes import caption_attributes, fits, visible_attributes
from training.evaluation import Result, table
from training.evaluation.draws import in_batches
from training.evaluation.features import FeatureNetwork

CAPTIONS = (
    "a yellow bird",
    "a red owl",
    "a white gull",
    "a green parrot",
    "a blue bird on a branch",
    "a pink bird in the snow",
    "a bird",
    "a parrot",
    "a penguin",
    "a bird on a branch",
    "a duck on the water",
    "a bird in the sky",
)
"""Half of them name a colour, half of them none."""
SEEDS = 64


@dataclass(frozen=True)
class Spread:
    """The mean distance between two pictures of one caption, in features."""

    caption: str
    generated: float
    renders: float

    @property
    def ratio(self) -> float:
        """0: always the same picture; 1: as far apart as renders. Varied flaws raise it, even above 1."""
        return self.generated / self.renders


def measure_diversity(
    sampler: Sampler, network: FeatureNetwork, seeds: int, truncation: float, on_progress: Callable[[int], None]
) -> Result:
    """The spread of each of CAPTIONS. Raises `CaptionError` if the model knows no word of one."""
    spreads = []
    for caption in CAPTIONS:
        spreads.append(measure_spread(caption, seeds, sampler, network, truncation))
        on_progress(len(spreads))
    values = [{**asdict(spread), "ratio": spread.ratio} for spread in spreads]
    rows = [(one.caption, *(f"{value:.2f}" for value in (one.generated, one.renders, one.ratio))) for one in spreads]
    return Result(
        {"diversity": {"features": network.name, "seeds": seeds, "captions": values}},
        f"{table(('caption', 'generated', 'renders', 'ratio'), rows)}\n\nMean distance in features between two "
        f"pictures of one caption: {seeds} seeds, and as many renders that fit the caption.",
    )


def measure_spread(
    caption: str, seeds: int, sampler: Sampler, network: FeatureNetwork, truncation: float = 1.0
) -> Spread:
    """Draws the caption with the seeds 0, 1, … and compares the pictures with as many fitting test renders."""
    sentence = sampler.encode([caption])
    parts = in_batches(range(seeds))
    generated = [sampler.draw(sentence.repeat(len(part), axis=0), part, truncation) for part in parts]
    renders = fitting_renders(caption, seeds, sampler.sizes.resolution)
    return Spread(
        caption,
        mean_distance(torch.cat([network(pixels) for pixels in generated])),
        mean_distance(torch.cat([network(pixels) for pixels in in_batches(renders)])),
    )


def fitting_renders(caption: str, count: int, resolution: int) -> Pixels:
    """The first `count` pictures of the test split that have the caption's attributes: uint8 (N, R, R, 3)."""
    asked = caption_attributes(caption)
    birds = SynthBirds("test", 10**6, resolution)
    fitting = (index for index in range(len(birds)) if fits(asked, visible_attributes(birds.attributes(index))))
    return np.stack([birds[index].image for index in islice(fitting, count)])


def mean_distance(features: Tensor) -> float:
    """The mean Euclidean distance over all pairs of `features` (N, width)."""
    return float(torch.pdist(features.double()).mean())
