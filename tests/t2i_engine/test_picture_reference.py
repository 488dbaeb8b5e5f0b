"""The judge of reduced precision: pictures as good as fp32's pass, worse ones are refused, even if only three are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from t2i_engine.backends.base import Array, Runner
from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.errors import BundleError
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, find
from t2i_engine.manifest import FileEntry, Manifest
from t2i_engine.parity import Finding, OpenFormat, compare, sentence_case
from t2i_engine.picture_reference import (
    PICTURES,
    PictureReference,
    make_picture_reference,
    read_picture_reference,
)
from tests.t2i_engine.painters import Encoder, Painter, paint
from tests.tiny_model import SIZES, WORDS

PAIRS = 1000
FP16, INT8 = find("onnx-fp16"), find("openvino-int8")


@pytest.fixture(scope="module")
def reference() -> PictureReference:
    return make_picture_reference(paint(), paint(), SIZES, PAIRS)


def judged(reference: PictureReference, generator: Runner, pairs: int = PAIRS) -> list[Finding]:
    return reference.judge(OpenFormat(INT8, {GENERATOR: generator}), SIZES, "fp32's pictures", pairs)


def refused(findings: list[Finding]) -> set[str]:
    return {one.output for one in findings if not one.ok}


def test_fp32s_own_pictures_are_no_part_of_the_way_and_other_seeds_all_of_it(reference: PictureReference) -> None:
    assert [one.difference for one in judged(reference, Painter())] == pytest.approx([0, 0, 0], abs=1e-9)

    class OtherSeeds(Painter):
        def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
            return super().run({**feeds, "noise": np.roll(feeds["noise"], 1, axis=0)}, outputs)

    frechet, mean, worst = (one.difference for one in judged(reference, OtherSeeds()))
    assert 0 <= frechet < 1
    assert mean == pytest.approx(1, abs=0.1)
    assert worst == pytest.approx(1, abs=0.2)


@dataclass
class ThreeBlack(Painter):
    def changed(self, pixels: Array) -> Array:
        for number in (5, 400, 999):
            if self.drawn - len(pixels) <= number < self.drawn:
                pixels[number - self.drawn] = 0
        return pixels


class SwappedChannels(Painter):
    def changed(self, pixels: Array) -> Array:
        return pixels[..., ::-1]


class Grain(Painter):
    def changed(self, pixels: Array) -> Array:
        """What int8 does: PSNR is 34 dB."""
        grain = np.random.default_rng(self.drawn).normal(0, 5, pixels.shape)
        return np.clip(np.round(pixels + grain), 0, 255).astype(np.uint8)


class Mirrored(Painter):
    def changed(self, pixels: Array) -> Array:
        """The set hardly changes, every pair does."""
        return pixels[:, :, ::-1]


@pytest.mark.parametrize(
    ("painter", "measures"),
    [
        (ThreeBlack, {"worst_share"}),
        (SwappedChannels, {"frechet_share", "mean_share"}),
        (Grain, {"frechet_share", "mean_share"}),
        (Mirrored, {"mean_share"}),
    ],
)
def test_spoiled_pictures_are_refused_even_in_int8(
    reference: PictureReference, painter: type[Painter], measures: set[str]
) -> None:
    assert refused(judged(reference, painter())) >= measures


def test_a_runtime_that_fails_is_a_finding_with_its_reason(reference: PictureReference) -> None:
    class Broken(Painter):
        def changed(self, pixels: Array) -> Array:
            raise OverflowError("7e4 does not fit")

    findings = judged(reference, Broken())
    assert refused(findings) == {"frechet_share", "mean_share", "worst_share"}
    assert all("7e4 does not fit" in str(one) for one in findings)


def test_fewer_pairs_can_be_judged(reference: PictureReference) -> None:
    assert [one.cases for one in judged(reference, Painter(), pairs=8)] == [8, 8, 8]
    assert "mean_share" in refused(judged(reference, SwappedChannels(), pairs=8))


class Rounded(Encoder):
    """Errs by `error` in every component."""

    def __init__(self, error: float) -> None:
        self.error = np.float32(error)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        return {"sentence": super().run(feeds, outputs)["sentence"] + self.error}


def test_a_sentence_may_change_as_far_as_that_hardly_changes_the_picture(reference: PictureReference) -> None:
    reach = reference.sentence_reach.item()
    cases = [sentence_case(paint(), np.array([[1, 2, 3]]), np.array([3]))]

    def shares(error: float) -> list[Finding]:
        one = OpenFormat(FP16, {TEXT_ENCODER: Rounded(error / SIZES.sentence_width**0.5)})
        return [found for found in compare([one], cases, "PyTorch", sentence_reach=reach) if "share" in found.output]

    assert FP16.tolerance.sentence_share
    (near,), (far,) = shares(0.9 * FP16.tolerance.sentence_share * reach), shares(0.2 * reach)
    assert near.ok
    assert not far.ok
    assert far.difference == pytest.approx(0.2, rel=1e-3)
    unknown = compare([OpenFormat(FP16, {TEXT_ENCODER: Encoder()})], cases, "PyTorch")
    assert refused(unknown) == {"sentence_share"}


def bundle_with(folder: Path, content: bytes | None) -> Bundle:
    contents: dict[str, bytes | Path] = {"vocabulary.json": str(list(WORDS)).replace("'", '"').encode()}
    if content is not None:
        contents[PICTURES] = content
    files = {name: FileEntry.of(content) for name, content in contents.items()}
    return Bundle.open(write_bundle(folder / "b", Manifest("b", SIZES, files), contents))


def test_it_survives_its_file(reference: PictureReference, tmp_path: Path) -> None:
    read = read_picture_reference(bundle_with(tmp_path, reference.to_npz()))
    assert read.to_npz() == reference.to_npz()
    assert read.shares(np.zeros((8, 228))) == reference.shares(np.zeros((8, 228)))


def narrowed(one: PictureReference) -> PictureReference:
    """As a version with one feature less would have written it."""
    arrays = {name: getattr(one, name)[..., 1:] for name in ("mean", "scale", "features", "others")}
    return replace(one, **arrays)


def with_first_entry(content: bytes, offset: int, value: int) -> bytes:
    """With a byte of the archive's list of files changed: 8 is for flags, 10 the compression, 27 the size."""
    place = content.index(b"PK\x01\x02") + offset
    return content[:place] + bytes([value]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: None, "has no pictures.npz"),
        (lambda _: b"PK no archive", "is not a picture reference"),
        (lambda one: with_first_entry(one.to_npz(), 8, 1), "is not a picture reference .*encrypted"),
        (lambda one: with_first_entry(one.to_npz(), 10, 99), "is not a picture reference .*compression method"),
        (lambda one: with_first_entry(one.to_npz(), 27, 255), "is not a picture reference .it is too large"),
        (lambda one: replace(one, sentences=one.sentences[:, 1:]).to_npz(), "another model"),
        (lambda one: replace(one, others=one.others[1:]).to_npz(), "another model"),
        (lambda one: replace(one, scale=one.scale.astype(int)).to_npz(), "another model"),
        (lambda one: replace(one, sentences=np.float32(0)).to_npz(), "another model"),
        (lambda one: replace(one, sentences=one.sentences[:0]).to_npz(), "another model"),
        (lambda one: narrowed(one).to_npz(), "another model or version"),
        (lambda one: replace(one, floor=one.floor * math.nan).to_npz(), "another model"),
    ],
)
def test_one_that_cannot_be_used_says_what_to_do(
    reference: PictureReference, tmp_path: Path, change: object, message: str
) -> None:
    with pytest.raises(BundleError, match=message) as error:
        read_picture_reference(bundle_with(tmp_path, change(reference)))  # type: ignore[operator]
    assert "export" in str(error.value)
