"""Networks in training, or of a checkpoint, as a `Sampler`; and the sample grid that shows their progress."""

from collections.abc import Sequence

from t2i_engine.backends.pytorch import ModuleRunner
from t2i_engine.formats import GENERATOR, TEXT_ENCODER
from t2i_engine.manifest import ModelSizes, graphs_of
from t2i_engine.pictures import Grid, Picture, grid
from t2i_engine.sampler import Sampler
from t2i_engine.tokenizer import Tokenizer
from training.models.generator import Generator
from training.models.text_encoder import TextEncoder

SEEDS = range(8)


def network_sampler(
    sizes: ModelSizes, tokenizer: Tokenizer, text_encoder: TextEncoder, generator: Generator
) -> Sampler:
    """Draws with networks as they are at each call; both are in evaluation mode then."""
    graphs = graphs_of(sizes)
    return Sampler(
        sizes, tokenizer, ModuleRunner(text_encoder, graphs[TEXT_ENCODER]), ModuleRunner(generator, graphs[GENERATOR])
    )


def sample_grid(captions: Sequence[str], sampler: Sampler, name: str) -> Grid:
    """Draws every caption with the seeds 0 to 7, a row for each caption; `name` goes where a bundle's would."""
    pictures = []
    for caption in captions:
        pixels = sampler.draw(sampler.encode([caption]).repeat(len(SEEDS), axis=0), SEEDS)
        pictures += [Picture(pixels[i], caption, seed, name) for i, seed in enumerate(SEEDS)]
    return grid(pictures, len(SEEDS))
