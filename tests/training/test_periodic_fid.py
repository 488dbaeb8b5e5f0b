"""FID during training: of held-out pictures, the same on two processes as on one, and stopped on all together."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from t2i_engine.backends.base import Array
from t2i_engine.pictures import Pixels
from t2i_engine.tokenizer import PADDING, Tokenizer
from tests.training.data.made import picture
from tests.training.evaluation.instruments import MeanColours, painting_sampler
from training import periodic_fid
from training.config import RunConfig, parse_config
from training.data.source import DataError
from training.distributed import joined, rank
from training.evaluation import draws
from training.progress import Progress

WORDS = Tokenizer((PADDING, *(f"w{number}" for number in range(40))))


def make_data(folder: Path) -> Path:
    """Forty pictures of different colours, with a caption each."""
    for number in range(40):
        file = picture(folder / f"{number}.png", f"rgb({6 * number}, {255 - 5 * number}, {number % 7 * 30})")
        file.with_suffix(".txt").write_text(f"w{number}", encoding="utf-8")
    return folder


def config(folder: Path, **changes: object) -> RunConfig:
    data = {"source": f"folder:{folder}", "resolution": 32, "validation_share": 0.25} | changes
    return parse_config({"name": "tiny", "data": data, "fid": {"every": 1, "count": 15}}, "tiny")


def paint(tokens: Array, seeds: list[int]) -> Pixels:
    """Noise that depends on token and seed."""
    rngs = [np.random.default_rng([token, seed]) for token, seed in zip(tokens, seeds, strict=True)]
    return np.stack([rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for rng in rngs])


def fid(settings: RunConfig) -> periodic_fid.PeriodicFid:
    sampler = painting_sampler(WORDS, 32, paint)  # type: ignore[arg-type]
    with Progress() as progress:
        return periodic_fid.PeriodicFid(settings, sampler, torch.device("cpu"), progress)


def prepare(patch: Callable[[object, str, object], None]) -> None:
    """A small feature network, and batches so small that two processes have different numbers of them."""
    patch(periodic_fid, "Inception", lambda device: MeanColours())
    patch(periodic_fid, "BATCH", 7)
    patch(draws, "BATCH", 7)


def share(folder: Path) -> None:
    """What each of two processes measures: once to the end, and once until the second wants to stop."""
    prepare(setattr)
    with joined():
        measuring = fid(config(folder / "data"))
        answers = iter([False, rank() == 1])
        found = [measuring.measure(lambda: False), measuring.measure(lambda: next(answers))]
        (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.fixture(autouse=True)
def _prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare(monkeypatch.setattr)


def test_two_processes_measure_what_one_does_and_stop_together(tmp_path: Path) -> None:
    from tests.training.test_distributed import start  # here, because the two need not import the trainers

    data = make_data(tmp_path / "data")
    code = "import sys; from pathlib import Path; from tests.training import test_periodic_fid as tests; "
    for process in start(code + "tests.share(Path(sys.argv[1]))", tmp_path):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    one, other = (json.loads((tmp_path / f"{number}.json").read_text(encoding="utf-8")) for number in range(2))
    assert one == other
    found, stopped = one
    assert stopped is None
    alone = fid(config(data)).measure(lambda: False)
    assert alone is not None
    assert (alone["pictures"], alone["real"]) == (15, 10)
    assert found == alone | {"value": pytest.approx(alone["value"], rel=1e-9)}


def test_held_out_pictures_are_cropped_as_training_crops(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    whole, cropped = (fid(config(data, random_crop=crop)).measure(lambda: False) for crop in (False, True))
    assert whole is not None
    assert cropped is not None
    assert (whole["random_crop"], cropped["random_crop"]) == (False, True)
    assert (whole["real"], cropped["real"]) == (10, 20)


def test_only_held_out_pictures_and_captions_are_compared(tmp_path: Path) -> None:
    measuring = fid(config(make_data(tmp_path / "data")))
    keys = set(measuring.draws.data.keys)
    assert len(keys) == 10
    drawn = {caption for batch in measuring.draws.batches() for caption in batch.captions}
    assert {f"folder/{caption[1:]}.png" for caption in drawn} == keys


def test_too_few_held_out_pictures_are_an_error_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fewer than two held-out pictures.*raise data\.validation_share"):
        fid(config(make_data(tmp_path / "data"), validation_share=0.02))
