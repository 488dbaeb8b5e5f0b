"""Losses against plain readings of their formulas."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from training.losses import (
    HardNegatives,
    Related,
    fake_hinge,
    fitting_pairs,
    generator_loss,
    matching_aware_gradient_penalty,
    mismatched_partners,
    nt_xent,
    real_hinge,
    related_pairs,
    sentence_loss,
    word_loss,
    word_similarities,
)
from training.models.conditioning import kl_to_standard_normal
from training.models.image_encoder import EncodedImage
from training.models.text_encoder import EncodedText


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_kl_is_that_of_the_two_gaussians_per_dimension() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)
    assert kl_to_standard_normal(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


@pytest.mark.parametrize("hard", [None, HardNegatives(torch.randn(4, 2, 6), torch.tensor([[1, 1], [1, 0]] * 2) > 0)])
def test_nt_xent_is_its_formula_and_leaves_related_pairs_out(hard: HardNegatives | None) -> None:
    torch.manual_seed(0)
    anchors, targets, eta = torch.randn(4, 6), torch.randn(4, 6), 0.3
    related = torch.eye(4, dtype=torch.bool)
    related[0, 2] = related[2, 0] = True
    expected = 0.0
    for i in range(4):
        candidates = [targets[j] for j in range(4) if j == i or not related[i, j]]
        candidates += [] if hard is None else list(hard.vectors[i][hard.valid[i]])
        total = sum(math.exp(cosine(anchors[i], candidate) / eta) for candidate in candidates)
        expected -= math.log(math.exp(cosine(anchors[i], targets[i]) / eta) / total) / 4
    assert float(nt_xent(anchors, targets, related, eta, hard)) == pytest.approx(expected, rel=1e-5)


def test_nt_xent_pulls_an_anchor_to_its_target() -> None:
    torch.manual_seed(0)
    anchors, targets = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    related = torch.eye(4, dtype=torch.bool)
    before = nt_xent(anchors, targets, related, 0.3)
    (gradient,) = torch.autograd.grad(before, anchors)
    assert nt_xent(anchors - 0.1 * gradient, targets, related, 0.3) < before


def encoded(lengths: list[int]) -> tuple[EncodedImage, EncodedText, Tensor]:
    torch.manual_seed(0)
    batch, longest = len(lengths), max(lengths)
    image = EncodedImage(torch.randn(batch, 5, 9), torch.randn(batch, 5))
    return image, EncodedText(torch.randn(batch, 5, longest), torch.randn(batch, 5)), torch.tensor(lengths)


def test_word_similarity_is_attngans_attention_spelled_out() -> None:
    image, text, lengths = encoded([4, 2, 3])
    similarities = word_similarities(image, text, lengths, gamma1=4.0, gamma2=5.0)
    for picture in range(3):
        for caption in range(3):
            words = text.words[caption, :, : lengths[caption]]  # (S, T)
            regions = image.regions[picture]  # (S, h·w)
            scores = (words.T @ regions).softmax(dim=0)  # over words, eq. 8
            total = 0.0
            for word in range(int(lengths[caption])):
                attention = (4.0 * scores[word]).softmax(dim=0)  # over regions, eq. 9
                total += math.exp(5.0 * cosine(words[:, word], regions @ attention))
            assert float(similarities[picture, caption]) == pytest.approx(math.log(total), rel=1e-4)


def test_damsm_losses_are_small_where_pictures_and_captions_match() -> None:
    vectors = torch.eye(4)
    related = Related(vectors > 0, vectors > 0)
    matching = EncodedImage(vectors[:, :, None].expand(-1, -1, 6), vectors)
    swapped = EncodedImage(matching.regions.flip(0), vectors.flip(0))
    text, lengths = EncodedText(vectors[:, :, None].expand(-1, -1, 3), vectors), torch.full((4,), 3)
    assert word_loss(matching, text, lengths, related) < 0.1
    assert word_loss(swapped, text, lengths, related) > 10
    assert sentence_loss(matching, text, related) < 0.1
    assert sentence_loss(swapped, text, related) > 10


def test_a_picture_must_be_told_from_captions_that_nearly_fit() -> None:
    vectors = torch.eye(4)
    related = Related(vectors > 0, vectors > 0)
    image, text = EncodedImage(vectors[:, :, None], vectors), EncodedText(vectors[:, :, None], vectors)
    alone = sentence_loss(image, text, related)
    alike = HardNegatives(vectors[:, None], torch.ones(4, 1, dtype=torch.bool))
    assert sentence_loss(image, text, related, hard=alike) == pytest.approx(float(alone) + math.log(2), abs=1e-3)
    absent = alike._replace(valid=~alike.valid)
    assert sentence_loss(image, text, related, hard=absent) == pytest.approx(float(alone))


def test_padding_words_count_for_nothing() -> None:
    image, text, lengths = encoded([4, 2, 3])
    before = word_similarities(image, text, lengths)
    text.words[1, :, 2:] = 100.0
    assert torch.equal(before, word_similarities(image, text, lengths))


def test_hinges_are_zero_beyond_their_margins() -> None:
    assert real_hinge(torch.tensor([1.0, 2.0])) == 0
    assert real_hinge(torch.tensor([0.0, 2.0])) == 0.5
    assert fake_hinge(torch.tensor([-1.0, -2.0])) == 0
    assert fake_hinge(torch.tensor([0.0, 1.0])) == 1.5
    assert fake_hinge(torch.tensor([0.0, 1.0]), torch.tensor([True, False])) == 0.5
    assert generator_loss(torch.tensor([1.0, 2.0])) == -1.5


def test_losses_of_several_scales_are_summed() -> None:
    scales = torch.tensor([[0.0, -1.0, 2.0], [2.0, 1.0, 0.0]])
    weights = torch.tensor([0.5, 2.0])
    for loss in (real_hinge, fake_hinge, generator_loss):
        torch.testing.assert_close(loss(scales), torch.stack([loss(scale) for scale in scales.T]).sum())
    each = torch.stack([fake_hinge(scale, weights) for scale in scales.T])
    torch.testing.assert_close(fake_hinge(scales, weights), each.sum())


def test_gradient_penalty_of_a_linear_discriminator_is_known() -> None:
    torch.manual_seed(0)
    by_image, by_sentence = torch.randn(3, 4, 4, requires_grad=True), torch.randn(5, requires_grad=True)

    image, sentence = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    logits = (image * by_image).sum((1, 2, 3)) + sentence @ by_sentence
    penalty = matching_aware_gradient_penalty(logits, (image, sentence), weight=2.0, power=6.0)
    norm = (by_image.square().sum() + by_sentence.square().sum()).sqrt()
    torch.testing.assert_close(penalty, 2 * norm**6)
    penalty.backward()
    assert by_image.grad is not None
    torch.testing.assert_close(by_image.grad, 12 * norm.detach() ** 4 * by_image.detach())


def test_gradient_penalty_of_a_flat_discriminator_is_zero_with_finite_gradients() -> None:
    weight = torch.zeros(3, 4, 4, requires_grad=True)
    image, sentence = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    logits = (image * weight).sum((1, 2, 3)) + 0 * sentence.sum(1)
    penalty = matching_aware_gradient_penalty(logits, (image, sentence))
    penalty.backward()
    assert penalty == 0
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_equal_captions_and_captions_of_one_group_are_related() -> None:
    related = related_pairs(captions=torch.tensor([7, 7, 3, 5]), groups=torch.tensor([0, 1, 2, 2]))
    assert related.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_no_caption_is_the_negative_of_a_picture_that_it_may_be_true_of() -> None:
    known = torch.tensor([[0b01, 0b01], [0b01, 0b10], [0b10, 0b11]])
    asked = torch.tensor([[0b01, 0b11], [0b01, 0b10], [0b11, 0b11]])
    assert fitting_pairs(known, asked).int().tolist() == [[1, 0, 1], [1, 1, 1], [0, 0, 1]]
    assert torch.equal(fitting_pairs(asked, known), fitting_pairs(known, asked).T)


def test_nothing_is_known_to_fit_where_captions_are_not_understood() -> None:
    nothing = torch.zeros(3, 0, dtype=torch.int64)
    assert not fitting_pairs(nothing, nothing).any()
    assert fitting_pairs(nothing, nothing).shape == (3, 3)


def test_pictures_and_captions_have_negatives_of_their_own() -> None:
    vectors, text = torch.eye(2), EncodedText(torch.eye(2)[:, :, None], torch.eye(2))
    image = EncodedImage(vectors[:, :, None], vectors.flip(0))
    own, every = torch.eye(2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)
    both, one = (float(sentence_loss(image, text, Related(own, pictures))) for pictures in (own, every))
    assert both == pytest.approx(2 * one)
    assert sentence_loss(image, text, Related(every, every)) == 0


def test_a_mismatch_is_the_next_unrelated_row() -> None:
    related = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]).bool()
    partners, found = mismatched_partners(related)
    assert partners.tolist() == [[2], [2], [0], [0]]
    assert found.all()
    partners, found = mismatched_partners(related, 3)
    assert partners[:, :2].tolist() == [[2, 3], [2, 3], [0, 1], [0, 1]]
    assert found.tolist() == [[True, True, False]] * 4
    _, found = mismatched_partners(torch.ones(3, 3, dtype=torch.bool))
    assert not found.any()
    partners, _ = mismatched_partners(torch.eye(3, dtype=torch.bool))
    assert partners.tolist() == [[1], [2], [0]]
