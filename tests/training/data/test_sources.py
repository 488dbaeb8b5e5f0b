"""Sources by name: each format yields its pictures and captions, and says what is wrong with the others."""

import json
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.data.made import CUB_CLASSES, make_coco, make_cub, make_folder, picture, shared
from training.data.files import Box, PictureFile, read_picture
from training.data.source import (
    SPLITS,
    BrokenPictureError,
    DataError,
    Listing,
    check_source,
    open_source,
    public_name,
    require_usable,
)


def kinds(listing: Listing) -> dict[str, int]:
    return dict(Counter(problem.kind for problem in listing.problems))


def captions(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {item.key: item.load(32).captions for item in listing.items}


def test_cub_splits_are_of_different_classes_and_captions_are_lines(tmp_path: Path) -> None:
    source = open_source(f"cub:{make_cub(tmp_path)}")
    train, test = source.listing("train"), source.listing("test")
    assert {item.key.split("/")[1] for item in train.items} == set(CUB_CLASSES[:2])
    assert {item.key.split("/")[1] for item in test.items} == {CUB_CLASSES[2]}
    assert (len(train.items), len(test.items)) == (8, 4)
    assert captions(test)["cub/003.Green_Bird/Green_Bird_0000_0"] == ("this bird is green.", "a green bird")
    assert not train.problems


def test_cub_is_cropped_to_the_bird_with_df_gans_margin(tmp_path: Path) -> None:
    assert Box(100, 50, 40, 60).with_margin(500, 375) == (75, 35, 165, 125)
    assert Box(0, 0, 300.5, 200.9).with_margin(310, 230) == (0, 0, 310, 230)
    image = Image.new("RGB", (100, 80), "white")
    image.paste("red", (30, 20, 61, 51))
    image.save(tmp_path / "a.png")
    cropped = PictureFile(tmp_path / "a.png", (), "a", box=Box(35, 25, 20, 20)).load(32).image
    assert cropped.shape == (32, 32, 3)
    assert (cropped == (255, 0, 0)).all()


def test_cub_leaves_out_and_names_what_is_absent_or_without_captions(tmp_path: Path) -> None:
    folder = make_cub(tmp_path)
    name = "001.Red_Bird/Red_Bird_000"
    (folder / "CUB_200_2011" / "images" / f"{name}0_0.jpg").unlink()
    (folder / "text" / f"{name}1_1.txt").unlink()
    (folder / "text" / f"{name}2_2.txt").write_text("\n \n", encoding="utf-8")
    found = open_source(str(folder)).listing("train")
    assert len(found.items) == 5
    assert kinds(found) == {"absent picture": 1, "no caption": 1, "empty caption file": 1}
    assert f"text/{name}1_1.txt" in {problem.name for problem in found.problems}


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


def test_a_malicious_list_is_refused_and_not_executed(tmp_path: Path) -> None:
    folder, target = make_cub(tmp_path / "cub"), tmp_path / "executed"
    (folder / "train" / "filenames.pickle").write_bytes(pickle.dumps([Payload(target)]))
    with pytest.raises(DataError, match="refused"):
        open_source(str(folder)).listing("train")
    assert not target.exists()


@pytest.mark.parametrize("names", [["../../etc/passwd"], ["a/../b"], [1], {"a": 1}, "a/b", ["a"], ["a/b/c"]])
def test_a_list_of_anything_but_names_is_refused(tmp_path: Path, names: object) -> None:
    folder = make_cub(tmp_path)
    (folder / "train" / "filenames.pickle").write_bytes(pickle.dumps(names))
    with pytest.raises(DataError, match="not a list of CLASS/NAME"):
        open_source(str(folder)).listing("train")


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("train/filenames.pickle", None, "filenames.pickle"),
        ("train/filenames.pickle", b"\x80\x02]q\x00", "refused"),
        ("CUB_200_2011/bounding_boxes.txt", b"1 2 3\n", "do not match"),
        ("CUB_200_2011/bounding_boxes.txt", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_incomplete_cub_is_one_line_with_the_cure(tmp_path: Path, file: str, content: bytes | None, named: str) -> None:
    folder = make_cub(tmp_path)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=named):
        open_source(f"cub:{folder}").listing("train")


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_has_several_captions_a_picture_and_tests_with_its_validation(
    tmp_path: Path, year: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(str(make_coco(tmp_path, year=year)))
    assert source.name.startswith("coco:")
    train, test = source.listing("train"), source.listing("test")
    assert captions(train)[f"coco/train{year}/COCO_train{year}_000000000001"] == (
        "a picture w1",
        "a picture w1\n again",
    )
    assert len(test.items) == 4
    assert all(f"/val{year}/" in item.key for item in test.items)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("there", "splits"),
    [
        (("train2017", "val2014"), ("train2017", None)),
        (("train2014", "train2017", "val2017"), ("train2017", "val2017")),
        (("train2014", "val2014", "train2017", "val2017"), ("train2014", "val2014")),
        (("val2017",), (None, "val2017")),
    ],
)
def test_cocos_splits_are_of_one_year(
    tmp_path: Path, there: tuple[str, ...], splits: tuple[str | None, str | None]
) -> None:
    for year in ("2014", "2017"):
        make_coco(tmp_path, pictures=1, year=year)
    for file in (tmp_path / "annotations").iterdir():
        if file.stem.removeprefix("captions_") not in there:
            file.unlink()
    listings = [open_source(f"coco:{tmp_path}").listing(split).items for split in SPLITS]
    assert [items[0].key.split("/")[1] if items else None for items in listings] == list(splits)


def test_coco_names_absent_pictures_and_those_without_captions(tmp_path: Path) -> None:
    folder = make_coco(tmp_path)
    (folder / "train2014" / "COCO_train2014_000000000000.jpg").unlink()
    file = folder / "annotations" / "captions_train2014.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["annotations"] = [note for note in content["annotations"] if note["image_id"] != 1]
    file.write_text(json.dumps(content), encoding="utf-8")
    found = open_source(str(folder)).listing("train")
    assert len(found.items) == 2
    assert kinds(found) == {"absent picture": 1, "no caption": 1}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"[1, 2", "not a COCO captions file"),
        (b"[1, 2]", "not a COCO captions file"),
        (b"[" * 200_000, "RecursionError"),
        (b'{"images": [{"id": 1}], "annotations": []}', "file_name"),
        (b'{"images": [{"id": 1, "file_name": "../../a.jpg"}], "annotations": []}', "outside"),
        (b'{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 2, "image_id": 1}]}', "caption"),
        ('{"images": "é"}'.encode("latin-1"), "not UTF-8"),
    ],
)
def test_malformed_coco_is_one_line_with_the_cure(tmp_path: Path, content: bytes, named: str) -> None:
    folder = make_coco(tmp_path)
    (folder / "annotations" / "captions_train2014.json").write_bytes(content)
    with pytest.raises(DataError, match=named) as caught:
        open_source(str(folder)).listing("train")
    assert "captions_train2014.json" in caught.value.message


@pytest.mark.parametrize("metadata", ["metadata.jsonl", "metadata.csv", ".txt"])
def test_a_folder_has_its_captions_in_metadata_or_beside_the_pictures(tmp_path: Path, metadata: str) -> None:
    source = open_source(f"folder:{make_folder(tmp_path, metadata)}")
    found = captions(source.listing("train"))
    assert len(found) == 4
    assert found["folder/train/2.png"] == ("a picture w2", "a picture w2, again")
    assert not source.listing("test").items


def test_a_folder_without_splits_is_to_train_with(tmp_path: Path) -> None:
    picture(tmp_path / "deep" / "a.JPG")
    picture(tmp_path / "b.webp")
    rows = [{"file_name": "deep/a.JPG", "text": ["one", " two "]}]
    rows += [{"file_name": name, "text": "three"} for name in ("c.png", "\ud800.png")]  # no file can have that name
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = open_source(str(tmp_path)).listing("train")
    assert captions(found) == {"folder/deep/a.JPG": ("one", "two")}
    assert {(problem.kind, Path(problem.name).name) for problem in found.problems} == {
        ("no caption", "b.webp"), ("absent picture", "c.png"), ("absent picture", "\ud800.png"),
    }  # fmt: skip
    assert not open_source(str(tmp_path)).listing("test").items


def test_metadata_above_the_splits_names_the_pictures_of_each(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / split / "a.png")
    rows = [{"file_name": f"{split}/a.png", "text": split} for split in ("train", "val")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    source = open_source(str(tmp_path))
    assert captions(source.listing("train")) == {"folder/train/a.png": ("train",)}
    assert captions(source.listing("test")) == {"folder/val/a.png": ("val",)}


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("metadata.jsonl", b'{"file_name": "0.png"}', "after 1 rows"),
        ("metadata.jsonl", b'{"file_name": "0.png", "text": "a"}\n{"file', "after 1 rows"),
        ("metadata.jsonl", b"[1]", "metadata.jsonl"),
        ("metadata.jsonl", b"[" * 200_000, "RecursionError"),
        ("metadata.jsonl", b'{"file_name": "0.png", "text": [1]}', "metadata.jsonl"),
        ("metadata.jsonl", b'{"file_name": "../../0.png", "text": "a"}', "outside"),
        ("metadata.jsonl", '{"file_name": "0.png", "text": "é"}'.encode("latin-1"), "not UTF-8"),
        ("metadata.csv", b"file,text\n0.png,a\n", "file_name"),
        ("metadata.csv", b"file_name,text\n0.png\n", "metadata.csv"),
    ],
)
def test_malformed_metadata_is_one_line_with_the_cure(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    folder = make_folder(tmp_path, ".txt")
    (folder / "train" / name).write_bytes(content)
    with pytest.raises(DataError, match=named):
        open_source(str(folder)).listing("train")


def test_captions_of_another_encoding_stop_with_the_file_and_the_cure(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, ".txt")
    (folder / "train" / "1.txt").write_bytes("a caf\xe9".encode("latin-1"))
    found = open_source(str(folder)).listing("train")
    with pytest.raises(DataError, match=r"1 caption files are not UTF-8.*train/1\.txt.*iconv"):
        require_usable("folder:x", "train", len(found.items), found.problems)


def test_a_split_without_pictures_says_why(tmp_path: Path) -> None:
    found = open_source(f"cub:{make_cub(tmp_path, captioned=())}").listing("train")
    with pytest.raises(DataError, match=r"no captioned pictures \(no caption: 8\)"):
        require_usable("cub:x", "train", len(found.items), found.problems)


def test_pictures_become_rgb_squares(tmp_path: Path) -> None:
    grey = Image.linear_gradient("L").resize((90, 60))
    grey.save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "grey.png", 30).shape == (30, 30, 3)
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png", 32) == 255).all()
    wide = Image.new("RGB", (80, 40), "blue")
    wide.paste("red", (20, 0, 60, 40))
    wide.save(tmp_path / "wide.png")
    assert (read_picture(tmp_path / "wide.png", 40) == (255, 0, 0)).all()


def test_a_picture_is_turned_as_its_camera_was_held(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 40), "blue")
    image.paste("red", (0, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    assert read_picture(tmp_path / "a.png", 40)[-1, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"])
def test_what_is_not_a_picture_is_broken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BrokenPictureError, match=r"\w"):
        read_picture(tmp_path / "a.png", 32)


def test_truncated_deep_or_badly_boxed_pictures_are_broken(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    noise.save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1500])
    Image.new("I;16", (40, 40)).save(tmp_path / "deep.png")
    for name, box in (("cut.jpg", None), ("deep.png", None), ("a.jpg", Box(500, 500, 10, 10))):
        with pytest.raises(BrokenPictureError, match=r"\w"):
            read_picture(tmp_path / name, 32, box)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("cubs:data", "did you mean 'cub'"),
        ("synthbird", "did you mean 'synthbirds'"),
        ("cub:", "expected synthbirds, cub:PATH"),
        ("", "expected synthbirds"),
        ("no/such/folder", "an existing folder"),
    ],
)
def test_names_that_mean_nothing_are_errors_with_what_there_is(name: str, named: str) -> None:
    with pytest.raises(DataError, match=named):
        open_source(name)
    with pytest.raises(ValueError, match=named):
        check_source(name)


@pytest.mark.parametrize("name", ["cub:none", "coco:none", "folder:none", "webdataset:none.tar"])
def test_paths_that_are_not_there_are_errors_that_name_them(name: str) -> None:
    with pytest.raises(DataError, match="none"):
        open_source(name)
    assert check_source(name) == name


def test_a_folder_that_holds_no_data_set_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    with pytest.raises(DataError, match="holds no known data set"):
        open_source(str(tmp_path))


def test_public_names_hold_no_folders_of_this_machine() -> None:
    assert public_name("cub:/home/me/birds") == "cub:birds"
    assert public_name("synthbirds") == "synthbirds"


def test_real_cub_is_as_its_readme_says() -> None:
    source = open_source(f"cub:{shared('cub')}")
    train, test = source.listing("train"), source.listing("test")
    assert (len(train.items), len(test.items)) == (8855, 2933)
    assert kinds(train) == kinds(test) == {}
    for item in (train.items[0], test.items[-1]):
        example = item.load(64)
        assert example.image.std() > 20
        assert len(example.captions) == 10


def test_real_coco_is_as_its_readme_says() -> None:
    source = open_source(str(shared("coco-mini")))
    assert [len(source.listing(split).items) for split in ("train", "test")] == [80, 79]
    assert all(len(item.load(32).captions) == 5 for item in source.listing("test").items[:5])
