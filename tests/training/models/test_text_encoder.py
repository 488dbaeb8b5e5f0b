"""The text encoder: what AttnGAN's is, and padding that is never read."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.models.text_encoder import TextEncoder

VOCABULARY = 30


def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(VOCABULARY, embedding_width=7, sentence_width=10).eval()


captions = st.lists(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=20), min_size=1, max_size=5)


@given(captions)
@settings(max_examples=30, deadline=None)
def test_a_caption_is_encoded_the_same_alone_and_padded_in_any_batch(batch: list[list[int]]) -> None:
    model = encoder()
    longest = max(len(ids) for ids in batch) + 2
    tokens = torch.tensor([ids + [0] * (longest - len(ids)) for ids in batch])
    lengths = torch.tensor([len(ids) for ids in batch])
    with torch.no_grad():
        together = model(tokens, lengths)
        for i, ids in enumerate(batch):
            alone = model(torch.tensor([ids]), lengths[i : i + 1])
            torch.testing.assert_close(together.sentence[i], alone.sentence[0], rtol=0, atol=1e-6)
            torch.testing.assert_close(together.words[i, :, : len(ids)], alone.words[0], rtol=0, atol=1e-6)
            assert not together.words[i, :, len(ids) :].any()


def test_sentence_is_the_last_state_of_both_directions() -> None:
    model = encoder()
    tokens, lengths = torch.tensor([[3, 4, 5, 6]]), torch.tensor([4])
    with torch.no_grad():
        text = model(tokens, lengths)
    forward, backward = text.words[0, :5, -1], text.words[0, 5:, 0]
    torch.testing.assert_close(text.sentence[0], torch.cat([forward, backward]))


def test_tensors_have_the_names_and_shapes_of_public_checkpoints() -> None:
    tensors = {name: tuple(tensor.shape) for name, tensor in TextEncoder(5450).state_dict().items()}
    directions = {
        f"rnn.{name}_l0{direction}": shape
        for direction in ("", "_reverse")
        for name, shape in {
            "weight_ih": (512, 300),
            "weight_hh": (512, 128),
            "bias_ih": (512,),
            "bias_hh": (512,),
        }.items()
    }
    assert tensors == {"encoder.weight": (5450, 300), **directions}


def test_dropout_acts_in_training_only() -> None:
    model = encoder()
    tokens, lengths = torch.tensor([[3, 4, 5, 6]]), torch.tensor([4])
    assert torch.equal(model(tokens, lengths).sentence, model(tokens, lengths).sentence)
    model.train()
    assert not torch.equal(model(tokens, lengths).sentence, model(tokens, lengths).sentence)
