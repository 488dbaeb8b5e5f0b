"""DAMSM: matching captions and pictures by words and by sentences (AttnGAN, Xu et al., 2018, eq. 7-13)."""

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
    """AttnGAN's γ: sharpness of the attention over regions, of the best-matching words, and of the match in a batch."""

    gamma1: float = 4.0
    gamma2: float = 5.0
    gamma3: float = 10.0


def word_similarities(image: EncodedImage, text: EncodedText, lengths: Tensor, smoothing: Smoothing) -> Tensor:
    """How well each picture shows each caption, word by word: float (pictures, captions) (eq. 7-10).

    Every word attends to the regions of a picture (γ1); the similarity is a soft maximum (γ2) over the words of the
    cosine between a word and its context vector. Words from `lengths`, int64 (B), on are padding and ignored.
    """
    regions, words = image.regions.float(), text.words.float()
    padding = torch.arange(words.shape[2], device=words.device) >= lengths[:, None]  # (B, T)
    scores = torch.einsum("psr,cst->pcrt", regions, words)
    over_words = scores.masked_fill(padding[None, :, None], float("-inf")).softmax(dim=3)
    over_regions = (smoothing.gamma1 * over_words).softmax(dim=2)
    # A word's context vector, Σ_r attention · region, would take S numbers per picture, caption and word. Its product
    # with the word and its norm need only the scores and the regions' Gram matrix.
    products = (over_regions * scores).sum(2)
    region_products = torch.einsum("psr,psq->prq", regions, regions)
    squared_norms = (over_regions * torch.einsum("prq,pcqt->pcrt", region_products, over_regions)).sum(2)
    norms = squared_norms.clamp_min(1e-12).sqrt() * words.norm(dim=1).clamp_min(1e-6)[None]
    cosine: Tensor = products / norms  # (pictures, captions, T)
    return (smoothing.gamma2 * cosine).masked_fill(padding[None], float("-inf")).logsumexp(dim=2)


def word_loss(image: EncodedImage, text: EncodedText, lengths: Tensor, related: Tensor, smoothing: Smoothing) -> Tensor:
    """L_w: matching pictures to captions and captions to pictures by words, over all processes (eq. 11-12).

    `related` is bool (B, N).
    """
    captions = text._replace(words=gathered(text.words))
    similarities = word_similarities(image, captions, gathered(lengths), smoothing)
    return _matching_loss(gathered(similarities), related, smoothing.gamma3)


def sentence_loss(
    image: EncodedImage, text: EncodedText, related: Tensor, smoothing: Smoothing, hard: HardNegatives | None = None
) -> Tensor:
    """L_s: the same by the cosine of picture and sentence vectors (eq. 13). `related` is bool (B, N).

    `hard` are further negatives of each picture.
    """
    own = F.normalize(image.picture.float(), dim=1)
    hard_logits = None if hard is None else smoothing.gamma3 * hard.similarities(own)
    pictures = gathered(own)
    sentences = gathered(F.normalize(text.sentence.float(), dim=1))
    return _matching_loss(pictures @ sentences.T, related, smoothing.gamma3, hard_logits)


def _matching_loss(similarities: Tensor, related: Tensor, gamma3: float, hard_logits: Tensor | None = None) -> Tensor:
    """Both directions of `similarities` (N, N), for this process's rows; `hard_logits` (B, A) are further negatives."""
    logits = gamma3 * similarities
    return own_cross_entropy(share(logits), related, hard_logits) + own_cross_entropy(share(logits.T), related)
