"""Picture reference: how far a reduced precision's pictures are from fp32's own for the same captions and seeds.

Distances are shares of the way from a floor (fp32 in another runtime) to a ceiling (pictures of other seeds), both
measured on the model itself. Features are stored, not pictures, so that an engine is judged where nothing else can run.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import numpy.typing as npt

from t2i_engine.backends.base import Array, Runner
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BundleError
from t2i_engine.features import WIDTH, Distance, Features, describe, distance
from t2i_engine.formats import GENERATOR, PICTURE_SHARES, TEXT_ENCODER, Format
from t2i_engine.manifest import ModelSizes
from t2i_engine.parity import GATE, Finding, OpenFormat, RandomCaptions
from t2i_engine.reference import read_npz
from t2i_engine.sampler import generator_feeds

PICTURES = "pictures.npz"
CAPTIONS = 125
LONGEST = 18  # words per caption, as in data sets
CHECKED = 64  # pairs that the floor is measured on
PROBE = 0.02  # share of the way to another caption's sentence

_BATCH = 8
# Of a feature, a fifth of an energy: what hardly differs between pictures weighs no more, which ranks formats as
# Inception's features do (docs/export.md), and keeps the measure meaningful for pictures of noise.
_LEAST_SPREAD = 0.2


@dataclass(frozen=True)
class PictureReference:
    """N pairs: pair n draws caption n modulo C with seed n, and with seed N + n for the ceiling."""

    sentences: Array  # float32 (C, S), fp32's
    mean: Array  # float32 (D,), of fp32's features before they were standardised
    scale: Array  # float32 (D,)
    features: Array  # float16 (N, D), standardised
    others: Array  # float16 (N, D), of the other seeds
    floor: Array  # float64 (3,), a `Distance`
    sentence_reach: Array  # float64 (), how far a sentence must move to take a picture all the way, if that were linear

    @property
    def floor_share(self) -> float:
        """The worst pair of the floor, as a share of the mean ceiling."""
        return Distance(*self.floor.tolist()).worst / max(distance(self.others, self.features).mean, 1e-9)

    def shares(self, features: Features) -> Distance:
        """Where the pictures of the first n pairs, given by features (n, D), lie between floor (0) and ceiling (1)."""
        expected, others = self.features[: len(features)], self.others[: len(features)]
        found = distance(_standardised(features, self.mean, self.scale), expected)
        ways = zip(found, self.floor.tolist(), distance(others, expected), strict=True)
        return Distance(*(max(one - floor, 0.0) / max(top - floor, 1e-9) for one, floor, top in ways))

    def judge(self, opened: OpenFormat, sizes: ModelSizes, against: str, pairs: int = GATE.pairs) -> list[Finding]:
        """Draws the first `pairs` in a format, and gives a finding for each of `PICTURE_SHARES`.

        A runner that fails is a finding with an infinite difference.
        """
        row, count, failure = opened.row, min(pairs, len(self.features)), None
        shares = Distance(math.inf, math.inf, math.inf)
        try:
            shares = self.shares(draw_features(opened.runners[GENERATOR], sizes, self.sentences, range(count)))
        except Exception as error:  # whatever a runtime raises on a bad graph is a named failure, not a crash
            failure = " ".join(str(error).split())
        return [
            Finding(
                row.name,
                GENERATOR,
                name,
                against,
                share if math.isfinite(share) else math.inf,
                getattr(row.tolerance, name),
                f"{count:,} pairs of pictures",
                count,
                failure,
            )
            for name, share in zip(PICTURE_SHARES, shares, strict=True)
        ]

    def to_npz(self) -> bytes:
        """The file's content: the same bytes for the same arrays."""
        buffer = io.BytesIO()
        np.savez(buffer, **asdict(self))
        return buffer.getvalue()


def needed_picture_reference(bundle: Bundle, row: Format) -> PictureReference | None:
    """The reference that a format is judged by, if it needs one. Raises as `read_picture_reference` does."""
    return read_picture_reference(bundle) if row.judged_by_pictures else None


def sentence_reach(pictures: PictureReference | None) -> float:
    """The reach to compare sentences with; NaN without a picture reference, so that no reduced sentence passes."""
    return pictures.sentence_reach.item() if pictures else math.nan


def draw_features(generator: Runner, sizes: ModelSizes, sentences: Array, seeds: Sequence[int]) -> Features:
    """Draws pictures of the sentences, float32 (C, S), in turn, one per seed, and describes them: float32 (N, D)."""
    batches = []
    for first in range(0, len(seeds), _BATCH):
        some = seeds[first : first + _BATCH]
        turn = [number % len(sentences) for number in range(first, first + len(some))]
        feeds = generator_feeds(sizes, sentences[turn], some)
        batches.append(describe(generator.run(feeds, ["pixels"])["pixels"]))
    return np.concatenate(batches)


def make_picture_reference(
    fp32: Mapping[str, Runner], elsewhere: Mapping[str, Runner], sizes: ModelSizes, pairs: int
) -> PictureReference:
    """Draws `pairs` pictures of captions of random words, and as many with other seeds, using the `fp32` runners.

    `elsewhere` is another runtime's fp32, which draws the first `CHECKED` for the floor.
    """
    captions = RandomCaptions(sizes.vocabulary_size, LONGEST)
    texts = [captions.draw(1, 1 + number % LONGEST) for number in range(min(CAPTIONS, pairs))]
    encoder, generator = fp32[TEXT_ENCODER], fp32[GENERATOR]
    encoded = [
        encoder.run({"tokens": tokens, "lengths": lengths}, ["sentence"])["sentence"] for tokens, lengths in texts
    ]
    sentences = np.concatenate(encoded)
    drawn = draw_features(generator, sizes, sentences, range(pairs))
    mean, scale = drawn.mean(axis=0), np.hypot(drawn.std(axis=0), _LEAST_SPREAD).astype(np.float32)

    def standardised(drawn: Features) -> npt.NDArray[np.float16]:
        return _standardised(drawn, mean, scale)

    features = standardised(drawn)
    others = standardised(draw_features(generator, sizes, sentences, range(pairs, 2 * pairs)))
    checked = standardised(draw_features(elsewhere[GENERATOR], sizes, sentences, range(min(CHECKED, pairs))))
    floor = distance(checked, features[: len(checked)])

    step = PROBE * (np.roll(sentences, 1, axis=0) - sentences)
    moved = standardised(draw_features(generator, sizes, sentences + step, range(len(sentences))))
    way = distance(moved, features[: len(moved)]).mean / max(distance(others, features).mean, 1e-9)
    reach = np.linalg.norm(step, axis=1).mean() / max(way, 1e-9)
    return PictureReference(
        sentences, mean, scale, features, others, np.array(floor, np.float64), np.array(reach, np.float64)
    )


def read_picture_reference(bundle: Bundle) -> PictureReference:
    """Reads a bundle's picture reference. Raises `BundleError` if it is missing, altered, or not this model's."""
    if PICTURES not in bundle.manifest.files:
        raise BundleError(f"bundle {bundle.name!r} has no {PICTURES} to judge reduced precision by; export it again")
    path = bundle.path(PICTURES)
    reference = read_npz(path, PictureReference, "a picture reference")
    pairs, captions = (array.shape[0] if array.ndim else 0 for array in (reference.features, reference.sentences))
    expected = {
        "sentences": (captions, bundle.sizes.sentence_width),
        "mean": (WIDTH,),
        "scale": (WIDTH,),
        "features": (pairs, WIDTH),
        "others": (pairs, WIDTH),
        "floor": (len(PICTURE_SHARES),),
        "sentence_reach": (),
    }
    found = {field.name: getattr(reference, field.name) for field in fields(reference)}
    fits = all(found[name].shape == shape and found[name].dtype.kind == "f" for name, shape in expected.items())
    if not fits or pairs < 2 or not captions or not all(np.isfinite(array).all() for array in found.values()):
        raise BundleError(f"{path} belongs to another model or version; export the bundle again")
    return reference


def _standardised(features: Features, mean: Array, scale: Array) -> npt.NDArray[np.float16]:
    """Features (N, D) in units of their spread over fp32's pictures, rounded as they will be stored."""
    return ((features - mean) / scale).astype(np.float16)
