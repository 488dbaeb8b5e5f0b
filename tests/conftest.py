"""What the tests of all packages share."""

from pathlib import Path

import pytest

from tests.t2i_engine.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny bundle; not to be written to."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
