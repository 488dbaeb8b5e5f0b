"""The grid of fixed captions and seeds by which one watches a generator learn."""

from collections.abc import Sequence
from pathlib import Path

import torch

from t2i_engine.latents import draw
from t2i_engine.pictures import Picture, grid
from t2i_engine.tokenizer import Tokenizer, pad
from training.models.generator import Generator
from training.models.pixels import to_pixels
from training.models.text_encoder import TextEncoder

SEEDS = range(8)


@torch.inference_mode()
def save_sample_grid(
    path: Path, captions: Sequence[str], tokenizer: Tokenizer, text_encoder: TextEncoder, generator: Generator
) -> None:
    """Draws every caption with the seeds 0 to 7, a row for each caption, into one PNG."""
    device = generator.fc.weight.device
    tokens, lengths = pad([tokenizer.encode(caption).ids for caption in captions])
    sentences = text_encoder(torch.from_numpy(tokens).to(device), torch.from_numpy(lengths)).sentence
    latents = draw(SEEDS, generator.fc.in_features, sentences.shape[1])
    noise, condition_noise = (torch.from_numpy(part).to(device) for part in (latents.noise, latents.condition_noise))
    pictures = []
    for caption, sentence in zip(captions, sentences, strict=True):
        drawn = generator(noise, sentence.expand(len(SEEDS), -1), condition_noise)
        pixels = to_pixels(drawn.image).cpu().numpy()
        pictures += [Picture(pixels[i], caption, seed, path.stem) for i, seed in enumerate(SEEDS)]
    grid(pictures, len(SEEDS)).save(path)
