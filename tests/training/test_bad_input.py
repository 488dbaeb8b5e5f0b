"""What is wrong with a run's files or its disk: one line with the cure, nothing executed, nothing lost."""

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from click.testing import Result

from tests.training.runs import TINY, config_file, train
from training.checkpoint import FORMAT, load_checkpoint


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def assert_one_line(result: Result, *parts: str) -> None:
    """The command failed by a user's mistake, and said so in one line."""
    assert result.exit_code == 2, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1, result.output
    assert result.stderr.splitlines()[-1] == errors[0]
    for part in parts:
        assert part in errors[0]


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Writing a file beyond `size` bytes fails, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("option", ["--resume", "--init"])
@pytest.mark.parametrize("damage", ["truncated", "malicious"])
def test_a_truncated_or_malicious_checkpoint_is_refused_and_not_executed(
    straight: Path, tmp_path: Path, option: str, damage: str
) -> None:
    folder = shutil.copytree(straight, tmp_path / "run")
    checkpoint, executed = folder / "checkpoint.pt", tmp_path / "executed"
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-5000])
    else:
        torch.save({"format": FORMAT, "state": Payload(executed)}, checkpoint)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    options = {"--resume": ("--out", folder, "--resume"), "--init": ("--out", tmp_path / "new", "--init", checkpoint)}
    result = train(TINY, *options[option])
    assert_one_line(result, "checkpoint.pt", "truncated or not a plain PyTorch file", "use another")
    assert not executed.exists()
    assert not (tmp_path / "new").exists()
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_of_another_config_is_refused_with_the_keys_that_differ(straight: Path, tmp_path: Path) -> None:
    other = config_file(tmp_path, gan={"batch_size": 4, "ema_decay": 0.5, "steps": 9})
    (tmp_path / "run").mkdir()
    shutil.copy(other, tmp_path / "run" / "config.yaml")
    shutil.copy(straight / "checkpoint.pt", tmp_path / "run")
    result = train(other, "--out", tmp_path / "run", "--resume")
    assert_one_line(result, "a checkpoint of another config", "(gan.batch_size, gan.ema_decay differ)", "--init")


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_when_there_is_room(
    straight: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(straight, tmp_path / "run")
    before = (folder / "checkpoint.pt").read_bytes()
    longer = ("--out", folder, "--resume", "--set", "gan.steps=8")
    with disk_of(100_000):
        assert_one_line(train(TINY, *longer), "File too large", "resume with --resume")
    assert (folder / "checkpoint.pt").read_bytes() == before
    assert not list(folder.glob(".*.partial*"))
    assert train(TINY, *longer).exit_code == 0
    assert load_checkpoint(folder / "checkpoint.pt")["state"]["position"]["steps"]["gan"] == 8
