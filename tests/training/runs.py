"""Runs of the tiny config through the command line, and how their results are compared."""

from pathlib import Path

import torch
import yaml
from click.testing import CliRunner, Result

from t2i_engine.cli import main

TINY = Path(__file__).parents[2] / "training" / "configs" / "tiny.yaml"


def train(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def config_file(folder: Path, **changes: object) -> Path:
    """The tiny config with other values, given per section."""
    content = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def assert_same(one: object, other: object, where: str = "") -> None:
    """Compares nested containers of tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert isinstance(other, list | tuple)
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}.{i}")
    elif not where.endswith(("seconds", "hours")):
        assert one == other, where
