"""Tar shards: read once an epoch by all readers together, and at any step as if from the beginning."""

import io
import json
import multiprocessing
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2i_engine.tokenizer import Tokenizer
from training.config import DataConfig
from training.data.corpus import Batches
from training.data.feed import Batch, Feed
from training.data.loading import load_training_data
from training.data.source import DataError, open_source


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_shard(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Four shards of five pictures, whose shade is their number, times ten; the caption says the number."""
    for shard in range(4):
        members: dict[str, bytes] = {}
        for number in range(5 * shard, 5 * shard + 5):
            members |= {f"{number:03d}.png": picture(10 * number), f"{number:03d}.txt": f"shade w{number}\n".encode()}
        write_shard(tmp_path / f"train-{shard}.tar", members)
    return tmp_path


def batches(pattern: object, **settings: object) -> Batches:
    config = DataConfig.model_validate(
        {"source": f"webdataset:{pattern}", "resolution": 32, "horizontal_flip": False, **settings}
    )
    data = load_training_data(config)
    return data.batches(Tokenizer(data.words))


def feed(data: Batches, size: int, seed: int = 0) -> Feed:
    return Feed(data, seed, size, torch.device("cpu"), max_words=None, hard_negatives=0)


def numbers(batch: Batch) -> list[int]:
    return [round((float(value) + 1) * 12.75) for value in batch.image[:, 0, 0, 0]]


def test_an_epoch_shows_every_picture_once_whatever_reads_it(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for workers, world in ((1, 1), (2, 1), (2, 2)):
        shown: list[int] = []
        monkeypatch.setattr("training.data.feed.world", lambda world=world: world)
        for rank in range(world):
            monkeypatch.setattr("training.data.feed.rank", lambda rank=rank: rank)
            read = feed(batches(shards / "train-{0..3}.tar", num_workers=workers), 5)
            shown += [n for step in range(4 // world) for n in numbers(read.batch(step))]
        assert sorted(shown) == list(range(20)), (workers, world)
        assert shown != list(range(20))


def test_every_picture_comes_with_its_own_caption(shards: Path) -> None:
    config = DataConfig.model_validate({"source": str(shards), "resolution": 32})
    data = load_training_data(config)
    words = data.words
    batch = feed(data.batches(Tokenizer(words)), 5).batch(0)
    for number, ids in zip(numbers(batch), batch.tokens, strict=True):
        assert [words[i] for i in ids] == ["shade", f"w{number}"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_in_the_middle_is_the_same_from_anywhere(shards: Path, workers: int) -> None:
    """Steps 0 to 7 go through two epochs, which are in different orders."""
    straight = feed(batches(shards / "*.tar", num_workers=workers), 5, seed=3)
    steps = [straight.batch(step) for step in range(8)]
    assert Counter(n for batch in steps for n in numbers(batch)) == Counter([*range(20), *range(20)])
    assert [numbers(batch) for batch in steps[:4]] != [numbers(batch) for batch in steps[4:]]
    resumed = feed(batches(shards / "*.tar", num_workers=workers), 5, seed=3)
    for step in (5, 6, 2):
        for one, other in zip(steps[step], resumed.batch(step), strict=True):
            assert torch.equal(one, other)


def test_reading_leaves_the_randomness_of_the_step_alone(shards: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    feed(batches(shards / "*.tar"), 2).batch(5)
    assert torch.equal(torch.rand(3), expected)


def test_equal_captions_have_one_number_and_pictures_are_cropped_and_mirrored(tmp_path: Path) -> None:
    """Pictures of 38², whose left half is black."""
    half = io.BytesIO()
    Image.fromarray(np.repeat(np.arange(38) >= 19, 38).reshape(38, 38).T).convert("RGB").save(half, "PNG")
    members: dict[str, bytes] = {}
    for number in range(20):
        members |= {f"{number}.png": half.getvalue(), f"{number}.txt": f"a bird {'red' if number % 2 else ''}".encode()}
    write_shard(tmp_path / "x.tar", members)
    data = batches(tmp_path / "x.tar", random_crop=True, horizontal_flip=True)
    batch = feed(data, 20).batch(0)
    assert batch.image.shape == (20, 3, 32, 32)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    black = (batch.image[:, 0, 0] == -1).sum(1)
    assert set(black.tolist()) <= set(range(13, 20))
    assert len(set(black.tolist())) > 1
    assert 0 < (batch.image[:, 0, 0, 0] == -1).sum() < 20
    assert len({(int(number), int(length)) for number, length in zip(batch.captions, batch.lengths, strict=True)}) == 2
    assert len(set(batch.captions.tolist())) == 2
    assert len(set(batch.groups.tolist())) == 20


def test_a_closed_feed_ends_its_readers(shards: Path) -> None:
    read = feed(batches(shards / "*.tar", num_workers=2), 2)
    read.batch(0)
    readers = multiprocessing.active_children()
    assert len(readers) >= 2
    read.close()
    assert not set(readers) & set(multiprocessing.active_children())


def test_shards_are_never_in_memory_as_a_whole_and_have_no_hard_negatives(shards: Path) -> None:
    with pytest.raises(DataError, match=r"streamed.*data\.on_device=auto"):
        batches(shards / "*.tar", on_device=True)
    with pytest.raises(DataError, match="only synthbirds can make hard negatives"):
        Feed(batches(shards / "*.tar"), 0, 2, torch.device("cpu"), max_words=None, hard_negatives=1)


def test_another_seed_is_another_order(shards: Path) -> None:
    data = batches(shards / "*.tar", num_workers=1)
    assert numbers(feed(data, 10, seed=0).batch(0)) != numbers(feed(data, 10, seed=1).batch(0))


def test_a_broken_picture_is_replaced_and_moves_nothing(shards: Path) -> None:
    before = feed(batches(shards / "*.tar", num_workers=1), 10)
    expected = [numbers(before.batch(step)) for step in range(2)]
    members = {f"{n:03d}.{end}": content for n in range(5) for end, content in
               (("png", picture(10 * n) if n != 2 else b"no picture"), ("txt", f"shade w{n}".encode()))}  # fmt: skip
    write_shard(shards / "train-0.tar", members)
    after = feed(batches(shards / "*.tar", num_workers=1), 10)
    for step in range(2):
        found = numbers(after.batch(step))
        assert all(one in (other, *found) for one, other in zip(found, expected[step], strict=True))
        assert [one == other for one, other in zip(found, expected[step], strict=True)].count(False) == (
            2 in expected[step]
        )
        assert 2 not in found


def test_fewer_shards_than_processes_are_an_error(shards: Path) -> None:
    with pytest.raises(DataError, match="4 shards cannot be dealt out to 5 processes"):
        next(batches(shards / "*.tar").drafts(0, 0, 2, rank=0, world=5))


def test_a_shard_that_goes_away_is_one_line(shards: Path) -> None:
    read = feed(batches(shards / "*.tar", num_workers=1), 2)
    for file in shards.glob("*.tar"):
        file.unlink()
    with pytest.raises(DataError, match="can no longer be read") as caught:
        read.batch(0)
    assert "Traceback" not in caught.value.message


def test_captions_may_be_json_and_what_lacks_them_is_named(tmp_path: Path) -> None:
    members = {
        "a.jpg": picture(10), "a.json": json.dumps({"caption": "one"}).encode(),
        "b.jpg": picture(20), "b.json": json.dumps({"captions": ["two", "deux"]}).encode(),
        "c.jpg": picture(30),
        "d.jpg": picture(40), "d.txt": b" \n",
        "e.txt": b"five",
        "f.jpg": picture(60), "f.json": b"{",
        "g.jpg": picture(70), "g.json": json.dumps({"caption": {"en": "seven", "de": "sieben"}}).encode(),
        "h.jpg": picture(80), "h.json": b"[" * 200_000,
    }  # fmt: skip
    write_shard(tmp_path / "x.tar", members)
    found = open_source(f"webdataset:{tmp_path / 'x.tar'}").listing("train")
    assert [(item.key, item.load(32).captions) for item in found.items] == [
        ("webdataset/x.tar/a", ("one",)),
        ("webdataset/x.tar/b", ("two", "deux")),
    ]
    assert np.array_equal(found.items[1].load(32).image[0, 0], [20, 0, 0])
    assert {(problem.kind, problem.name[-1]) for problem in found.problems} == {
        ("no caption", "c"), ("empty caption file", "d"), ("absent picture", "e"), ("no caption", "f"),
        ("no caption", "g"), ("no caption", "h"),
    }  # fmt: skip


def test_broken_shards_are_left_out_and_named(shards: Path) -> None:
    content = (shards / "train-1.tar").read_bytes()
    (shards / "train-1.tar").write_bytes(content[:3000])
    (shards / "train-2.tar").write_bytes(b"no archive")
    found = open_source(str(shards)).listing("train")
    assert len(found.items) == 10
    assert [problem.kind for problem in found.problems] == ["broken shard"] * 2
    assert "train-1.tar" in found.problems[0].name
    assert len(numbers(feed(batches(shards / "*.tar"), 10).batch(0))) == 10


def test_the_pattern_tells_the_splits_apart(shards: Path) -> None:
    write_shard(shards / "test-0.tar", {"a.png": picture(0), "a.txt": b"black"})
    source = open_source(f"webdataset:{shards}/{{split}}-*.tar")
    assert len(source.listing("train").items) == 20
    assert len(source.listing("test").items) == 1
    assert not open_source(f"webdataset:{shards}/train-*.tar").listing("test").items


@pytest.mark.parametrize(
    ("pattern", "named"),
    [("pipe:touch executed", "not a file"), ("https://a.b/c.tar", "not a file"), ("none-*.tar", "not found"),
     ("none-{0..3}.tar", "4 shards"), ("none-{0..3.tar", "braces")],
)  # fmt: skip
def test_only_files_are_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, named: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=named):
        open_source(f"webdataset:{pattern}")
    assert not list(tmp_path.iterdir())
