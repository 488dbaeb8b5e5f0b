"""What the tests of all packages share."""

from pathlib import Path

import pytest

from export.pipeline import export_bundle
from tests.tiny_model import write_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny model; not to be written to."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny.pt")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The folder of the tiny model's bundle, exported and proved; not to be written to."""
    return export_bundle(tiny_checkpoint, tmp_path_factory.mktemp("bundles") / "tiny", "tiny", lambda _: None)
