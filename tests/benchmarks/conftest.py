"""One small run that the tests of the reports share."""

from pathlib import Path

import pytest

from benchmarks.benchmark import Outcome, run
from benchmarks.targets import Options

QUICK = Options(formats="onnx", batch_sizes=(1, 2), threads=(1,), minutes=0.01, quick=True)


@pytest.fixture(scope="session")
def outcome(tmp_path_factory: pytest.TempPathFactory, plain_bundle: Path) -> Outcome:
    """The tiny bundle, measured in three rounds or a few more."""
    out = tmp_path_factory.mktemp("benchmark") / "out"
    return run(str(plain_bundle), QUICK, out, None, None, "t2i-engine benchmark", lambda _: None)
