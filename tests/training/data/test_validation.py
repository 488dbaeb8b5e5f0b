"""What is held out for validation: whole units, always the same, never trained on."""

from pathlib import Path

import pytest

from tests.training.data.made import make_cub, make_folder
from tests.training.data.test_training import make_shards
from training.config import ConfigError, DataConfig, parse_config
from training.data.files import PictureFile
from training.data.loading import load_training_data, read_vocabulary
from training.data.source import DataError, Listing, open_source
from training.data.validation import Division, divide, validation_listing


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def keys(listing: Listing) -> list[str]:
    return [item.key for item in listing.items]


def listing_of(count: int) -> Listing:
    """Pictures 0, 1, …, whose group is their last digit."""
    files = [PictureFile(Path(), ("a bird",), str(number), group=f"group {number % 10}") for number in range(count)]
    return Listing(files, "made", "1", units="groups")


def held_out(source: str, share: float) -> Division:
    return divide(open_source(source).listing("train"), share, source)


def test_cub_holds_out_whole_classes(tmp_path: Path) -> None:
    found = held_out(f"cub:{make_cub(tmp_path)}", 0.4)
    assert found.held_out == "1 of 2 classes, 4 pictures"
    classes = [{key.split("/")[1] for key in keys(part)} for part in found[:2]]
    assert len(classes[0]) == len(classes[1]) == 1
    assert classes[0] != classes[1]


def test_groups_stay_together_and_elsewhere_pictures_are_single(tmp_path: Path) -> None:
    found = divide(listing_of(40), 0.2, "made")
    assert found.held_out == "2 of 10 groups, 8 pictures"
    assert len({key[-1] for key in keys(found.validation)}) == 2
    assert held_out(f"folder:{make_folder(tmp_path, pictures=8)}", 0.25).held_out == "2 of 8 pictures"


def test_the_choice_is_of_names_alone_and_grows_with_the_share(tmp_path: Path) -> None:
    here, there = (f"folder:{make_folder(tmp_path / name, pictures=8)}" for name in ("here", "there"))
    fewer = keys(held_out(here, 0.25).validation)
    assert keys(held_out(there, 0.25).validation) == fewer
    assert set(fewer) < set(keys(held_out(here, 0.45).validation))


def test_no_part_is_taken_for_another_in_the_cache(tmp_path: Path) -> None:
    source = f"folder:{make_folder(tmp_path, pictures=8)}"
    parts = [part for share in (0.0, 0.25, 0.45) for part in held_out(source, share)[:2] if part.items]
    assert len({part.fingerprint for part in parts}) == len(parts) == 5


@pytest.mark.parametrize("make", [make_cub, make_folder, make_shards])
def test_training_knows_neither_held_out_pictures_nor_their_words(tmp_path: Path, make: object) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    assert callable(make)
    config = DataConfig(source=str(make(folder)), resolution=32, validation_share=0.3)
    data, validation = load_training_data(config), validation_listing(config)
    whole = open_source(config.source).listing("train")
    assert 0 < len(validation.items) < len(whole.items)
    assert data.provenance["pictures"] == len(whole.items) - len(validation.items)
    assert data.provenance["validation"] == divide(whole, 0.3, "").held_out
    taught = [item for item in whole.items if item.key not in keys(validation)]
    words = {word.strip(",.") for item in taught for caption in item.captions for word in caption.split()}
    assert set(data.words[1:]) == words
    assert read_vocabulary(config) == data.words


def test_a_run_that_holds_nothing_out_says_nothing_of_it(tmp_path: Path) -> None:
    config = DataConfig(source=f"folder:{make_folder(tmp_path)}", resolution=32)
    assert "validation" not in load_training_data(config).provenance
    with pytest.raises(DataError, match=r"no picture is held out.*set data\.validation_share"):
        validation_listing(config)


def test_a_single_unit_cannot_be_held_out(tmp_path: Path) -> None:
    make_shards(tmp_path)
    config = DataConfig(source=f"webdataset:{tmp_path / '0.tar'}", resolution=32, validation_share=0.1)
    for load in (load_training_data, validation_listing):
        with pytest.raises(DataError, match=r"too few shards to hold one out, 1; set data\.validation_share: 0"):
            load(config)


def test_fid_needs_pictures_that_are_held_out() -> None:
    with pytest.raises(ConfigError, match=r"set data\.validation_share, to 0\.1 for example"):
        parse_config({"name": "x", "fid": {"every": 100}}, "x")
    assert parse_config({"name": "x", "fid": {"every": 100}, "data": {"validation_share": 0.1}}, "x").fid.every == 100
