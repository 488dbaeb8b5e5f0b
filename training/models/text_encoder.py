"""The text encoder: a bidirectional LSTM over word embeddings (AttnGAN, Xu et al., 2018; unchanged in DF-GAN)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from training.distributed import Dropout

PADDING = 0


def _on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Moves a tensor of the host to a device, without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class EncodedText(NamedTuple):
    """A batch of captions, encoded."""

    words: Tensor
    """Word features, float (B, S, T); zero at padding."""
    sentence: Tensor
    """Sentence vectors, float (B, S): last forward state | last backward state, at each caption's own length."""


class TextEncoder(nn.Module):
    """Embedding → dropout 0.5 → one-layer bidirectional LSTM with S / 2 units per direction.

    Tensors are named and shaped as in the public AttnGAN and DF-GAN checkpoints (`encoder`, `rnn`).
    """

    def __init__(self, vocabulary_size: int, embedding_width: int = 300, sentence_width: int = 256) -> None:
        super().__init__()
        self.sentence_width = sentence_width
        self.encoder = nn.Embedding(vocabulary_size, embedding_width, padding_idx=PADDING)
        self.dropout = Dropout(0.5)
        self.rnn = nn.LSTM(embedding_width, sentence_width // 2, batch_first=True, bidirectional=True)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)  # AttnGAN's; the default N(0, 1) saturates the LSTM

    def forward(self, tokens: Tensor, lengths: Tensor) -> EncodedText:
        """Encodes `tokens` int64 (B, T), padded with 0, of `lengths` int64 (B), each in 1..T."""
        # Sorted here, where the lengths are, because PyTorch's own sorting waits for a GPU.
        lengths = lengths.cpu()
        order = lengths.argsort(descending=True)
        sorting, restoring = (_on_device(places, tokens.device) for places in (order, order.argsort()))
        embedded = self.dropout(self.encoder(tokens)).index_select(0, sorting)
        outputs, (last_states, _) = self.rnn(pack_padded_sequence(embedded, lengths[order], batch_first=True))
        words, _ = pad_packed_sequence(outputs, batch_first=True, total_length=tokens.shape[1])
        sentence = torch.cat(last_states.unbind(0), dim=1)
        return EncodedText(words.index_select(0, restoring).transpose(1, 2), sentence.index_select(0, restoring))

    def sentences(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Sentence vectors, float (B, A, S), of A captions per picture: `tokens` (B, A, T), `lengths` (B, A)."""
        encoded: EncodedText = self(tokens.flatten(0, 1), lengths.flatten())
        return encoded.sentence.view(*tokens.shape[:2], -1)
