"""Engine: an opened bundle that turns captions into pictures."""

import logging
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np

from t2i_engine import latents
from t2i_engine.backend_selection import AUTO, BackendSelection, select_backend, selectable
from t2i_engine.backends import find_backend
from t2i_engine.backends.base import Runner
from t2i_engine.bundle import Bundle
from t2i_engine.errors import CaptionError, OptionError, listed, quoted
from t2i_engine.formats import GENERATOR, TEXT_ENCODER
from t2i_engine.pictures import Picture, Strip
from t2i_engine.sampler import Sampler, latent_feeds
from t2i_engine.speed import fastest_first
from t2i_engine.tokenizer import Tokens

DEFAULT_BUNDLE = "birds"
MANY = 1_000_000
"""What to `expect` for a caller that does not know how many pictures it will draw, such as a server."""
BATCH_SIZE = 16
"""The default number of pictures drawn at once; every backend can draw as many."""
LARGEST_BATCH = 1024
MOST_THREADS = 1024
MOST_STEPS = 256

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine(Sampler):
    """A bundle opened with the backend, and on the device, that `selection` names.

    A context manager: `close` frees what the backend holds. Thread-safe: calls from several threads draw the same
    pictures as one call at a time.
    """

    bundle: Bundle
    selection: BackendSelection
    _resources: ExitStack = field(default_factory=ExitStack, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        name_or_folder: str | Path = DEFAULT_BUNDLE,
        backend: str = AUTO,
        precision: str = AUTO,
        device: str = AUTO,
        threads: int | None = None,
        expect: int = 1,
        exact_words: bool = False,
    ) -> "Engine":
        """Opens a bundle as `Bundle.open` does; `threads` are CPU threads per run, by default one per processor.

        `expect` is the number of pictures the caller expects to draw: on a CPU, `auto` chooses the format that draws
        that many soonest, opening included. Formats are timed on first use, in a few seconds each (speed.py).

        Unknown words that the bundle lists are read as known words near in meaning, and misspellings are corrected;
        with `exact_words`, all unknown words are left out. Raises a `UserError` if anything requested is unavailable.
        """
        bundle, selection = cls.select(name_or_folder, backend, precision, device, threads, expect)
        open_runner = find_backend(selection.format.backend).open_runner
        tokenizer = bundle.tokenizer(exact_words)
        with ExitStack() as opened:

            def open_graph(graph: str) -> Runner:
                runner = open_runner(bundle, selection.format, graph, selection.device, threads)
                opened.callback(getattr(runner, "close", lambda: None))
                return runner

            text_encoder, generator = open_graph(TEXT_ENCODER), open_graph(GENERATOR)
            return cls(bundle.sizes, tokenizer, text_encoder, generator, bundle, selection, opened.pop_all())

    @staticmethod
    def select(
        name_or_folder: str | Path, backend: str, precision: str, device: str, threads: int | None, expect: int
    ) -> tuple[Bundle, BackendSelection]:
        """The bundle, and the selection that `open` would make; raises what `open` raises."""
        if expect < 1:
            raise OptionError(f"{expect} pictures are too few to expect; 1 or more expected")
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise OptionError(f"{threads} threads are out of range; 1 to {MOST_THREADS} expected")
        bundle = Bundle.open(name_or_folder)
        rows = selectable(bundle, precision) if backend == AUTO else bundle.formats
        order = partial(fastest_first, bundle, pictures=expect, threads=threads)
        return bundle, select_backend(rows, backend, precision, device, shlex.quote(str(name_or_folder)), order)

    def generate(self, caption: str, seed: int = 0, truncation: float = 1.0) -> Picture:
        """Draws one picture; raises what `generate_all` raises."""
        return next(self.generate_all([caption], [seed], truncation))

    def generate_all(
        self,
        captions: Iterable[str],
        seeds: Iterable[int],
        truncation: float = 1.0,
        batch_size: int = BATCH_SIZE,
        skip_unknown: bool = False,
    ) -> Iterator[Picture]:
        """Draws each caption once per seed, lazily and in that order.

        In a batch of a different size, a few values of a picture may differ by one level of 255.

        Raises `CaptionError` for a caption that is empty, too long or without a known word, and `OptionError` for an
        argument that is out of range, both before the first picture. While drawing, raises `BackendError` if memory
        runs out, or if a batch or caption is too large for a TensorRT engine. With `skip_unknown`, captions without a
        known word are skipped, as long as one is left. Unknown words in the other captions are left out. Skipped
        captions, words left out and words read as others are logged.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        seeds = [latents.check_seed(seed) for seed in seeds]
        latents.check_truncation(truncation)
        if not captions or not seeds:
            raise OptionError("at least one caption and one seed are needed")
        if not 1 <= batch_size <= LARGEST_BATCH:
            raise OptionError(f"batch size {batch_size} is out of range; 1 to {LARGEST_BATCH} expected")
        return self._draw_all(self._tokenize(captions, skip_unknown), seeds, truncation, batch_size)

    def interpolate(
        self, captions: tuple[str, str], seeds: tuple[int, int], steps: int = 8, truncation: float = 1.0
    ) -> Strip:
        """Draws `steps` pictures from the first caption and seed to the second, inclusive.

        Sentence vectors are interpolated linearly, noise spherically. Raises what `generate_all` raises.
        """
        if not 2 <= steps <= MOST_STEPS:
            raise OptionError(f"{steps} steps are out of range; 2 to {MOST_STEPS} expected")
        first, last = (self.encode_tokens([tokens.ids])[0] for _, tokens in self._tokenize(captions, False))
        share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
        sentences = (1 - share) * first + share * last
        widths = self.sizes.noise_width, self.sizes.sentence_width
        drawn = latents.between(*seeds, steps, *widths, truncation)
        feeds = latent_feeds(self.sizes, sentences, drawn)
        batches = [
            self.generator.run({name: feed[first : first + BATCH_SIZE] for name, feed in feeds.items()}, ["pixels"])
            for first in range(0, steps, BATCH_SIZE)
        ]
        return Strip(
            np.concatenate([batch["pixels"] for batch in batches]), captions, seeds, self.bundle.name, truncation
        )

    def close(self) -> None:
        """Frees what the backend holds, such as GPU memory; the engine cannot draw afterwards."""
        self._resources.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tokenize(self, captions: Sequence[str], skip_unknown: bool) -> list[tuple[str, Tokens]]:
        encoded: list[tuple[str, Tokens]] = []
        skipped: list[CaptionError] = []
        for caption in captions:
            try:
                encoded.append((caption, self.tokenizer.encode(caption)))
            except CaptionError as error:
                if not skip_unknown:
                    raise
                skipped.append(error)
        if not encoded:
            raise skipped[0]
        for word, known in dict.fromkeys(pair for _, tokens in encoded for pair in tokens.read_as):
            _log.info("read %s as %r", quoted(word, 40), known)
        for caption, tokens in encoded:
            if tokens.unknown:
                words = listed(map(self._described, tokens.unknown[:5]))
                more = f" and {len(tokens.unknown) - 5} more" if len(tokens.unknown) > 5 else ""
                _log.warning("caption %s: left out unknown words: %s%s", quoted(caption), words, more)
        for left_out in skipped:
            _log.warning("skipped: %s", left_out.message)
        return encoded

    def _draw_all(
        self, encoded: Iterable[tuple[str, Tokens]], seeds: Sequence[int], truncation: float, batch_size: int
    ) -> Iterator[Picture]:
        requests = (
            (caption, tokens, sentence, seed)
            for caption, tokens in encoded
            for sentence in self.encode_tokens([tokens.ids])
            for seed in seeds
        )
        start = time.perf_counter()
        while batch := list(islice(requests, batch_size)):
            texts, read, sentences, drawn = zip(*batch, strict=True)
            pixels = self.draw(np.stack(sentences), drawn, truncation)
            milliseconds = (time.perf_counter() - start) * 1000 / len(batch)
            for image, caption, seed, tokens in zip(pixels, texts, drawn, read, strict=True):
                words = tokens.unknown, tokens.read_as
                yield Picture(image, caption, seed, self.bundle.name, *words, milliseconds, truncation)
            start = time.perf_counter()

    def _described(self, word: str) -> str:
        nearest = self.tokenizer.nearest(word, 1)
        return f"{quoted(word, 40)} (nearest known: {nearest[0]})" if nearest else quoted(word, 40)
