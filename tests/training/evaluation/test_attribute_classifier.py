from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.rendered import render_synthbirds
from training.data.synthbirds import SynthBirds
from training.data.synthbirds.caption_attributes import ATTRIBUTES, visible_attributes
from training.evaluation.attribute_accuracy import (
    RESOLUTION,
    AttributeNetwork,
    Classifier,
    Recipe,
    measured_accuracies,
    ship,
    train,
    trained_classifier,
)

RECIPE = Recipe(pictures=48, steps=2, batch_size=8, tested=3)


def test_classifier_learns_what_its_renders_show(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = AttributeNetwork()
    recipe = Recipe(pictures=16, steps=40, batch_size=16, learning_rate=4e-3, shift=0, tested=1)
    train(network, recipe, tmp_path, lambda phase, total: None, lambda done: None)
    pictures = render_synthbirds("train", 16, RESOLUTION, tmp_path).pictures
    found = Classifier(network.eval(), {}).classify(pictures)
    birds = SynthBirds("train", 16, RESOLUTION)
    right = [
        found[index][name] == value
        for index in range(16)
        for name, value in visible_attributes(birds.attributes(index)).items()
        if name in ("kind", "setting", "main colour")
    ]
    assert np.mean(right) > 0.8


def test_classifier_is_trained_once_for_each_recipe(tmp_path: Path) -> None:
    trained: list[str] = []

    def on_start(phase: str, total: int) -> None:
        trained.append(phase)

    def on_progress(done: int) -> None:
        trained.append(str(done))

    first = trained_classifier(on_start, on_progress, RECIPE, tmp_path)
    drawn = len(trained)
    again = trained_classifier(on_start, on_progress, RECIPE, tmp_path)
    assert len(trained) == drawn > 0
    pictures = np.random.default_rng(0).integers(0, 256, (3, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    assert first.classify(pictures) == again.classify(pictures)
    assert first.accuracies == again.accuracies
    assert first.accuracies.keys() <= ATTRIBUTES.keys()
    trained_classifier(on_start, on_progress, replace(RECIPE, steps=3), tmp_path)
    assert len(trained) > drawn


def test_the_default_classifier_is_there_and_as_good_as_it_says(tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("it is trained: `python -m training.evaluation.attribute_accuracy` ships the one of this recipe")

    classifier = trained_classifier(refuse, refuse, cache=tmp_path)
    for name, accuracy in classifier.accuracies.items():
        assert accuracy >= 0.98, name
    found = measured_accuracies(classifier, 300, tmp_path)
    assert found == {name: pytest.approx(share, abs=0.06) for name, share in classifier.accuracies.items()}


def test_another_recipe_is_shipped_in_place_of_the_former(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped, cache = tmp_path / "shipped", tmp_path / "cache"
    monkeypatch.setattr("training.evaluation.attribute_accuracy.SHIPPED", shipped)
    trained: list[str] = []
    for steps in (1, 2):
        ship(lambda phase, total: trained.append(phase), lambda done: None, replace(RECIPE, steps=steps), cache)
    assert len(list(shipped.glob("*.pt"))) == 1
    drawn = len(trained)
    ship(lambda phase, total: trained.append(phase), lambda done: None, replace(RECIPE, steps=2), tmp_path / "new")
    assert len(trained) == drawn
    assert len(list(shipped.glob("*.pt"))) == 1


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_pictures_of_any_resolution_are_classified(resolution: int) -> None:
    pictures = np.zeros((2, resolution, resolution, 3), np.uint8)
    found = Classifier(AttributeNetwork().eval(), {}).classify(pictures)
    assert [row.keys() for row in found] == [ATTRIBUTES.keys()] * 2
    assert all(value in ATTRIBUTES[name] for row in found for name, value in row.items())
