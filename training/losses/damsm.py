"""DAMSM: word and sentence matching between captions and pictures (AttnGAN, Xu et al., 2018, eq. 7-13)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.distributed import gathered, share
from training.losses.contrastive import HardNegatives, own_cross_entropy
from training.models.image_encoder import EncodedImage
from training.models.text_encoder import EncodedText


@dataclass(frozen=True)
class Smoothing:
    """AttnGAN's γ: attention over regions, importance of the best-matched words, softness of the match in a batch."""

    gamma1: float = 4.0
    gamma2: float = 5.0
    gamma3: float = 10.0


def word_similarities(image: EncodedImage, text: EncodedText, lengths: Tensor, smoothing: Smoothing) -> Tensor:
    """How well each picture shows each caption, word by word: float (pictures, captions) (eq. 7-10).

    Every word looks at the regions of a picture (attention, γ1); the similarity is a soft maximum (γ2) over the words
    of the cosine between a word and what it found. Words at or behind `lengths`, int64 (B), count for nothing.
    """
    regions, words = image.regions.float(), text.words.float()
    padding = torch.arange(words.shape[2], device=words.device) >= lengths[:, None]  # (B, T)
    scores = torch.einsum("psr,cst->pcrt", regions, words)
    over_words = scores.masked_fill(padding[None, :, None], float("-inf")).softmax(dim=3)
    over_regions = (smoothing.gamma1 * over_words).softmax(dim=2)
    # What a word found is Σ_r attention · region, S numbers for each picture, caption and word; its product with the
    # word and its norm need only the scores and the regions' products with each other, h·w of each.
    products = (over_regions * scores).sum(2)
    region_products = torch.einsum("psr,psq->prq", regions, regions)
    squared_norms = (over_regions * torch.einsum("prq,pcqt->pcrt", region_products, over_regions)).sum(2)
    norms = squared_norms.clamp_min(1e-12).sqrt() * words.norm(dim=1).clamp_min(1e-6)[None]
    cosine: Tensor = products / norms  # (pictures, captions, T)
    return (smoothing.gamma2 * cosine).masked_fill(padding[None], float("-inf")).logsumexp(dim=2)


def word_loss(image: EncodedImage, text: EncodedText, lengths: Tensor, related: Tensor, smoothing: Smoothing) -> Tensor:
    """L_w: pictures find their captions and captions their pictures, by words, in all processes (eq. 11-12).

    `related` is bool (B, N).
    """
    captions = text._replace(words=gathered(text.words))
    similarities = word_similarities(image, captions, gathered(lengths), smoothing)
    return _matching_loss(gathered(similarities), related, smoothing.gamma3)


def sentence_loss(
    image: EncodedImage, text: EncodedText, related: Tensor, smoothing: Smoothing, hard: HardNegatives | None = None
) -> Tensor:
    """L_s: the same by cosine of whole-picture and sentence vectors (eq. 13). `related` is bool (B, N).

    A picture must tell its caption from its `hard` negatives, too.
    """
    own = F.normalize(image.picture.float(), dim=1)
    nearly = None if hard is None else smoothing.gamma3 * hard.similarities(own)
    pictures = gathered(own)
    sentences = gathered(F.normalize(text.sentence.float(), dim=1))
    return _matching_loss(pictures @ sentences.T, related, smoothing.gamma3, nearly)


def _matching_loss(similarities: Tensor, related: Tensor, sharpness: float, nearly: Tensor | None = None) -> Tensor:
    """Of `similarities` (N, N), this process's rows and columns; `nearly` (B, A) are further logits of its rows."""
    logits = sharpness * similarities
    return own_cross_entropy(share(logits), related, nearly) + own_cross_entropy(share(logits.T), related)
