"""Every source trains: ten steps from files of each format, made here, and from the real ones where they are there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from t2i_engine.cli import main
from tests.training.data.made import make_coco, make_cub, make_folder, shared
from tests.training.data.test_streaming import picture, write_shard
from training.checkpoint import load_model
from training.phase import StepLosses
from training.step import GanPhase


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def train(folder: Path, source: str, *options: str, batch_size: int = 4, **data: object) -> Result:
    """Trains two steps of DAMSM and ten of the GAN into folder/run."""
    config = {
        "name": "tiny",
        "data": {"source": source, "resolution": 32, "random_crop": True, **data},
        "model": {"base_channels": 2, "noise_width": 4, "sentence_width": 8, "embedding_width": 6},
        "damsm": {"image_encoder": "cnn", "steps": 2, "batch_size": 4},
        "gan": {"steps": 10, "batch_size": batch_size, "gradient_penalty_interval": 4},
        "precision": "fp32",
        "checkpoint_every": 3,
        "sample_captions": ["a bird and a picture"],
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return CliRunner().invoke(main, ["train", str(file), "--out", str(folder / "run"), *options])


def make_shards(folder: Path) -> Path:
    for shard in range(2):
        members: dict[str, bytes] = {}
        for number in range(4):
            members |= {f"{number}.png": picture(60 * number), f"{number}.txt": f"a picture w{number}".encode()}
        write_shard(folder / f"{shard}.tar", members)
    return folder


@pytest.mark.parametrize(
    ("prefix", "make", "pictures"),
    [("cub:", make_cub, 8), ("", make_coco, 4), ("", make_folder, 4),
     ("", make_shards, 8)],
    ids=["cub", "coco", "folder", "webdataset"],
)  # fmt: skip
def test_ten_steps_on_every_format(tmp_path: Path, prefix: str, make: Callable[[Path], Path], pictures: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    result = train(tmp_path, f"{prefix}{make(folder)}")
    assert result.exit_code == 0, result.output
    provenance = load_model(tmp_path / "run" / "checkpoint.pt").provenance
    assert provenance["steps"] == {"damsm": 2, "gan": 10}
    assert provenance["dataset"]["pictures"] == pictures
    assert str(tmp_path) not in str(provenance)


@pytest.mark.parametrize("make", [make_shards, make_folder], ids=["webdataset", "folder"])
def test_a_resumed_run_reads_what_an_unbroken_one_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]
) -> None:
    (tmp_path / "data").mkdir()
    source = str(make(tmp_path / "data"))
    step = GanPhase.step

    def stop(trainer: GanPhase, number: int) -> StepLosses:
        if number == 8:
            raise KeyboardInterrupt
        return step(trainer, number)

    weights = []
    for name in ("straight", "stopped"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "stopped":
            with monkeypatch.context() as patched:
                patched.setattr(GanPhase, "step", stop)
                assert train(folder, source).exit_code == 1
            assert train(folder, source, "--resume").exit_code == 0
        else:
            assert train(folder, source).exit_code == 0
        weights.append(load_model(folder / "run" / "checkpoint.pt").model.state_dict())
    for key, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][key]), key


def test_a_run_goes_on_where_its_data_have_moved_but_not_with_others(tmp_path: Path) -> None:
    assert train(tmp_path, f"folder:{make_folder(tmp_path / 'here' / 'data', '.txt')}").exit_code == 0
    (tmp_path / "here").rename(tmp_path / "there")
    moved = train(tmp_path, f"folder:{tmp_path / 'there' / 'data'}", "--resume")
    assert moved.exit_code == 0, moved.output
    (tmp_path / "there" / "data" / "train" / "0.txt").write_text("another picture", encoding="utf-8")
    other = train(tmp_path, f"folder:{tmp_path / 'there' / 'data'}", "--resume")
    assert other.exit_code == 2
    assert "was trained on other data" in other.stderr


def test_what_is_left_out_is_said_at_the_start_and_kept_in_the_checkpoint(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", ".txt", pictures=6)
    (folder / "train" / "0.png").write_bytes(b"no picture")
    (folder / "train" / "1.txt").write_bytes(b"")
    result = train(tmp_path, f"folder:{folder}")
    assert result.exit_code == 0, result.output
    assert "empty caption file: 1, broken picture: 1" in result.stderr
    dataset = load_model(tmp_path / "run" / "checkpoint.pt").provenance["dataset"]
    assert dataset["pictures"] == 4
    assert dataset["left out"] == "empty caption file: 1, broken picture: 1"


def test_unusable_data_are_one_line_before_anything_is_trained(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", ".txt")
    for source, options, named in (
        (f"cub:{folder}", {}, "holds no CUB-200-2011"),
        (f"folder:{folder}", {"batch_size": 16}, "4 pictures with a known caption, fewer than a batch of 16"),
        ("kub:x", {}, "did you mean 'cub'"),
    ):
        result = train(tmp_path, source, **options)
        assert result.exit_code == 2, result.output
        assert named in result.stderr
        assert "Traceback" not in result.output
        assert not (tmp_path / "run" / "checkpoint.pt").exists()
        (tmp_path / "run" / "config.yaml").unlink(missing_ok=True)


@pytest.mark.parametrize("source", ["cub:{cub}", "coco:{coco-mini}"])
def test_ten_steps_on_the_real_data_sets(tmp_path: Path, source: str) -> None:
    name = source.partition("{")[2][:-1]
    result = train(tmp_path, source.replace(f"{{{name}}}", str(shared(name))), batch_size=8)
    assert result.exit_code == 0, result.output
    assert load_model(tmp_path / "run" / "checkpoint.pt").provenance["steps"]["gan"] == 10
