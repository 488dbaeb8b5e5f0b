"""Attribute accuracy: how often a picture shows what its caption asks for, as seen by a classifier trained on renders.

The classifier of the default recipe is shipped with the project, so that everyone's pictures are measured alike and
nobody waits for its training. After a change to the renders, the network or the recipe, ship a new one:

    python -m training.evaluation.attribute_accuracy
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2i_engine.files import cache_folder
from t2i_engine.pictures import Pixels
from training.data.rendered import render_synthbirds
from training.data.synthbirds import PICTURES, SynthBirds
from training.data.synthbirds.caption_attributes import ATTRIBUTES, caption_attributes, fits, visible_attributes
from training.evaluation import GeneratedBatch, Result, cached, percent, read_cached, table
from training.evaluation.draws import in_batches
from training.models.image_encoder import SmallCNN
from training.models.pixels import to_image
from training.precision import autocast
from training.progress import Progress

VERSION = 2
"""Part of the classifier's file name: increment it when the network or its training changes in code."""
RESOLUTION = 128
UNLABELLED = -1
SHIPPED = Path(__file__).parent / "classifiers"
ALL_ATTRIBUTES = "everything asked for"
_OFFSETS = tuple(np.cumsum([0, *(len(values) for values in ATTRIBUTES.values())]).tolist())


@dataclass(frozen=True)
class Recipe:
    """How the classifier is trained, and on how many unseen renders it is tested."""

    pictures: int = 60_000
    steps: int = 15_000
    batch_size: int = 128
    learning_rate: float = 2e-3
    shift: int = 6
    """Pictures are shifted by up to this many pixels in each direction, and half of them flipped horizontally."""
    tested: int = 2_000


class _Backbone(SmallCNN):
    """DAMSM's small CNN for 2 x 2 pixels at each of 64 x 64 places, so that it sees all pixels of 128²."""

    place_channels = 192
    summary_channels = place_channels * SmallCNN.places**2

    def __init__(self) -> None:
        super().__init__()
        self.stem[0] = nn.Conv2d(12, 32, 3, stride=2, padding=1)


class AttributeNetwork(nn.Module):
    """A small CNN with one linear layer for all attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _Backbone()
        self.head = nn.Linear(_Backbone.summary_channels, _OFFSETS[-1])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps `image` float (B, 3, 128, 128) in [−1, 1] to the logits of each attribute, (B, values)."""
        _, summary = self.backbone(F.pixel_unshuffle(image, 2))
        logits: Tensor = self.head(summary)
        return [logits[:, start:end] for start, end in pairwise(_OFFSETS)]


@dataclass(frozen=True)
class Classifier:
    """A trained network, and its accuracy per attribute on unseen renders."""

    network: AttributeNetwork
    accuracies: dict[str, float]

    @torch.inference_mode()
    def classify(self, pixels: Pixels) -> list[dict[str, str]]:
        """The attributes of each picture; `pixels` uint8 (B, R, R, 3) of any R are area-averaged to R = 128.

        No attribute depends on left and right, so the logits of a picture and of its mirror image are summed.
        """
        image = to_image(torch.from_numpy(pixels.copy()).to(next(self.network.parameters()).device))
        resized = F.interpolate(image, (RESOLUTION, RESOLUTION), mode="area")
        both = zip(self.network(resized), self.network(resized.flip(3)), strict=True)
        best = [(logits + mirrored).argmax(1).tolist() for logits, mirrored in both]
        return [
            {name: values[index] for (name, values), index in zip(ATTRIBUTES.items(), row, strict=True)}
            for row in zip(*best, strict=True)
        ]


def trained_classifier(
    on_start: Callable[[str, int], None],
    on_progress: Callable[[int], None],
    recipe: Recipe = Recipe(),
    cache: Path | None = None,
) -> Classifier:
    """The classifier of a recipe: shipped, cached, or trained now, which takes minutes of a GPU or hours of a CPU.

    `on_start` gets a phase and its length, `on_progress` how much of it is done.
    """
    cache = cache or cache_folder()
    file = _file_name(recipe)

    def compute() -> dict[str, Any]:
        network = AttributeNetwork().to("cuda" if torch.cuda.is_available() else "cpu")
        train(network, recipe, cache, on_start, on_progress)
        network.half()  # half the size, and tested as it will be used
        weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        accuracies = measured_accuracies(Classifier(network.float().eval(), {}), recipe.tested, cache)
        return {"network": weights, "accuracies": accuracies}

    content = read_cached(SHIPPED / file) or cached(cache / file, compute)
    network = AttributeNetwork()
    network.load_state_dict(content["network"])
    return Classifier(network.eval(), content["accuracies"])


def _file_name(recipe: Recipe) -> str:
    """Identifies a classifier by everything that it is made from."""
    made_from = {"classifier": VERSION, "synthbirds": PICTURES, **asdict(recipe), "attributes": ATTRIBUTES}
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    return f"attributes-{digest}.pt"


def train(
    network: AttributeNetwork,
    recipe: Recipe,
    cache: Path,
    on_start: Callable[[str, int], None],
    on_progress: Callable[[int], None],
) -> None:
    """Trains the network in place, on its device, in bfloat16 if that is faster, on renders of the training split."""
    device = next(network.parameters()).device
    on_start("drawing renders", recipe.pictures)
    rendered = render_synthbirds("train", recipe.pictures, RESOLUTION, cache, on_progress)
    birds = SynthBirds("train", recipe.pictures, RESOLUTION)
    labels = encode(visible_attributes(birds.attributes(index)) for index in range(recipe.pictures)).to(device)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps)
    network.train().to(memory_format=torch.channels_last)
    on_start("training the classifier", recipe.steps)
    for step in range(recipe.steps):
        chosen = np.sort(rng.choice(recipe.pictures, recipe.batch_size, replace=False))
        pixels, targets = torch.from_numpy(rendered.pictures[chosen]).to(device), labels[chosen]
        image = _augmented(pixels, recipe.shift, rng)
        with autocast(image.device, "auto"):
            logits = network(image)
        losses = [
            F.cross_entropy(part.float(), targets[:, number], ignore_index=UNLABELLED, reduction="sum")
            for number, part in enumerate(logits)
        ]
        optimizer.zero_grad(set_to_none=True)
        (torch.stack(losses).sum() / targets.numel()).backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
            on_progress(step + 1)


def measured_accuracies(classifier: Classifier, count: int, cache: Path) -> dict[str, float]:
    """The classifier's accuracy per attribute on unseen renders, where the attribute is visible."""
    birds = SynthBirds("test", count, RESOLUTION)
    right, visible = Counter[str](), Counter[str]()
    pictures = render_synthbirds("test", count, RESOLUTION, cache).pictures
    predicted = (row for batch in in_batches(pictures) for row in classifier.classify(batch))
    for index, row in enumerate(predicted):
        for name, value in visible_attributes(birds.attributes(index)).items():
            visible[name] += 1
            right[name] += row[name] == value
    return {name: right[name] / visible[name] for name in ATTRIBUTES if visible[name]}


def encode(attributes: Iterable[dict[str, str]]) -> Tensor:
    """Labels int64 (N, attributes): the index of each value, or -1 if the attribute is not visible."""
    rows = [
        [values.index(row[name]) if name in row else UNLABELLED for name, values in ATTRIBUTES.items()]
        for row in attributes
    ]
    return torch.tensor(rows)


def _augmented(pixels: Tensor, shift: int, rng: np.random.Generator) -> Tensor:
    """Pixels uint8 (B, R, R, 3) as an image in [−1, 1], half of it flipped, all shifted by the same few pixels."""
    flipped = torch.from_numpy(rng.random(len(pixels)) < 0.5).to(pixels.device)
    image = to_image(torch.where(flipped[:, None, None, None], pixels.flip(2), pixels))
    top, left = rng.integers(2 * shift + 1, size=2)
    padded = F.pad(image, (shift,) * 4, mode="replicate")[:, :, top : top + RESOLUTION, left : left + RESOLUTION]
    return padded.contiguous(memory_format=torch.channels_last)


def ship(
    on_start: Callable[[str, int], None],
    on_progress: Callable[[int], None],
    recipe: Recipe = Recipe(),
    cache: Path | None = None,
) -> None:
    """Replaces whatever is in SHIPPED by the classifier of a recipe, unless it is there already."""
    cache = cache or cache_folder()
    trained_classifier(on_start, on_progress, recipe, cache)
    shipped = SHIPPED / _file_name(recipe)
    if shipped.exists():
        return
    SHIPPED.mkdir(exist_ok=True)
    shutil.copy(cache / shipped.name, shipped)
    for other in set(SHIPPED.glob("*.pt")) - {shipped}:
        other.unlink()


class AttributeAccuracy:
    """Compares what captions ask for with what the classifier sees, in generated pictures and in real ones.

    The real pictures are the renders that the captions describe. What the classifier misses in them is its own error or
    too small to see, so they are the upper bound.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.captions = 0
        self.asked, self.generated, self.renders = Counter[str](), Counter[str](), Counter[str]()

    def update(self, batch: GeneratedBatch) -> None:
        """Takes in a batch."""
        self.captions += len(batch.captions)
        seen = (self.classifier.classify(pixels) for pixels in (batch.pixels, batch.real))
        for caption, generated, render in zip(batch.captions, *seen, strict=True):
            asked = caption_attributes(caption)
            wanted = {name: {name: values} for name, values in asked.items()}
            for name, part in (wanted | {ALL_ATTRIBUTES: asked} if asked else wanted).items():
                self.asked[name] += 1
                self.generated[name] += fits(part, generated)
                self.renders[name] += fits(part, render)

    def result(self) -> Result:
        """Per attribute, the number of captions that ask for it and the percentage of their pictures that show it."""
        attributes = {
            name: {
                "asked": self.asked[name],
                "generated": percent(self.generated[name], self.asked[name]),
                "renders": percent(self.renders[name], self.asked[name]),
            }
            for name in (*ATTRIBUTES, ALL_ATTRIBUTES)
            if self.asked[name]
        }
        accuracies = {name: round(100 * share, 2) for name, share in self.classifier.accuracies.items()}
        rows = [
            (name, f"{found['asked']:,}", f"{found['generated']:.1f} %", f"{found['renders']:.1f} %")
            for name, found in attributes.items()
        ]
        of_classifier = ", ".join(f"{name} {share:.1f}" for name, share in accuracies.items())
        return Result(
            {"attribute_accuracy": {"captions": self.captions, "attributes": attributes, "classifier": accuracies}},
            f"{table(('attribute', 'asked for', 'generated', 'renders'), rows)}\n\n{self.captions:,} captions, judged "
            f"by a classifier trained on renders only; its accuracy on unseen renders, in percent: {of_classifier}.",
        )


if __name__ == "__main__":
    with Progress() as shown:
        ship(shown.start, shown.report)
