from collections.abc import Sequence

import numpy as np
import pytest
import torch

from t2i_engine.backends.base import Array
from t2i_engine.pictures import Pixels
from t2i_engine.tokenizer import PADDING, Tokenizer
from tests.training.evaluation.instruments import MeanColours, PaintingSampler, noise_pictures, painting_sampler
from training.data.synthbirds.caption_attributes import caption_attributes
from training.evaluation.diversity import CAPTIONS, fitting_renders, mean_distance, measure_spread

TOKENIZER = Tokenizer((PADDING, "a", "yellow", "bird"))


def sampler(seeded: bool) -> PaintingSampler:
    def paint(tokens: Array, seeds: Sequence[int]) -> Pixels:
        return np.concatenate([noise_pictures(1, seed if seeded else 0, side=32) for seed in seeds])

    return painting_sampler(TOKENIZER, 32, paint)


def test_mean_distance_is_that_of_all_pairs() -> None:
    assert mean_distance(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(2)


def test_a_model_that_always_draws_the_same_picture_has_no_diversity() -> None:
    network = MeanColours()
    collapsed = measure_spread("a yellow bird", 8, sampler(seeded=False), network)
    assert collapsed.ratio == 0 < collapsed.renders
    assert measure_spread("a yellow bird", 8, sampler(seeded=True), network).ratio > 0.1


def test_renders_to_compare_with_are_different_and_of_the_model_s_resolution() -> None:
    renders = fitting_renders("a yellow bird", 6, 32)
    assert renders.shape == (6, 32, 32, 3)
    assert len({picture.tobytes() for picture in renders}) == 6


def test_half_of_the_captions_name_no_colour() -> None:
    assert len(set(CAPTIONS)) == 12
    assert sum("main colour" in caption_attributes(caption) for caption in CAPTIONS) == 6
