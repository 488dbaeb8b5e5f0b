"""Sampler: captions to sentence vectors, and sentence vectors to pixels. Everything that draws goes through it."""

from collections.abc import Sequence
from dataclasses import dataclass

from t2i_engine import latents
from t2i_engine.backends.base import Array, Runner
from t2i_engine.manifest import ModelSizes
from t2i_engine.tokenizer import Tokenizer, pad


@dataclass(frozen=True)
class Sampler:
    """A text encoder and a generator, on any backend: an `Engine`'s, or networks that are being trained.

    May be used from several threads at once.
    """

    sizes: ModelSizes
    tokenizer: Tokenizer
    text_encoder: Runner
    generator: Runner

    def encode(self, captions: Sequence[str]) -> Array:
        """Sentence vectors of captions, float32 (B, S); unknown words are read as near ones, or else left out.

        Raises `CaptionError` for a caption that is empty, too long or without a known word.
        """
        return self.encode_tokens([self.tokenizer.encode(caption).ids for caption in captions])

    def encode_tokens(self, ids: Sequence[Sequence[int]]) -> Array:
        """Sentence vectors of tokenized captions, float32 (B, S)."""
        return self.text_encoder.run(text_encoder_feeds(ids), ["sentence"])["sentence"]

    def draw(self, sentences: Array, seeds: Sequence[int], truncation: float = 1.0) -> Array:
        """Draws one picture per sentence vector, float32 (B, S), and seed: pixels uint8 (B, R, R, 3).

        Raises `OptionError` for a seed or a truncation that is out of range.
        """
        feeds = generator_feeds(self.sizes, sentences, seeds, truncation)
        return self.generator.run(feeds, ["pixels"])["pixels"]


def text_encoder_feeds(ids: Sequence[Sequence[int]]) -> dict[str, Array]:
    """The text encoder's inputs for tokenized captions."""
    tokens, lengths = pad(ids)
    return {"tokens": tokens, "lengths": lengths}


def generator_feeds(
    sizes: ModelSizes, sentences: Array, seeds: Sequence[int], truncation: float = 1.0
) -> dict[str, Array]:
    """The generator's inputs for one picture per sentence vector, float32 (B, S), and seed."""
    return latent_feeds(sizes, sentences, latents.draw(seeds, sizes.noise_width, sizes.sentence_width, truncation))


def latent_feeds(sizes: ModelSizes, sentences: Array, drawn: latents.Latents) -> dict[str, Array]:
    """The generator's inputs for one picture per sentence vector, float32 (B, S), and row of noise."""
    feeds = {"noise": drawn.noise, "sentence": sentences}
    if sizes.conditioning_augmentation:
        feeds["condition_noise"] = drawn.condition_noise
    return feeds
