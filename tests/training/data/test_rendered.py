"""Drawn pictures are kept, complete or not at all."""

from pathlib import Path

import numpy as np
import pytest

from training.data import rendered
from training.data.synthbirds import SynthBirds


def test_kept_pictures_are_those_of_the_data_set_and_are_not_drawn_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    first = rendered.render_synthbirds("train", 12, 32, tmp_path, drawn.append)
    assert drawn == [12]
    birds = SynthBirds("train", 12, 32)
    assert np.array_equal(first.pictures, [birds[i].image for i in range(12)])
    assert first.captions == [birds[i].captions for i in range(12)]

    monkeypatch.delattr(rendered, "SynthBirds")
    again = rendered.render_synthbirds("train", 12, 32, tmp_path, drawn.append)
    assert np.array_equal(again.pictures, first.pictures)
    assert again.captions == first.captions


def test_a_killed_drawing_is_drawn_again(tmp_path: Path) -> None:
    complete = rendered.render_synthbirds("train", 4, 32, tmp_path)
    for captions in tmp_path.glob("*.json"):
        captions.unlink()
    assert np.array_equal(rendered.render_synthbirds("train", 4, 32, tmp_path).pictures, complete.pictures)
