"""`t2i-engine data check` says what is there and what is wrong, and its exit code says whether one can train on it."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from t2i_engine.cli import main
from tests.training.data.made import make_coco, make_cub, make_folder, shared


def check(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", "check", *map(str, arguments)])


def test_it_counts_pictures_captions_words_and_splits(tmp_path: Path) -> None:
    result = check(make_coco(tmp_path), "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["usable"]
    assert found["vocabulary"] == 7  # a picture again w0 w1 w2 w3
    train = found["splits"]["train"]
    assert (train["pictures"], train["captions"], train["captions_a_picture"]) == (4, 8, [2, 2])
    assert (train["words"], train["groups"], train["problems"]) == (7, 4, {})


def test_broken_files_and_missing_captions_are_named_and_do_not_stop_it(tmp_path: Path) -> None:
    folder = make_cub(tmp_path)
    name = "001.Red_Bird/Red_Bird_000"
    picture = folder / "CUB_200_2011" / "images" / f"{name}0_0.jpg"
    picture.write_bytes(picture.read_bytes()[:300])
    (folder / "text" / f"{name}1_1.txt").write_bytes(b"")
    (folder / "text" / f"{name}2_2.txt").unlink()
    (folder / "text" / f"{name}3_3.txt").write_text("a red bird\n!?\n", encoding="utf-8")
    result = check(folder, "--json")
    assert result.exit_code == 0
    problems = json.loads(result.stdout)["splits"]["train"]["problems"]
    assert {kind: len(names) for kind, names in problems.items()} == {
        "broken picture": 1, "empty caption file": 1, "no caption": 1, "caption without a word": 1,
    }  # fmt: skip
    assert name in problems["broken picture"][0]
    text = check(folder)
    assert text.stdout.endswith("usable for training\n")
    for named in (f"{name}0_0", f"{name}1_1.txt", f"{name}2_2.txt", f"{name}3_3"):
        assert named in text.stdout


def test_long_lists_are_cut_for_a_person_but_not_for_a_program(tmp_path: Path) -> None:
    folder = make_cub(tmp_path, captioned=("001.Red_Bird",))
    assert "and 1 more, listed by --json" in check(folder).stdout
    assert len(json.loads(check(folder, "--json").stdout)["splits"]["train"]["problems"]["no caption"]) == 4


def test_a_name_that_is_not_utf_8_is_named_all_the_same(tmp_path: Path) -> None:
    make_folder(tmp_path, ".txt")
    (tmp_path / "train" / os.fsdecode(b"caf\xe9.png")).touch()
    result = check(tmp_path)
    assert result.exit_code == 0
    assert r"train/caf\udce9.txt" in result.stdout


@pytest.mark.parametrize("damage", ["all broken", "no captions", "another encoding"])
def test_what_cannot_be_trained_with_exits_with_1_and_the_reason(tmp_path: Path, damage: str) -> None:
    folder = make_folder(tmp_path, ".txt")
    for file in (folder / "train").glob("*.png" if damage == "all broken" else "*.txt"):
        if damage == "no captions":
            file.unlink()
        else:
            file.write_bytes(b"caf\xe9")
    result = check(folder)
    assert result.exit_code == 1
    assert result.stdout.endswith("\nnot usable for training\n")
    expected = {"all broken": "broken picture: 4", "no captions": "no caption: 4", "another encoding": "iconv"}
    assert expected[damage] in result.stdout
    assert "in metadata.jsonl, or in NAME.txt next to each picture" in result.stdout
    assert "data check" not in result.stdout


@pytest.mark.parametrize("source", ["no/such/path", "cub:no/such/path", "webdataset:none-{0..3}.tar", "kub:x"])
def test_what_is_not_there_is_one_line_and_exits_with_2(source: str) -> None:
    result = check(source)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_synthbirds_is_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.check.SYNTHBIRDS_COUNT", 6)
    found = json.loads(check("synthbirds", "--json").stdout)
    assert found["splits"]["test"]["captions_a_picture"] == [10, 10]


def test_the_real_data_sets_are_usable() -> None:
    assert check(shared("coco-mini")).exit_code == 0
