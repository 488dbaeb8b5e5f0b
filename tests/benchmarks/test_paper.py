"""The random network of the paper's size."""

import numpy as np

from benchmarks.paper import make_paper_model, paper_words
from t2i_engine.backends.pytorch import module_runners
from t2i_engine.formats import GENERATOR, TEXT_ENCODER
from t2i_engine.sampler import generator_feeds, text_encoder_feeds
from t2i_engine.tokenizer import Tokenizer


def test_paper_has_the_papers_sizes_and_the_contrast_of_pictures() -> None:
    tokenizer = Tokenizer(paper_words())
    model = make_paper_model(len(tokenizer.words))
    sizes = model.sizes
    assert (sizes.resolution, sizes.base_channels, sizes.noise_width, sizes.sentence_width) == (256, 32, 100, 256)
    runners = module_runners(model)
    ids = [tokenizer.encode("a small yellow bird").ids]
    sentence = runners[TEXT_ENCODER].run(text_encoder_feeds(ids), ["sentence"])["sentence"]
    image = runners[GENERATOR].run(generator_feeds(sizes, sentence, [0]), ["image"])["image"]
    assert 0.45 < np.std(image) < 0.75
