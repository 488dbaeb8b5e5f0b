"""The gate's cases: captions of every length, in batches, with many seeds, and what PyTorch makes of them in fp32."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from t2i_engine.backends.base import Array
from t2i_engine.formats import GENERATOR, TEXT_ENCODER
from t2i_engine.latents import draw
from t2i_engine.parity import Case
from training.models.text_to_image import TextToImage

LONGEST = 64
BATCHES = (1, 2, 7)
ROUNDS = 12  # of one batch of each size: 120 pictures, each with a seed of its own


def gate_cases(model: TextToImage) -> Iterator[Case]:
    """Cases for both graphs; the same ones for the same sizes. The model is on the CPU, in evaluation mode."""
    with one_thread():
        yield from _sentence_cases(model)
        yield from _image_cases(model)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: sums have one order on every machine, and cores that others use are not waited for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def sentence_case(model: TextToImage, tokens: Array, lengths: Array) -> Case:
    """Encodes `tokens` int64 (B, T) with `lengths` int64 (B)."""
    with torch.inference_mode():
        sentence = model.text_encoder(torch.from_numpy(tokens), torch.from_numpy(lengths)).sentence
    name = f"batch {len(lengths)} of lengths {', '.join(map(str, lengths))}"
    return Case(TEXT_ENCODER, name, {"tokens": tokens, "lengths": lengths}, {"sentence": sentence.numpy()})


def image_case(model: TextToImage, sentence: Array, seeds: Sequence[int]) -> Case:
    """Draws one picture per row of `sentence` float32 (B, S) and seed."""
    feeds = image_feeds(model, sentence, seeds)
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(np.ascontiguousarray(feed)) for name, feed in feeds.items()}
        image = model.generator(**tensors).image.numpy()
    name = f"batch {len(seeds)} of seeds {', '.join(map(str, seeds))}"
    return Case(GENERATOR, name, feeds, {"image": image, "pixels": pixels(image)})


def image_feeds(model: TextToImage, sentence: Array, seeds: Sequence[int]) -> dict[str, Array]:
    """What the generator takes for one picture per row of `sentence` float32 (B, S) and seed."""
    drawn = draw(seeds, model.sizes.noise_width, model.sizes.sentence_width)
    feeds = {"noise": drawn.noise, "sentence": sentence}
    if model.sizes.conditioning_augmentation:
        feeds["condition_noise"] = drawn.condition_noise
    return feeds


def pixels(image: Array) -> Array:
    """The pixels of an image float32 (B, 3, R, R): uint8 (B, R, R, 3), rounded half to even."""
    levels = np.rint((np.clip(image, -1, 1) + 1) * np.float32(127.5))
    return np.ascontiguousarray(np.nan_to_num(levels).astype(np.uint8).transpose(0, 2, 3, 1))


def _sentence_cases(model: TextToImage) -> Iterator[Case]:
    captions = _Captions(model.sizes.vocabulary_size)
    for length in range(1, LONGEST + 1):
        for batch in BATCHES:
            yield sentence_case(model, *captions.draw(batch, length))


def _image_cases(model: TextToImage) -> Iterator[Case]:
    captions = _Captions(model.sizes.vocabulary_size)
    first_seed = 0
    for number in range(ROUNDS):
        for batch in BATCHES:
            sentences = sentence_case(model, *captions.draw(batch, number + 1)).expected["sentence"]
            yield image_case(model, sentences, range(first_seed, first_seed + batch))
            first_seed += batch


class _Captions:
    """Draws token ids so that every word comes up before any comes again, with words, not zeros, as padding.

    A graph that reads past a caption's end then shows it.
    """

    def __init__(self, vocabulary_size: int) -> None:
        self._random = np.random.default_rng(0)
        self._words = self._random.permutation(np.arange(1, vocabulary_size))
        self._next = 0

    def draw(self, batch: int, length: int) -> tuple[Array, Array]:
        """Tokens int64 (batch, T) and lengths int64 (batch): the first caption has `length` words, the others any."""
        lengths = self._random.integers(1, LONGEST + 1, batch)
        lengths[0] = length
        width = min(int(lengths.max()) + int(self._random.integers(0, 4)), LONGEST)
        tokens = np.take(self._words, np.arange(self._next, self._next + batch * width), mode="wrap")
        self._next += batch * width
        return tokens.reshape(batch, width), lengths
