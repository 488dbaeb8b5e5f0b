"""`paper`: the network of the paper's size with seeded random weights, for figures that need no training.

Its pictures mean nothing, but they have the contrast of real ones (a standard deviation near 0.6), so that differences
between formats are as large as they would be on those.
"""

import torch
from torch import nn

from t2i_engine.bundle import ModelSizes
from training.data.corpus import build_vocabulary
from training.data.synthbirds import SynthBirds
from training.models.text_to_image import TextToImage

SEED = 0
SIDE = 256
DESCRIBED = 200  # birds whose captions give the vocabulary

# Over what keeps the variance behind a leaky ReLU: a residual adds half, a condition moves scales and shifts by a
# fifth, and the last layer gives the contrast.
_GAINS = {"c2": 0.5, "linear2": 0.2, "to_rgb.1": 0.085}


def paper_sizes(words: int, side: int = SIDE) -> ModelSizes:
    """R = 256 unless another is asked for, nf = 32, Z = 100, S = 256, with both contributions of the generator."""
    return ModelSizes(side, 32, 100, 256, 300, words, conditioning_augmentation=True, adaptive_block=True)


def paper_words() -> tuple[str, ...]:
    """The words of synthbirds, so that its captions can be drawn."""
    birds = SynthBirds("train", DESCRIBED, 32)
    return build_vocabulary(caption for number in range(DESCRIBED) for caption in birds.captions(number))


def make_paper_model(words: int, side: int = SIDE) -> TextToImage:
    """The model with a vocabulary of that many words, in evaluation mode; the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = TextToImage(paper_sizes(words, side))
        torch.manual_seed(SEED)  # again: the vocabulary's size, which grows with synthbirds, has drawn from it
        for name, module in model.generator.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                module.weight.data *= next((gain for end, gain in _GAINS.items() if name.endswith(end)), 1.0)
    return model.eval()
