"""A packed data set is the same data set in a few files, and anything missing or altered is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from t2i_engine.cli import main
from t2i_engine.errors import UserError
from t2i_engine.files import write_atomically
from tests.training.data.made import make_cub, make_folder, picture, shared
from tests.training.data.test_training import train
from training.checkpoint import load_model
from training.data import packed
from training.data.files import PictureFile, list_files
from training.data.packed import Packed, pack
from training.data.source import SPLITS, DataError, open_source, public_name
from training.data.validation import divide


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    return make_cub(tmp_path / "cub")


@pytest.fixture
def data(tmp_path: Path, cub: Path) -> Path:
    """CUB, packed at 38² into parts of at most 1,500 bytes, with room for a few pictures in each."""
    assert run("pack", cub, "--resolution", 38, "--part-size", "1500", "--out", tmp_path / "packed").exit_code == 0
    return tmp_path / "packed"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


def change_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / "packed.json").read_text(encoding="utf-8"))
    change(index)
    (folder / "packed.json").write_text(json.dumps(index), encoding="utf-8")


def test_it_is_the_same_data_set(cub: Path, data: Path) -> None:
    before, after = open_source(str(cub)), open_source(str(data))
    assert after.name == f"packed:{data}"
    assert len(list(data.glob("part-*.bin"))) > 2
    for split in SPLITS:
        one, other = before.listing(split), after.listing(split)
        assert [(item.key, item.captions, item.unit) for item in one.items] == [
            (item.key, item.captions, item.unit) for item in other.items
        ]
        for item, packed_item in zip(one.items, other.items, strict=True):
            difference = item.load(38).image.astype(int) - packed_item.load(38).image
            assert np.abs(difference).max() <= 3


def test_it_holds_out_what_its_source_holds_out(cub: Path, data: Path) -> None:
    one, other = (divide(open_source(str(folder)).listing("train"), 0.4, "") for folder in (cub, data))
    assert one.held_out == other.held_out == "1 of 2 classes, 4 pictures"
    assert [item.key for item in one.validation.items] == [item.key for item in other.validation.items]


def test_parts_keep_to_their_size_and_packing_again_gives_the_same_bytes(cub: Path, data: Path, tmp_path: Path) -> None:
    assert max(part.stat().st_size for part in data.glob("part-*.bin")) <= 1500
    assert run("pack", cub, "--side", 38, "--part-size", "1500", "--out", tmp_path / "again").exit_code == 0
    assert contents(tmp_path / "again") == contents(data)
    assert str(tmp_path) not in (data / "packed.json").read_text(encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_captions_of_a_group_stay_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [PictureFile(picture(tmp_path / f"{i}.png"), ("a bird",), f"key {i}", group=f"g{i % 2}") for i in range(4)]

    class Grouped:
        name = "synthbirds"

        def listing(self, split: str) -> object:
            return list_files("made", "train", files if split == "train" else (), units="groups")

    monkeypatch.setattr(packed, "open_source", lambda name: Grouped())
    pack("synthbirds", 32, 10_000, tmp_path / "packed", print)
    listing = open_source(str(tmp_path / "packed")).listing("train")
    assert [item.load(32).group for item in listing.items] == ["g0", "g1", "g0", "g1"]
    assert divide(listing, 0.4, "").held_out == "1 of 2 groups, 2 pictures"


def test_the_test_split_can_be_left_out(cub: Path, data: Path, tmp_path: Path) -> None:
    arguments = ["data", "pack", str(cub), "--resolution", "38", "--train-only", "--out", str(tmp_path / "train")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "test:" not in result.output
    both, train = Packed(data), Packed(tmp_path / "train")
    assert [item.key for item in train.listing("train").items] == [item.key for item in both.listing("train").items]
    assert both.listing("test").items
    assert not train.listing("test").items


def test_a_copy_elsewhere_is_the_same_data_but_others_are_not(data: Path, tmp_path: Path) -> None:
    before = open_source(str(data)).listing("train")
    copy = data.rename(tmp_path / "copy")
    after = open_source(f"packed:{copy}").listing("train")
    assert (after.version, after.fingerprint) == (before.version, before.fingerprint)
    assert open_source(f"packed:{copy}").listing("test").fingerprint != before.fingerprint
    assert public_name(f"packed:{copy}") == "packed:copy"
    change_index(copy, lambda index: index["splits"]["train"]["pictures"][0].update(captions=["another"]))
    changed = open_source(f"packed:{copy}").listing("train")
    assert changed.version != before.version
    assert changed.fingerprint != before.fingerprint


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", ".txt", pictures=5)
    (folder / "train" / "0.png").write_bytes(b"no picture")
    (folder / "train" / "1.txt").unlink()
    result = run("pack", folder, "--resolution", 32, "--out", tmp_path / "packed")
    assert result.exit_code == 0
    assert "train: 3 pictures; left out: no caption: 1, broken picture: 1\ntest: 0 pictures\n" in result.stdout
    assert "train: 4 of 4 pictures" in result.stderr
    checked = run("check", tmp_path / "packed")
    assert checked.exit_code == 0
    assert "train skips 1: broken picture\n  folder/train/0.png: no picture in a known format" in checked.stdout
    assert str(tmp_path) not in (tmp_path / "packed" / "packed.json").read_text(encoding="utf-8")


def test_it_trains_and_its_model_says_where_the_data_are_from(data: Path, tmp_path: Path) -> None:
    result = train(tmp_path, str(data))
    assert result.exit_code == 0, result.output
    dataset = load_model(tmp_path / "run" / "checkpoint.pt").provenance["dataset"]
    assert (dataset["source"], dataset["origin"]) == ("packed:packed", "cub:cub")


def test_packed_again_it_keeps_its_origin(data: Path, tmp_path: Path) -> None:
    pack(str(data), 32, 10_000, tmp_path / "smaller", print)
    assert Packed(tmp_path / "smaller").origin == Packed(data).origin == "cub:cub"


@pytest.mark.parametrize("damage", ["missing", "short", "altered"])
def test_a_part_that_is_not_as_packed_is_named(data: Path, damage: str) -> None:
    part = data / "part-001.bin"
    content = part.read_bytes()
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(content[:-1] + (b"!" if damage == "altered" else b""))
    expected = {"missing": "is missing", "short": f"has {len(content) - 1:,} bytes", "altered": "is altered"}[damage]
    result = run("check", data)
    assert result.exit_code == 2
    assert f"part-001.bin' {expected}" in result.stderr
    assert result.stderr.endswith("copy or pack the data set again\n")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda index: index.update(format=2), "not an index of format 1; pack the data set again"),
        (lambda index: index["splits"]["train"]["pictures"][0].update(offset=1400), "lies outside the parts"),
        (lambda index: index["splits"]["train"]["pictures"][0].update(part=99), "lies outside the parts"),
        (lambda index: index["splits"]["train"]["pictures"][0].update(size=-1), r"pictures\.0\.size"),
        (lambda index: index["parts"][0].update(size=1 << 60), r"parts\.0\.size"),
        (lambda index: index["parts"][0].update(path="../../x"), r"parts\.0\.path"),
        (lambda index: index.pop("splits"), "splits"),
    ],
)
def test_an_index_that_cannot_be_is_refused(data: Path, change: Callable[[dict[str, Any]], object], named: str) -> None:
    change_index(data, change)
    with pytest.raises(DataError, match=named):
        open_source(str(data))


def test_what_holds_no_index_is_an_error(tmp_path: Path) -> None:
    for content in (None, b"no json", b"\xff"):
        if content:
            (tmp_path / "packed.json").write_bytes(content)
        with pytest.raises(DataError, match=r"packed\.json.*t2i-engine data pack"):
            open_source(f"packed:{tmp_path}")


def test_a_killed_pack_leaves_nothing_that_opens_and_may_be_repeated(
    cub: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "killed"

    def killed(path: Path, content: bytes, cure: str) -> Path:
        if path.name == "packed.json":
            raise KeyboardInterrupt
        return write_atomically(path, content, cure)

    with monkeypatch.context() as patch:
        patch.setattr("training.data.packed.files.write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            pack(str(cub), 38, 1000, folder, print)
    assert len(list(folder.glob("part-*.bin"))) > len(list(data.glob("part-*.bin")))
    with pytest.raises(DataError):
        open_source(f"packed:{folder}")
    pack(str(cub), 38, 1500, folder, print)
    assert contents(folder) == contents(data)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--part-size", "30X"), "write for example 30M"),
        (("--part-size", "1"), "not a size from 1K to 1G"),
        (("--resolution", 8), "16<=x<=2048"),
        (("--out", "{data}"), "already holds a packed data set"),
        (("--out", "{file}"), "choose another --out"),
    ],
)
def test_what_cannot_be_packed_is_one_line(
    tmp_path: Path, data: Path, cub: Path, options: tuple[object, ...], named: str
) -> None:
    (tmp_path / "file").touch()
    places = {"data": data, "file": tmp_path / "file"}
    given = [str(option).format(**places) for option in options]
    result = run("pack", cub, "--resolution", 38, "--out", tmp_path / "new", *given)
    assert result.exit_code == 2
    assert named in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "new" / "packed.json").exists()


def test_synthbirds_too_small_to_draw_are_one_line(tmp_path: Path) -> None:
    result = run("pack", "synthbirds", "--resolution", 16, "--out", tmp_path / "new")
    assert result.exit_code == 2
    assert result.stderr == "Error: synthbirds are drawn at 32 × 32 pixels or more, not at 16 × 16\n"
    assert not (tmp_path / "new").exists()


def test_a_picture_larger_than_a_part_is_an_error(cub: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'cub/.*' takes [\d,]+ bytes; give a larger --part-size"):
        pack(str(cub), 38, 100, tmp_path / "packed", print)


def test_real_pictures_lose_little(tmp_path: Path) -> None:
    before = open_source(str(shared("coco-mini")))
    pack(before.name, 76, 30_000_000, tmp_path, print)
    after = open_source(str(tmp_path))
    for one, other in zip(before.listing("test").items[:20], after.listing("test").items[:20], strict=True):
        error = (one.load(76).image.astype(float) - other.load(76).image).std()
        assert error < 255 / 10 ** (35 / 20)  # 35 dB
