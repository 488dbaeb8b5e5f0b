"""A classifier of synthbirds' attributes, trained on renders alone: it judges what generated pictures show.

That of the default recipe lies in SHIPPED, so that everybody's pictures are judged by the same one, without minutes of
training. `python -m training.evaluation.classifier` makes it, which whoever changes renders, network or recipe runs.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from t2i_engine.files import cache_folder
from training.data.rendered import render_synthbirds
from training.data.synthbirds import PICTURES, SynthBirds
from training.evaluation.attributes import ATTRIBUTES, shown
from training.evaluation.kept import find, keep
from training.evaluation.samples import in_batches
from training.models.image_encoder import SmallCNN
from training.stepping import autocast

Pixels = NDArray[np.uint8]

# Goes up whenever the network or its training changes in code: trained classifiers are kept by it and the recipe.
VERSION = 1
SIDE = 64
UNLABELLED = -1
SHIPPED = Path(__file__).parent / "classifiers"
_OFFSETS = tuple(np.cumsum([0, *(len(values) for values in ATTRIBUTES.values())]).tolist())


@dataclass(frozen=True)
class Recipe:
    """How the classifier is trained, and on how many unseen renders it is tested."""

    pictures: int = 20_000
    steps: int = 3_600
    batch_size: int = 64
    learning_rate: float = 2e-3
    shift: int = 3
    """Pictures are moved by up to so many pixels either way, and half of them mirrored."""
    tested: int = 2_000


class AttributeNetwork(nn.Module):
    """The small CNN of DAMSM with one linear layer for all attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = SmallCNN()
        self.head = nn.Linear(SmallCNN.summary_channels, _OFFSETS[-1])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps `image` float (B, 3, 64, 64) in [−1, 1] to logits, one (B, values) for each attribute."""
        _, summary = self.backbone(image)
        logits: Tensor = self.head(summary)
        return [logits[:, start:end] for start, end in pairwise(_OFFSETS)]


@dataclass(frozen=True)
class Classifier:
    """A trained network, and how often it was right on renders that it had not seen."""

    network: AttributeNetwork
    accuracies: dict[str, float]

    @torch.inference_mode()
    def classify(self, pixels: Pixels) -> list[dict[str, str]]:
        """What each picture shows; `pixels` uint8 (B, R, R, 3) of any side are brought to 64 by averaging areas.

        No attribute depends on left and right, so each picture is judged together with its mirror image.
        """
        image = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
        small = F.interpolate(image, (SIDE, SIDE), mode="area")
        both = zip(self.network(small), self.network(small.flip(3)), strict=True)
        best = [(logits + mirrored).argmax(1).tolist() for logits, mirrored in both]
        values = tuple(ATTRIBUTES.items())
        return [
            {name: possible[index] for (name, possible), index in zip(values, row, strict=True)}
            for row in zip(*best, strict=True)
        ]


def trained_classifier(
    on_progress: Callable[[str, int, int], None], recipe: Recipe = Recipe(), cache: Path | None = None
) -> Classifier:
    """The classifier of this recipe: shipped, from the cache, or trained now, in five to twelve minutes on two cores.

    `on_progress` is told what is done, how much of it, and of how much.
    """
    cache = cache or cache_folder()
    network, file = AttributeNetwork(), _file_of(recipe)
    if kept := find(SHIPPED / file) or find(cache / file):
        network.load_state_dict(kept["network"])
        return Classifier(network.eval(), kept["accuracies"])
    train(network, recipe, cache, on_progress)
    weights = network.half().state_dict()  # in half the space; it judges as it will when it is read again
    accuracies = accuracies_of(Classifier(network.float().eval(), {}), recipe.tested, cache)
    keep(cache / file, {"network": weights, "accuracies": accuracies})
    return Classifier(network, accuracies)


def _file_of(recipe: Recipe) -> str:
    """The file that keeps the classifier of a recipe, named by all that it is made from."""
    made_from = {"classifier": VERSION, "synthbirds": PICTURES, **asdict(recipe), "attributes": ATTRIBUTES}
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    return f"attributes-{digest}.pt"


def train(network: AttributeNetwork, recipe: Recipe, cache: Path, on_progress: Callable[[str, int, int], None]) -> None:
    """Trains the network in place, in bfloat16 where that is faster, on renders of the training split."""
    rendered = render_synthbirds(
        "train", recipe.pictures, SIDE, cache, lambda drawn: on_progress("drawing renders", drawn, recipe.pictures)
    )
    birds = SynthBirds("train", recipe.pictures, SIDE)
    labels = encode(shown(birds.attributes(index)) for index in range(recipe.pictures))
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps)
    network.train().to(memory_format=torch.channels_last)
    for step in range(recipe.steps):
        chosen = np.sort(rng.choice(recipe.pictures, recipe.batch_size, replace=False))
        image, wanted = _augmented(rendered.pictures[chosen], recipe.shift, rng), labels[chosen]
        with autocast(image.device, "auto"):
            logits = network(image)
        losses = [
            F.cross_entropy(part.float(), wanted[:, number], ignore_index=UNLABELLED, reduction="sum")
            for number, part in enumerate(logits)
        ]
        optimizer.zero_grad(set_to_none=True)
        (torch.stack(losses).sum() / wanted.numel()).backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
            on_progress("training the classifier", step + 1, recipe.steps)


def accuracies_of(classifier: Classifier, count: int, cache: Path) -> dict[str, float]:
    """How often the classifier is right on unseen renders, attribute by attribute, where the attribute is visible."""
    birds = SynthBirds("test", count, SIDE)
    right, visible = dict.fromkeys(ATTRIBUTES, 0), dict.fromkeys(ATTRIBUTES, 0)
    pictures = render_synthbirds("test", count, SIDE, cache).pictures
    found = (row for batch in in_batches(pictures) for row in classifier.classify(batch))
    for index, row in enumerate(found):
        for name, value in shown(birds.attributes(index)).items():
            visible[name] += 1
            right[name] += row[name] == value
    return {name: right[name] / visible[name] for name in ATTRIBUTES if visible[name]}


def encode(seen: Iterable[dict[str, str]]) -> Tensor:
    """Labels int64 (N, attributes): the index of each value, or -1 where an attribute is not visible."""
    rows = [
        [values.index(row[name]) if name in row else UNLABELLED for name, values in ATTRIBUTES.items()] for row in seen
    ]
    return torch.tensor(rows)


def _augmented(pixels: Pixels, shift: int, rng: np.random.Generator) -> Tensor:
    """The batch as `image` in [−1, 1], half of it mirrored, all of it moved by the same few pixels."""
    mirrored = rng.random(len(pixels)) < 0.5
    pixels = np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    top, left = rng.integers(2 * shift + 1, size=2)
    padded = F.pad(image, (shift,) * 4, mode="replicate")[:, :, top : top + SIDE, left : left + SIDE]
    return padded.contiguous(memory_format=torch.channels_last)


def ship(on_progress: Callable[[str, int, int], None], recipe: Recipe = Recipe(), cache: Path | None = None) -> None:
    """Puts the classifier of a recipe into SHIPPED, in place of all others; where it is there, nothing is done."""
    cache = cache or cache_folder()
    trained_classifier(on_progress, recipe, cache)
    shipped = SHIPPED / _file_of(recipe)
    if shipped.exists():
        return
    SHIPPED.mkdir(exist_ok=True)
    shutil.copy(cache / shipped.name, shipped)
    for other in set(SHIPPED.glob("*.pt")) - {shipped}:
        other.unlink()


if __name__ == "__main__":
    ship(lambda phase, done, total: print(f"{phase} {done}/{total}"))
