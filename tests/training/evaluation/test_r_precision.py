from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from t2i_engine.tokenizer import PADDING, Tokenizer
from tests.tiny_model import SIZES, WORDS, make_model
from tests.training.evaluation.instruments import batch_of
from training.checkpoint import save_checkpoint
from training.data.source import Source
from training.evaluation.r_precision import EncoderError, MatchingEncoders, RPrecision, load_encoders
from training.models.image_encoder import ImageEncoder, InceptionV3, SmallCNN
from training.models.text_encoder import TextEncoder

TOKENIZER = Tokenizer((PADDING, *(f"word{number}" for number in range(100))))


class Exact(MatchingEncoders):
    """Sees in a picture's first pixel which word it belongs to."""

    def __init__(self) -> None:
        super().__init__(TOKENIZER, TextEncoder(101), ImageEncoder(SmallCNN()), torch.device("cpu"))

    def sentences(self, ids: list[tuple[int, ...]]) -> Tensor:
        return torch.eye(101)[torch.tensor([row[0] for row in ids])]

    def pictures(self, pixels: NDArray[np.uint8]) -> Tensor:
        return torch.eye(101)[torch.from_numpy(pixels[:, 0, 0, 0].astype(np.int64)) + 1]


CAPTIONS = [f"word{number}" for number in range(100)]
OWN = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


def test_pictures_that_show_their_own_captions_are_found() -> None:
    measure = RPrecision(Exact())
    measure.update(batch_of(np.roll(OWN, 1, axis=0), OWN, CAPTIONS))
    found = measure.result().values["r_precision"]
    assert found == {"generated": 0.0, "real": 100.0, "pictures": 100, "candidates": 100}


class Blended(Exact):
    """Sees the word in a picture's first channel, and half as clearly that in its second."""

    def pictures(self, pixels: NDArray[np.uint8]) -> Tensor:
        return super().pictures(pixels) + 0.5 * super().pictures(pixels[..., 1:])


class Pairs:
    """A source whose words 0 and 1 ask for the same, as do 2 and 3, …."""

    def grammar(self, tokenizer: Tokenizer) -> "Pairs":
        return self

    def asks(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return (1 << (ids[0] - 1) // 2,)


def test_captions_that_may_be_true_of_a_picture_are_not_counted_as_wrong() -> None:
    pictures = OWN.copy()
    pictures[..., 0] = np.roll(OWN[..., 0], -1, axis=0)  # the next word, above its own
    alone, paired = RPrecision(Blended()), RPrecision(Blended(), cast("Source", Pairs()))
    for measure in (alone, paired):
        measure.update(batch_of(pictures, pictures, CAPTIONS, described=[(caption, "word4") for caption in CAPTIONS]))
    assert alone.result().values["r_precision"]["generated"] == 0
    found = paired.result().values["r_precision"]
    assert found["generated"] == 50  # of even words, whose pictures show the other of their pair
    assert found["real"] == 1  # of word 4: nothing else is known of other pictures, whose captions contradict word 4


def test_equal_captions_and_captions_of_the_same_group_are_not_counted_as_wrong() -> None:
    neighbours = np.roll(OWN, 1, axis=0)
    neighbours[0] = OWN[0]
    measure = RPrecision(Exact())
    measure.update(batch_of(neighbours, OWN, CAPTIONS, groups=[0] * 100))
    assert measure.result().values["r_precision"]["generated"] == 100


def test_fewer_than_100_pictures_have_no_r_precision() -> None:
    measure = RPrecision(Exact())
    measure.update(batch_of(OWN[:99], OWN[:99], CAPTIONS[:99]))
    measure.update(batch_of(OWN[99:], OWN[99:], ["unknown"]))
    with pytest.raises(EncoderError, match="fewer than 100 captions"):
        measure.result()


def test_a_bundle_and_a_checkpoint_without_encoders_say_what_to_give(plain_bundle: Path, tiny_checkpoint: Path) -> None:
    for model in (str(plain_bundle), str(tiny_checkpoint)):
        with pytest.raises(EncoderError, match="--encoders runs/NAME/checkpoint"):
            load_encoders(model)


@pytest.mark.parametrize("name", ["cnn", "inception-v3"])
def test_a_checkpoint_s_own_encoders_judge_without_anything_to_fetch(tmp_path: Path, name: str) -> None:
    backbone = SmallCNN() if name == "cnn" else InceptionV3(pretrained=False)
    networks = nn.ModuleDict(
        {
            "text_encoder": TextEncoder(SIZES.vocabulary_size, SIZES.embedding_width, SIZES.sentence_width),
            "image_encoder": ImageEncoder(backbone, SIZES.sentence_width),
        }
    ).eval()
    path = tmp_path / "checkpoint.pt"
    provenance = {"config": {"damsm": {"image_encoder": name}}}
    state = {"damsm": {"networks": networks.state_dict()}}
    save_checkpoint(path, SIZES, WORDS, make_model().state_dict(), provenance, state)
    encoders = load_encoders(str(path))
    image = torch.from_numpy(OWN[:2].repeat(16, 1).repeat(16, 2)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        expected = nn.functional.normalize(networks["image_encoder"](image).picture)
    torch.testing.assert_close(encoders.pictures(OWN[:2].repeat(16, 1).repeat(16, 2)), expected)
    ids = encoders.tokenizer.encode("a red bird").ids
    assert encoders.sentences([ids, ids[:2]]).norm(dim=1) == pytest.approx([1, 1], abs=1e-5)


def test_a_checkpoint_brings_the_image_encoder_that_its_run_trained_and_a_bundle_none(
    tmp_path: Path, plain_bundle: Path
) -> None:
    encoder = ImageEncoder(SmallCNN(), SIZES.sentence_width).eval()
    networks = {f"image_encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    provenance = {"config": {"damsm": {"image_encoder": "cnn"}}}
    state = {"damsm": {"networks": networks}}
    save_checkpoint(tmp_path / "model.pt", SIZES, WORDS, make_model().state_dict(), provenance, state)
    found = load_encoders(str(tmp_path / "model.pt"))
    pixels = OWN[:2].repeat(16, 1).repeat(16, 2)
    image = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = nn.functional.normalize(encoder(image).picture.detach())
    torch.testing.assert_close(found.pictures(pixels), expected)
    ids = [found.tokenizer.encode("a red bird").ids]
    torch.testing.assert_close(
        found.sentences(ids),
        nn.functional.normalize(
            make_model().text_encoder(torch.tensor(ids), torch.tensor([len(ids[0])])).sentence.detach()
        ),
    )
    with pytest.raises(EncoderError, match=r"--encoders runs/NAME/checkpoint\.pt"):
        load_encoders(str(plain_bundle))
