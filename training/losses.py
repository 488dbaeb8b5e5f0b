"""The losses of both training phases: adversarial, contrastive, and DAMSM's; and which pairs of a batch are negatives.

N is the batch of all processes that train together (distributed.py); B is this process's share of it, its rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.distributed import gathered, share
from training.models.convolution import input_gradients_alone
from training.models.image_encoder import EncodedImage
from training.models.text_encoder import EncodedText

LARGEST_SCALE = 2.0**15
"""The largest scale of a logit's gradient: float16 ends at 2^16."""

# Adversarial: the hinge losses and gradient penalty of a one-way discriminator (DF-GAN, Tao et al., 2022). It gives one
# logit per pair (B), or one per scale of its features (B, K), whose losses are summed.


def real_hinge(logits: Tensor) -> Tensor:
    """E[max(0, 1 − D)], which pushes D above 1 for real, matching pairs. `logits` is float (B) or (B, K)."""
    return torch.relu(1 - logits.float()).mean(0).sum()


def fake_hinge(logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """E[max(0, 1 + D)], which pushes D below −1 for generated or mismatched pairs. `logits` is float (B) or (B, K).

    `weights`, float (B), weight the members of the batch; the mean is over B all the same.
    """
    losses = torch.relu(1 + logits.float()).reshape(len(logits), -1).sum(1)
    return (losses if weights is None else losses * weights).mean()


def generator_loss(logits: Tensor) -> Tensor:
    """−E[D], which raises the logits of generated images. `logits` is float (B) or (B, K)."""
    return -logits.float().mean(0).sum()


def matching_aware_gradient_penalty(
    logits: Tensor,
    inputs: tuple[Tensor, Tensor],
    weight: float = 2.0,
    power: float = 6.0,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """The penalty weight · E[g^power], g the norm of D's gradient with respect to real image and sentence (eq. 8).

    `logits`, float (B), are those of `inputs`: image (B, 3, R, R) and sentence (B, S), which require gradients. Both
    gradients are concatenated, as in DF-GAN's code; its paper writes a sum of two norms. `scaler` keeps them from
    underflowing in float16.
    """
    scale = torch.ones((), device=logits.device)
    if scaler is not None:
        scale = (scaler.scale(scale) / len(logits)).clamp_max(LARGEST_SCALE)
    with input_gradients_alone():
        gradients = torch.autograd.grad(logits.float().sum() * scale, inputs, create_graph=True)
    squared_norm = torch.stack([(g.float() / scale).flatten(1).square().sum(1) for g in gradients]).sum(0)
    # From g², because the derivative of the square root is infinite at 0.
    return weight * squared_norm.pow(power / 2).mean()


# Contrastive: negatives within a batch, and NT-Xent of generated pictures (docs/method.md, eq. 3-5).


class HardNegatives(NamedTuple):
    """Sentence vectors of the A hard negatives of each picture in a batch."""

    vectors: Tensor
    """Float (B, A, S)."""
    valid: Tensor
    """Bool (B, A): false where a picture has fewer than A."""

    @classmethod
    def last(cls, vectors: Tensor, valid: Tensor, count: int) -> "HardNegatives | None":
        """The last `count` of `vectors` (B, …, S), with their part of `valid` (B, …); None if there are none."""
        return cls(vectors[:, -count:], valid[:, -count:]) if count else None

    def similarities(self, anchors: Tensor) -> Tensor:
        """Cosines with each picture's own unit-length `anchors` (B, S): float (B, A), −∞ where not valid."""
        cosines = torch.einsum("bs,bas->ba", anchors, F.normalize(self.vectors.float(), dim=2))
        return cosines.masked_fill(~self.valid, float("-inf"))


def related_pairs(captions: Tensor, groups: Tensor) -> Tensor:
    """Marks pairs that must not be negatives: equal captions, and captions of one group.

    `captions` and `groups` are int64 (B). Equal numbers mean equal captions, and captions of one picture, or of one
    class where captions describe classes. Returns bool (B, N), true for each row's own column.
    """
    same_caption = captions[:, None] == gathered(captions)[None]
    same_group = groups[:, None] == gathered(groups)[None]
    return same_caption | same_group


def fitting_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Marks pairs such that one picture may fit both: these must not be negatives either.

    `first` and `second` are int64 (B, K), bit masks of the values that fit each of K attributes: what captions ask for,
    or what is known of pictures. Returns bool (B, N); without attributes (K = 0) nothing is known to fit.
    """
    common = (first[:, None] & gathered(second)[None]) != 0
    return common.all(2) & common.any(2)


def own_columns(related: Tensor) -> Tensor:
    """The column of each row of `related` (B, N) that stands for the row itself: int64 (B)."""
    return share(torch.arange(related.shape[1], device=related.device))


def mismatched_partners(related: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """Chooses for every row the next `count` of N, cyclically, that are unrelated to it (DF-GAN: simply the next one).

    `related` is bool (B, N). Returns M = min(count, N) partners, int64 (B, M) in 0..N − 1, and which of them are valid,
    bool (B, M).
    """
    whole = related.shape[1]
    steps = torch.arange(whole, device=related.device)
    cyclic = (own_columns(related)[:, None] + steps[None] + 1) % whole  # row i: i+1, i+2, …, i
    unrelated = ~related.gather(1, cyclic)
    first = unrelated.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    return cyclic.gather(1, first), unrelated.gather(1, first)


def nt_xent(
    anchors: Tensor, targets: Tensor, related: Tensor, temperature: float, hard: HardNegatives | None = None
) -> Tensor:
    """NT-Xent (eq. 3; Chen et al., SimCLR, 2020): cross-entropy of each anchor's own target among all targets.

    `anchors` and `targets` are float (B, S), compared by cosine divided by `temperature`. Negatives are the targets of
    all processes that are not `related`, bool (B, N), and each anchor's `hard` ones. With anchors f_img(x̂), this is
    L_text for targets f_text(s), and L_img for f_img(x).
    """
    candidates, anchors = gathered(F.normalize(targets.float(), dim=1)), F.normalize(anchors.float(), dim=1)
    hard_logits = None if hard is None else hard.similarities(anchors) / temperature
    return own_cross_entropy(anchors @ candidates.T / temperature, related, hard_logits)


def own_cross_entropy(logits: Tensor, related: Tensor, hard_logits: Tensor | None = None) -> Tensor:
    """Cross-entropy of each row's own column of `logits` (B, N) among those that it is not `related` to (B, N).

    `hard_logits` (B, A) are further negatives of each row.
    """
    own = own_columns(related)
    others = related & (torch.arange(related.shape[1], device=related.device) != own[:, None])
    logits = logits.masked_fill(others, float("-inf"))
    return F.cross_entropy(logits if hard_logits is None else torch.cat([logits, hard_logits], dim=1), own)


# DAMSM: matching captions and pictures by words and by sentences (AttnGAN, Xu et al., 2018, eq. 7-13).


class Related(NamedTuple):
    """What must not be a negative of each row, bool (B, N), true for the row's own column."""

    captions: Tensor
    """Captions that may be true of its picture."""
    pictures: Tensor
    """Pictures that its caption may be true of."""


def word_similarities(
    image: EncodedImage, text: EncodedText, lengths: Tensor, gamma1: float = 4.0, gamma2: float = 5.0
) -> Tensor:
    """How well each picture shows each caption, word by word: float (pictures, captions) (eq. 7-10).

    Every word attends to the regions of a picture (γ1); the similarity is a soft maximum (γ2) over the words of the
    cosine between a word and its context vector. Words from `lengths`, int64 (B), on are padding and ignored.
    """
    regions, words = image.regions.float(), text.words.float()
    padding = torch.arange(words.shape[2], device=words.device) >= lengths[:, None]  # (B, T)
    scores = torch.einsum("psr,cst->pcrt", regions, words)
    over_words = scores.masked_fill(padding[None, :, None], float("-inf")).softmax(dim=3)
    over_regions = (gamma1 * over_words).softmax(dim=2)
    # A word's context vector, Σ_r attention · region, would take S numbers per picture, caption and word. Its product
    # with the word and its norm need only the scores and the regions' Gram matrix.
    products = (over_regions * scores).sum(2)
    region_products = torch.einsum("psr,psq->prq", regions, regions)
    squared_norms = (over_regions * torch.einsum("prq,pcqt->pcrt", region_products, over_regions)).sum(2)
    norms = squared_norms.clamp_min(1e-12).sqrt() * words.norm(dim=1).clamp_min(1e-6)[None]
    cosine: Tensor = products / norms  # (pictures, captions, T)
    return (gamma2 * cosine).masked_fill(padding[None], float("-inf")).logsumexp(dim=2)


def word_loss(
    image: EncodedImage,
    text: EncodedText,
    lengths: Tensor,
    related: Related,
    gammas: tuple[float, float, float] = (4.0, 5.0, 10.0),
) -> Tensor:
    """L_w: matching pictures to captions and captions to pictures by words, over all processes (eq. 11-12).

    `gammas` are AttnGAN's: the sharpness of the attention over regions, of the best-matching
    words, and of the match in a batch.
    """
    gamma1, gamma2, gamma3 = gammas
    captions = text._replace(words=gathered(text.words))
    similarities = word_similarities(image, captions, gathered(lengths), gamma1, gamma2)
    return _matching_loss(gathered(similarities), related, gamma3)


def sentence_loss(
    image: EncodedImage, text: EncodedText, related: Related, gamma3: float = 10.0, hard: HardNegatives | None = None
) -> Tensor:
    """L_s: the same as `word_loss`, but by the cosine of picture and sentence vectors (eq. 13).

    `hard` are further negatives of each picture.
    """
    own = F.normalize(image.picture.float(), dim=1)
    hard_logits = None if hard is None else gamma3 * hard.similarities(own)
    pictures = gathered(own)
    sentences = gathered(F.normalize(text.sentence.float(), dim=1))
    return _matching_loss(pictures @ sentences.T, related, gamma3, hard_logits)


def _matching_loss(similarities: Tensor, related: Related, gamma3: float, hard_logits: Tensor | None = None) -> Tensor:
    """Both directions of `similarities` (N, N), for this process's rows; `hard_logits` (B, A) are further negatives."""
    logits = gamma3 * similarities
    by_text = own_cross_entropy(share(logits), related.captions, hard_logits)
    return by_text + own_cross_entropy(share(logits.T), related.pictures)
