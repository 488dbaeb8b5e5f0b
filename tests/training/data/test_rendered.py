"""Pictures are made once, kept complete or not at all, and made again whenever one of them is another."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from training.data import rendered
from training.data.files import PictureFile, list_files
from training.data.rendered import Rendered, render, render_synthbirds
from training.data.source import DataError, Listing
from training.data.synthbirds import SynthBirds


def flat(path: Path, colour: str) -> Path:
    Image.new("RGB", (40, 40), colour).save(path)
    return path


def listing(folder: Path) -> Listing:
    files = (PictureFile(file, (f"a {file.stem} picture",), file.stem) for file in sorted(folder.glob("*.png")))
    return list_files("test", "train", files)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    folder = tmp_path / "colours"
    folder.mkdir()
    for colour in ("blue", "green", "red"):
        flat(folder / f"{colour}.png", colour)
    return folder


def test_kept_pictures_are_those_of_the_data_set_and_are_not_drawn_twice(tmp_path: Path) -> None:
    drawn: list[int] = []
    first = render_synthbirds("train", 12, 32, tmp_path, drawn.append)
    birds = SynthBirds("train", 12, 32)
    assert np.array_equal(first.pictures, [birds[i].image for i in range(12)])
    assert first.captions == [birds[i].captions for i in range(12)]
    assert first.keys == [birds.key(i) for i in range(12)]
    assert drawn == [12]
    again = render_synthbirds("train", 12, 32, tmp_path, drawn.append)
    assert drawn == [12]
    assert np.array_equal(again.pictures, first.pictures)
    assert again.captions == first.captions


def test_many_chunks_keep_their_order(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "CHUNK", 1)
    found = render(listing(colours), 4, tmp_path / "cache")
    assert found.keys == ["blue", "green", "red"]
    assert found.pictures[:, 0, 0].tolist() == [[0, 0, 255], [0, 128, 0], [255, 0, 0]]


def test_a_changed_added_or_removed_picture_is_never_taken_from_what_was_kept(colours: Path, tmp_path: Path) -> None:
    def now() -> Rendered:
        return render(listing(colours), 4, tmp_path / "cache")

    now()
    flat(colours / "red.png", "white")
    assert now().pictures[2, 0, 0].tolist() == [255, 255, 255]
    flat(colours / "yellow.png", "yellow")
    assert now().keys == ["blue", "green", "red", "yellow"]
    (colours / "blue.png").unlink()
    assert now().keys == ["green", "red", "yellow"]


def test_other_captions_are_other_content(colours: Path) -> None:
    file = PictureFile(colours / "red.png", ("red",), "red")
    other = PictureFile(colours / "red.png", ("crimson",), "red")
    assert list_files("test", "train", [file]).fingerprint != list_files("test", "train", [other]).fingerprint
    assert list_files("test", "train", [file]) == list_files("test", "train", [file])


def test_a_copy_elsewhere_has_the_same_version_but_is_looked_at_again(colours: Path, tmp_path: Path) -> None:
    before = listing(colours)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in colours.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
        os.utime(copy / file.name, (0, 0))
    assert listing(copy).version == before.version
    assert listing(copy).fingerprint != before.fingerprint
    flat(copy / "red.png", "white").write_bytes((copy / "red.png").read_bytes() + b" ")
    assert listing(copy).version != before.version


def test_broken_pictures_are_left_out_and_named(colours: Path, tmp_path: Path) -> None:
    (colours / "green.png").write_bytes((colours / "green.png").read_bytes()[:60])
    for _ in range(2):  # made, and found again
        found = render(listing(colours), 4, tmp_path / "cache")
        assert found.keys == ["blue", "red"]
        assert found.captions == [("a blue picture",), ("a red picture",)]
        assert found.pictures[1, 0, 0].tolist() == [255, 0, 0]
        assert [problem.kind for problem in found.broken] == ["broken picture"]
        assert "green" in found.broken[0].name


def test_pictures_that_are_all_broken_leave_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    found = render(listing(tmp_path), 4, tmp_path / "cache")
    assert found.pictures.shape == (0, 4, 4, 3)
    assert len(found.broken) == 1


@pytest.mark.parametrize("lost", ["*.json", "*.pixels", "half"])
def test_a_killed_drawing_is_drawn_again(tmp_path: Path, lost: str) -> None:
    complete = np.array(render_synthbirds("train", 4, 32, tmp_path).pictures)
    for file in tmp_path.glob("*.pixels" if lost == "half" else lost):
        content = file.read_bytes()
        file.unlink()
        if lost == "half":
            file.write_bytes(content[: len(content) // 2])
    assert np.array_equal(render_synthbirds("train", 4, 32, tmp_path).pictures, complete)


def test_processes_that_need_the_same_pictures_wait_for_one_another(colours: Path, tmp_path: Path) -> None:
    made: list[int] = []
    with ThreadPoolExecutor() as pool:
        wanted = [pool.submit(render, listing(colours), 4, tmp_path / "cache", made.append) for _ in range(2)]
        first, second = (future.result() for future in wanted)
    assert made == [3]
    assert np.array_equal(first.pictures, second.pictures)


LONG = """
import sys
from pathlib import Path
from training.data.rendered import render_synthbirds

if __name__ == "__main__":
    render_synthbirds("train", 100_000, 32, Path(sys.argv[1]))
"""


def test_a_killed_drawing_leaves_no_processes(tmp_path: Path) -> None:
    drawing = subprocess.Popen([sys.executable, "-c", LONG, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while not any(file.stat().st_size for file in tmp_path.glob("*.partial*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        workers = psutil.Process(drawing.pid).children()
    finally:
        drawing.kill()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=30)
    for process in alive:
        process.kill()
    assert not alive


def test_a_full_disk_is_one_line_with_the_cure(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"No space left on device.*XDG_CACHE_HOME"):
        render(listing(colours), 4, tmp_path / "cache")
    monkeypatch.undo()
    assert not list((tmp_path / "cache").glob(".*"))
    assert len(render(listing(colours), 4, tmp_path / "cache").keys) == 3
