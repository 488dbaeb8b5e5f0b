"""Engine: captions to pictures."""

import logging
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t2i_engine import latents
from t2i_engine.backend_selection import AUTO, BackendSelection, choose, startable
from t2i_engine.backends.base import Array, Runner
from t2i_engine.bundle import Bundle
from t2i_engine.errors import OptionError, listed, quoted
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, load
from t2i_engine.pictures import Picture
from t2i_engine.tokenizer import Tokenizer, Tokens, pad

DEFAULT_BUNDLE = "birds"
LARGEST_BATCH = 1024
MOST_THREADS = 1024

_log = logging.getLogger(__name__)


class _Request(NamedTuple):
    """One picture to draw; `sentence` is float32 (1, S)."""

    caption: str
    unknown: tuple[str, ...]
    sentence: Array
    seed: int


@dataclass(frozen=True)
class Engine:
    """A bundle, opened with the backend and on the device that `selection` names."""

    bundle: Bundle
    selection: BackendSelection
    tokenizer: Tokenizer
    text_encoder: Runner
    generator: Runner

    @classmethod
    def open(
        cls,
        name_or_folder: str | Path = DEFAULT_BUNDLE,
        backend: str = AUTO,
        precision: str = AUTO,
        device: str = AUTO,
        threads: int | None = None,
    ) -> "Engine":
        """Opens a bundle by name or folder; raises a `UserError` where something that was asked for cannot be had."""
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise OptionError(f"{threads} threads are out of range; 1 to {MOST_THREADS} expected")
        bundle = Bundle.open(name_or_folder)
        rows = startable(bundle) if backend == AUTO else bundle.formats
        selection = choose(rows, backend, precision, device, shlex.quote(str(name_or_folder)))
        open_runner = load(selection.format.opener)
        text_encoder, generator = (
            open_runner(bundle, selection.format, graph, selection.device, threads)
            for graph in (TEXT_ENCODER, GENERATOR)
        )
        return cls(bundle, selection, bundle.tokenizer(), text_encoder, generator)

    def generate(self, caption: str, seed: int = 0, truncation: float = 1.0) -> Picture:
        """Draws one picture; `generate_all` says what is raised."""
        return next(self.generate_all([caption], [seed], truncation))

    def generate_all(
        self, captions: Iterable[str], seeds: Iterable[int], truncation: float = 1.0, batch_size: int = 16
    ) -> Iterator[Picture]:
        """Draws each caption once per seed, lazily and in that order; a picture does not depend on its batch.

        Everything is checked before the first picture: raises `CaptionError` for a caption that is empty, too long or
        without a known word, and `OptionError` for what is out of range. Other unknown words are left out and logged.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        seeds = [latents.check_seed(seed) for seed in seeds]
        latents.check_truncation(truncation)
        if not captions or not seeds:
            raise OptionError("at least one caption and one seed are needed")
        if not 1 <= batch_size <= LARGEST_BATCH:
            raise OptionError(f"batch size {batch_size} is out of range; 1 to {LARGEST_BATCH} expected")
        encoded = [(caption, self.tokenizer.encode(caption)) for caption in captions]
        for caption, tokens in encoded:
            self._warn_of_unknown_words(caption, tokens)
        return self._draw_all(encoded, seeds, truncation, batch_size)

    def draw(self, sentences: Array, seeds: Sequence[int], truncation: float = 1.0) -> Array:
        """Draws one picture for each sentence, float32 (B, S), and its seed, all at once: pixels uint8 (B, R, R, 3)."""
        sizes = self.bundle.sizes
        drawn = latents.draw(seeds, sizes.noise_width, sizes.sentence_width, truncation)
        feeds = {"noise": drawn.noise, "sentence": sentences}
        if sizes.conditioning_augmentation:
            feeds["condition_noise"] = drawn.condition_noise
        return self.generator.run(feeds, ["pixels"])["pixels"]

    def _draw_all(
        self, encoded: Iterable[tuple[str, Tokens]], seeds: Sequence[int], truncation: float, batch_size: int
    ) -> Iterator[Picture]:
        requests = (
            _Request(caption, tokens.unknown, sentence, seed)
            for caption, tokens in encoded
            for sentence in [self._sentence(tokens)]
            for seed in seeds
        )
        start = time.perf_counter()
        while batch := list(islice(requests, batch_size)):
            pixels = self._draw(batch, truncation)
            milliseconds = (time.perf_counter() - start) * 1000 / len(batch)
            for request, image in zip(batch, pixels, strict=True):
                yield Picture(
                    image, request.caption, request.seed, self.bundle.name, request.unknown, milliseconds, truncation
                )
            start = time.perf_counter()

    def _sentence(self, tokens: Tokens) -> Array:
        ids, lengths = pad([tokens.ids])
        return self.text_encoder.run({"tokens": ids, "lengths": lengths}, ["sentence"])["sentence"]

    def _draw(self, batch: Sequence[_Request], truncation: float) -> Array:
        sentences = np.concatenate([request.sentence for request in batch])
        return self.draw(sentences, [request.seed for request in batch], truncation)

    def _warn_of_unknown_words(self, caption: str, tokens: Tokens) -> None:
        if not tokens.unknown:
            return
        words = [self._described(word) for word in tokens.unknown[:5]]
        more = len(tokens.unknown) - len(words)
        also = f" and {more} more" if more else ""
        _log.warning("caption %s: left out unknown words: %s%s", quoted(caption), listed(words), also)

    def _described(self, word: str) -> str:
        nearest = self.tokenizer.nearest(word, 1)
        return f"{quoted(word, 40)} (nearest known: {nearest[0]})" if nearest else quoted(word, 40)
