from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i_engine.cli.files import Destination, read_captions
from t2i_engine.errors import CaptionError, OptionError, OutputError
from t2i_engine.pictures import Picture


def _pictures(count: int) -> list[Picture]:
    return [Picture(np.zeros((4, 4, 3), np.uint8), "a bird", seed, "tiny") for seed in range(count)]


def test_captions_are_the_lines_that_are_not_blank(tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_bytes("\ufeffa bird\r\n\n  a red bird \u2028 with 鳥\n".encode())
    assert read_captions(file) == ["a bird", "a red bird \u2028 with 鳥"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no caption"),
        (b"\n \n", "holds no caption"),
        (b"a bird\n\xff\n", r"is not UTF-8 \(line 2\)"),
        (b"\xef\xbb\xbfa\n\xff", r"is not UTF-8 \(line 2\)"),
    ],
)
def test_file_without_readable_captions_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "captions.txt"
    file.write_bytes(content)
    with pytest.raises(CaptionError, match=message):
        read_captions(file)


@pytest.mark.parametrize("name", ["missing.txt", ".", "n\0l", "x" * 5000])
def test_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(CaptionError, match="cannot be read"):
        read_captions(tmp_path / name)


@pytest.mark.parametrize(
    ("out", "folder", "file"),
    [
        (".", ".", None),
        ("new/folder", "new/folder", None),
        ("there.png", "there.png", None),
        ("v1.2/", "v1.2", None),
        ("bird.png", ".", "bird.png"),
        ("new/bird.JPG", "new", "bird.JPG"),
    ],
)
def test_out_is_a_folder_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, folder: str, file: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.png").mkdir()
    assert Destination.parse(out, 1) == Destination(Path(folder), file)


def test_nothing_is_written_before_the_first_picture(tmp_path: Path) -> None:
    destination = Destination.parse(str(tmp_path / "new" / "folder"), 2)
    assert not list(tmp_path.iterdir())
    paths = [path for _, path in destination.save(_pictures(2))]
    assert paths == [tmp_path / "new" / "folder" / f"a-bird-{seed}.png" for seed in range(2)]
    assert all(path.is_file() for path in paths)


@pytest.mark.parametrize(("picture_format", "kind"), [("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_pictures_in_a_folder_have_the_format_asked_for(tmp_path: Path, picture_format: str, kind: str) -> None:
    quality = 60 if kind != "PNG" else None
    ((_, path),) = Destination.parse(f"{tmp_path}/", 1, picture_format, quality).save(_pictures(1))
    assert path == tmp_path / f"a-bird-0.{picture_format}"
    with Image.open(path) as image:
        assert image.format == kind


def test_the_same_picture_twice_is_one_file(tmp_path: Path) -> None:
    made = list(Destination.parse(f"{tmp_path}/", 40).save(_pictures(1) * 40))
    assert {path for _, path in made} == set(tmp_path.iterdir()) == {tmp_path / "a-bird-0.png"}


@pytest.mark.parametrize(
    ("out", "picture_format", "quality", "message"),
    [
        ("", None, 90, "PNG keeps every level"),
        ("bird.png", None, 90, "PNG keeps every level"),
        ("", "jpg", 0, "quality 0 is out of range; 1 to 100 expected"),
        ("bird.webp", None, 101, "quality 101 is out of range"),
        ("bird.png", "jpg", None, "is not a jpg file; drop --format"),
    ],
)
def test_a_quality_or_format_that_does_not_fit_is_an_error(
    tmp_path: Path, out: str, picture_format: str | None, quality: int | None, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        Destination.parse(f"{tmp_path}/{out}", 1, picture_format, quality)


def test_grid_is_one_file_for_all_pictures(tmp_path: Path) -> None:
    made = list(Destination.parse(str(tmp_path / "grid.png"), 1).save(_pictures(5), as_grid=True))
    assert [picture.seed for picture, _ in made] == [0, 1, 2, 3, 4]
    assert {path for _, path in made} == {tmp_path / "grid.png"}
    assert list(tmp_path.iterdir()) == [tmp_path / "grid.png"]


def test_several_pictures_do_not_fit_into_one_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"2 pictures do not fit into .* give a folder, or add --grid"):
        Destination.parse(str(tmp_path / "bird.png"), 2)


def test_file_that_is_not_a_picture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"does not end with \.png, .*; end a folder's name with /"):
        Destination.parse(str(tmp_path / "bird.gif"), 1)


@pytest.mark.parametrize("out", ["file/folder", "file", "file/bird.png", "n\0l", "x" * 5000, "x" * 5000 + ".png"])
def test_folder_that_cannot_be_written_is_an_error(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write to"):
        list(Destination.parse(f"{tmp_path}/{out}", 1).save(_pictures(1)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
