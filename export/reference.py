"""Makes a bundle's reference: captions in the model's own words, drawn with the first seeds by PyTorch."""

import numpy as np

from export.parity import image_case, one_thread, sentence_case
from t2i_engine.reference import Reference
from t2i_engine.tokenizer import Tokenizer, pad, split
from training.models.text_to_image import TextToImage

LENGTHS = (1, 3, 8, 18)  # words per caption: mixed, so that three of four are padded


def make_reference(model: TextToImage, tokenizer: Tokenizer) -> Reference:
    """Draws one picture per length; its words are drawn from the whole vocabulary."""
    known = [word for word in tokenizer.words if split(word) == [word]]
    words = np.random.default_rng(0).choice(known, sum(LENGTHS))
    captions = [" ".join(part) for part in np.split(words, np.cumsum(LENGTHS)[:-1])]
    tokens, lengths = pad([tokenizer.encode(caption).ids for caption in captions])
    seeds = range(len(captions))
    with one_thread():
        text = sentence_case(model, tokens, lengths)
        drawn = image_case(model, text.expected["sentence"], seeds)
    return Reference(
        captions=np.array(captions),
        seeds=np.array(seeds, dtype=np.int64),
        tokens=tokens,
        lengths=lengths,
        noise=drawn.feeds["noise"],
        condition_noise=drawn.feeds.get("condition_noise"),
        sentence=text.expected["sentence"],
        image=drawn.expected["image"],
        pixels=drawn.expected["pixels"],
    )
