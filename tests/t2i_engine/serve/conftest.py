"""What the tests of the server share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.t2i_engine.serve.processes import Server, served


@pytest.fixture(scope="package")
def server(plain_bundle: Path) -> Iterator[Server]:
    """A server of the tiny bundle; not to be stopped."""
    with served(plain_bundle) as server:
        yield server
