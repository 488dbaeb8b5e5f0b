"""TensorRT on a GPU: parity, growing buffers, captured graphs. Never run yet."""

from pathlib import Path

import numpy as np
import pytest

from export.pipeline import export_bundle
from t2i_engine.backend_selection import backend_status
from t2i_engine.backends.base import Array
from t2i_engine.bundle import Bundle
from t2i_engine.engine import Engine
from t2i_engine.errors import BackendError
from t2i_engine.formats import FORMATS, GENERATOR, Format
from tests.gpu.helpers import NEEDS_GPU, assert_parity, open_runners

pytestmark = NEEDS_GPU
ROWS = [row for row in FORMATS if row.backend.startswith("tensorrt")]
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Bundle:
    """The tiny model with every format whose variant of TensorRT is installed; none of them is left out."""
    names = [row.name for row in ROWS if not backend_status(row.backend).lacks]
    if not names:
        pytest.skip('no TensorRT is installed: pip install "t2i-engine[tensorrt]", or "t2i-engine[tensorrt-rtx]"')
    folder = tmp_path_factory.mktemp("gpu") / "tiny"
    exported = export_bundle(tiny_checkpoint, folder, "tiny", lambda _: None, ",".join(names))
    assert exported.rejected == {}
    return Bundle.open(exported.folder)


@pytest.fixture
def made(bundle: Bundle, row: Format) -> Format:
    if lacks := backend_status(row.backend).lacks:
        pytest.skip(lacks)
    return row


@every_row
def test_engines_are_within_their_tolerance(bundle: Bundle, made: Format) -> None:
    assert_parity(bundle, made, open_runners(bundle, made))


@every_row
def test_a_picture_is_the_same_in_any_batch_and_captured_or_not(bundle: Bundle, made: Format) -> None:
    engine = Engine.open(bundle.folder, backend=made.backend, precision=made.precision)
    seeds = list(range(16))
    first = [picture.pixels for picture in engine.generate_all(["a yellow bird"], seeds, batch_size=1)]
    for batch in (16, 1, 5, 16, 16, 1):
        again = [picture.pixels for picture in engine.generate_all(["a yellow bird"], seeds, batch_size=batch)]
        assert max(levels(one, other) for one, other in zip(first, again, strict=True)) <= 2


@every_row
def test_a_batch_over_the_profile_is_an_error_and_the_runner_lives_on(bundle: Bundle, made: Format) -> None:
    sizes = bundle.sizes
    runner = open_runners(bundle, made)[GENERATOR]
    for batch in (1, 17, 2):
        feeds = {
            "noise": np.zeros((batch, sizes.noise_width), np.float32),
            "sentence": np.zeros((batch, sizes.sentence_width), np.float32),
            "condition_noise": np.zeros((batch, sizes.sentence_width), np.float32),
        }
        if batch == 17:
            with pytest.raises(BackendError, match="1 to 16"):
                runner.run(feeds, ["pixels"])
        else:
            assert runner.run(feeds, ["pixels"])["pixels"].shape[0] == batch


def levels(one: Array, other: Array) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())
