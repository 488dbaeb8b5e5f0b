"""Parity: how far a format is from PyTorch in fp32. What is compared, on which cases, and what passes.

Runtime and exporter share this module, to which PyTorch is one more `Runner`. Tolerances are in the table of formats.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from t2i_engine.backends import find_backend
from t2i_engine.backends.base import Array, Runner
from t2i_engine.bundle import Bundle
from t2i_engine.formats import GENERATOR, PICTURE_SHARES, PSNR, SENTENCE_SHARE, TEXT_ENCODER, Differences, Format, meets
from t2i_engine.manifest import ModelSizes, Parity
from t2i_engine.sampler import generator_feeds
from t2i_engine.table import aligned

CPU = "cpu"  # the device that every machine has: a format that runs there is verified there


@dataclass(frozen=True)
class GateSize:
    """How much is compared: `rounds` of one batch of pictures of each size, and captions of 1 to `longest` words.

    Reduced precision is judged by `pairs` of pictures; what runs in an emulator, by the first `emulated` pairs.
    """

    rounds: int = 12
    longest: int = 64
    batches: tuple[int, ...] = (1, 2, 7)
    pairs: int = 1000
    emulated: int = 64


GATE = GateSize()
"""The gate of an export: 192 batches of captions, and 120 pictures, each with a seed of its own."""

MEDIAN_PSNR = "median psnr"
"""The median over pictures of the PSNR of their pixels, in dB: reported, not judged."""

_SHARES = (SENTENCE_SHARE, *PICTURE_SHARES)


@dataclass(frozen=True)
class Case:
    """Inputs of one graph, and PyTorch's outputs for them, by name."""

    graph: str
    name: str
    feeds: Mapping[str, Array]
    expected: Mapping[str, Array]


@dataclass(frozen=True)
class Finding:
    """By how much one output of a format differs: in the worst case, or over all pictures together."""

    format: str
    graph: str
    output: str  # a field of `Differences`, or `MEDIAN_PSNR`
    against: str  # PyTorch here, the bundle's reference, or fp32's pictures
    difference: float  # the largest, or the lowest psnr; infinite for a failure, NaN, a wrong shape or dtype
    allowed: float | None  # None: anything finite
    case: str
    cases: int  # how many were compared
    failure: str | None = None  # why the runner failed, if it did

    @property
    def shown(self) -> str:
        """The difference as readable text."""
        return _shown(self.output, self.difference)

    @property
    def limit(self) -> str:
        """The tolerance as readable text."""
        return "any" if self.allowed is None else _shown(self.output, self.allowed)

    @property
    def ok(self) -> bool:
        """Whether the difference is within the format's tolerance."""
        if self.allowed is None:
            return math.isfinite(self.difference)
        return meets(self.output, self.difference, self.allowed)

    def __str__(self) -> str:
        where = f"format {self.format}, graph {self.graph}, output {self.output}"
        kind = "psnr" if self.output == PSNR else "difference"
        found = f"worst {kind} from {self.against} {self.shown}, {self.limit} allowed, in {self.case}"
        if self.output in _SHARES:
            found = f"{self.shown} of the way from {self.against} to others, {self.limit} allowed, in {self.case}"
        if self.failure:
            return f"{where}: {found} ({self.failure})"
        return f"{where}: {found}" + ("" if math.isfinite(self.difference) else " (NaN, or another shape or dtype)")


@dataclass(frozen=True)
class OpenFormat:
    """A format with a runner per graph."""

    row: Format
    runners: Mapping[str, Runner]

    @classmethod
    def open(cls, bundle: Bundle, row: Format) -> "OpenFormat":
        """Opens the bundle's graphs as an `Engine` does. Raises a `UserError` if that fails."""
        open_runner, device = find_backend(row.backend).open_runner, verification_device(row)
        return cls(row, {graph: open_runner(bundle, row, graph, device, None) for graph in row.files})


def verification_device(row: Format) -> str:
    """Where a format is compared with PyTorch: on the CPU if it runs there."""
    return CPU if CPU in row.devices else row.devices[0]


def gate_cases(pytorch: Mapping[str, Runner], sizes: ModelSizes, size: GateSize = GATE) -> Iterator[Case]:
    """Cases for both graphs, always the same for the same sizes; `pytorch` runs the model's graphs in PyTorch."""
    captions = RandomCaptions(sizes.vocabulary_size, size.longest)
    for length in range(1, size.longest + 1):
        for batch in size.batches:
            yield sentence_case(pytorch, *captions.draw(batch, length))
    captions = RandomCaptions(sizes.vocabulary_size, size.longest)
    first_seed = 0
    for number in range(size.rounds):
        for batch in size.batches:
            sentences = sentence_case(pytorch, *captions.draw(batch, number + 1)).expected["sentence"]
            yield picture_case(pytorch, sizes, sentences, range(first_seed, first_seed + batch))
            first_seed += batch


def sentence_case(pytorch: Mapping[str, Runner], tokens: Array, lengths: Array) -> Case:
    """Encodes `tokens` int64 (B, T) with `lengths` int64 (B)."""
    name = f"batch {len(lengths)} of lengths {', '.join(map(str, lengths))}"
    feeds = {"tokens": tokens, "lengths": lengths}
    return Case(TEXT_ENCODER, name, feeds, pytorch[TEXT_ENCODER].run(feeds, ["sentence"]))


def picture_case(pytorch: Mapping[str, Runner], sizes: ModelSizes, sentences: Array, seeds: Sequence[int]) -> Case:
    """Draws one picture per row of `sentences` float32 (B, S) and seed."""
    name = f"batch {len(seeds)} of seeds {', '.join(map(str, seeds))}"
    feeds = generator_feeds(sizes, sentences, seeds)
    return Case(GENERATOR, name, feeds, pytorch[GENERATOR].run(feeds, ["image", "pixels"]))


class RandomCaptions:
    """Random token ids that use every word once before repeating any, padded with words instead of zeros.

    A graph that reads past a caption's end then gives itself away.
    """

    def __init__(self, vocabulary_size: int, longest: int) -> None:
        self._random = np.random.default_rng(0)
        self._words = self._random.permutation(np.arange(1, vocabulary_size))
        self._next = 0
        self._longest = longest

    def draw(self, batch: int, length: int) -> tuple[Array, Array]:
        """Tokens int64 (batch, T) and lengths int64 (batch): the first is `length`, the others are random."""
        lengths = self._random.integers(1, self._longest + 1, batch)
        lengths[0] = min(length, self._longest)
        width = min(int(lengths.max()) + int(self._random.integers(0, 4)), self._longest)
        tokens = np.take(self._words, np.arange(self._next, self._next + batch * width), mode="wrap")
        self._next += batch * width
        return tokens.reshape(batch, width), lengths


def compare(
    formats: Sequence[OpenFormat],
    cases: Iterable[Case],
    against: str,
    sentence_reach: float = math.nan,
    with_median: bool = False,
) -> list[Finding]:
    """Runs every case through every format; returns the worst case of each output and, `with_median`, `MEDIAN_PSNR`.

    Formats whose sentences are limited by their effect on pictures fail without the `sentence_reach` of a
    `PictureReference`.
    """
    worst: dict[str, dict[str, Finding]] = {opened.row.name: {} for opened in formats}
    ratios: dict[str, list[Array]] = {opened.row.name: [] for opened in formats}
    pictures = 0
    for case in cases:
        pictures += len(case.expected.get("pixels", ()))
        for opened in formats:
            name, tolerance, failure = opened.row.name, opened.row.tolerance, None
            found: Mapping[str, Array] = {}
            try:
                found = opened.runners[case.graph].run(case.feeds, list(case.expected))
            except Exception as error:  # whatever a runtime raises on a bad graph is a named failure, not a crash
                failure = " ".join(str(error).split())
            for output, difference in _differences(found, case.expected, tolerance, sentence_reach):
                allowed = getattr(tolerance, output)
                one = Finding(name, case.graph, output, against, difference, allowed, case.name, 1, failure)
                worst[name][output] = _worse(worst[name].get(output), one)
            if with_median and _comparable(found, case.expected, "pixels"):
                ratios[name].append(psnr(found["pixels"], case.expected["pixels"], peak=255))
    findings: list[Finding] = []
    for name, outputs in worst.items():
        findings += outputs.values()
        if with_median:
            median = float(np.median(np.concatenate(ratios[name]))) if ratios[name] else math.nan
            findings.append(Finding(name, GENERATOR, MEDIAN_PSNR, against, median, None, "all pictures", pictures))
    return findings


def as_parity(findings: Sequence[Finding], row: Format) -> Parity:
    """The manifest's entry for a format, from its findings, which must all be finite."""
    found: dict[str, Finding] = {}
    for one in findings:
        if one.format == row.name:
            found[one.output] = _worse(found.get(one.output), one)
    differences = {output: one.difference for output, one in found.items()}
    return Parity(
        Differences(
            differences["sentence"],
            differences["image"],
            int(differences["pixels"]),
            *(differences.get(name) for name in (PSNR, *_SHARES)),
        ),
        row.tolerance,
        found["sentence"].cases + found["image"].cases,
    )


def as_table(findings: Iterable[Finding]) -> list[str]:
    """The findings as lines for the terminal, under a header."""
    rows = [("format", "output", "against", "worst", "allowed", "cases", "")]
    for found in findings:
        verdict = "ok" if found.ok else "FAILED"
        rows.append((found.format, found.output, found.against, found.shown, found.limit, str(found.cases), verdict))
    return aligned(rows)


def psnr(found: Array, expected: Array, peak: float = 2) -> Array:
    """The peak signal-to-noise ratio of each picture of a batch in dB, float64 (B,); values span `peak`.

    Equal pictures count as 200 dB.
    """
    squares = np.square(found.astype(np.float64) - expected.astype(np.float64)).mean(axis=(1, 2, 3))
    return np.asarray(10 * np.log10(peak**2 / np.maximum(squares, 1e-20 * peak**2)))


def _shown(output: str, value: float) -> str:
    if output in _SHARES:
        return f"{100 * value:,.{2 if value < 0.01 else 0 if value >= 1 else 1}f} %"
    return f"{value:.3g}"


def _differences(
    found: Mapping[str, Array], expected: Mapping[str, Array], tolerance: Differences, sentence_reach: float
) -> Iterator[tuple[str, float]]:
    """The largest difference of each output, and what else the tolerance needs; infinite if not comparable."""
    for output, array in expected.items():
        largest = furthest = math.nan
        if _comparable(found, expected, output):
            differences = np.abs(found[output].astype(np.float64) - array.astype(np.float64))
            largest = float(np.max(differences, initial=0.0))
            furthest = float(np.linalg.norm(differences.reshape(len(array), -1), axis=1).max(initial=0.0))
        yield output, _finite(largest)
        if output == "sentence" and tolerance.sentence_share is not None:
            yield SENTENCE_SHARE, _finite(furthest / sentence_reach)
    if tolerance.psnr is not None and "image" in expected:
        comparable = _comparable(found, expected, "image")
        yield PSNR, -_finite(-float(psnr(found["image"], expected["image"]).min()) if comparable else math.nan)


def _finite(difference: float) -> float:
    return math.inf if math.isnan(difference) else difference


def _comparable(found: Mapping[str, Array], expected: Mapping[str, Array], output: str) -> bool:
    if output not in found or output not in expected:
        return False
    return found[output].shape == expected[output].shape and found[output].dtype == expected[output].dtype


def _worse(first: Finding | None, second: Finding) -> Finding:
    if first is None:
        return second
    sign = -1 if second.output == PSNR else 1
    worse = max(first, second, key=lambda found: sign * found.difference)
    return replace(worse, cases=first.cases + second.cases)
