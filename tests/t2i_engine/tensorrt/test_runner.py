"""The runner's own part of running an engine, on a GPU that is not there: allocating, keeping, copying, refusing."""

import gc
import logging
import sys
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_engine.backends.base import Array, ShapeError
from t2i_engine.errors import BackendError
from t2i_engine.formats import GENERATOR, TEXT_ENCODER
from t2i_engine.manifest import graphs_of
from t2i_engine.tensorrt.builder import Profile, Range
from t2i_engine.tensorrt.cuda import CudaError
from t2i_engine.tensorrt.runner import MAX_CONTEXTS, LoadedEngine, TensorRtRunner
from t2i_engine.tensorrt.variant import TENSORRT, TENSORRT_RTX, Variant
from tests.t2i_engine.tensorrt.fakes import FakeCuda, FakeEngine, exercise, failing, fake_api
from tests.tiny_model import SIZES

DRAWING = graphs_of(SIZES)[GENERATOR]
READING = graphs_of(SIZES)[TEXT_ENCODER]
SIDE = SIZES.resolution
PROFILE = Profile(batch=Range(1, 4, 16), tokens=Range(1, 8, 32))


def draw(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Every input shows in every picture, and no picture in another."""
    level = sum(array.sum(axis=1) for array in feeds.values())
    image = np.tanh(np.broadcast_to(np.asarray(level)[:, None, None, None], (len(level), 3, SIDE, SIDE)))
    pixels = np.rint((image + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    return {"image": image.astype(np.float32), "pixels": np.ascontiguousarray(pixels)}


def read(feeds: Mapping[str, Array]) -> dict[str, Array]:
    rows = [row[:length].sum() for row, length in zip(feeds["tokens"], feeds["lengths"], strict=True)]
    return {"sentence": np.repeat(np.array(rows, np.float32)[:, None], SIZES.sentence_width, axis=1)}


def drawing_feeds(batch: int, seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        tensor.name: random.normal(0, 0.1, (batch, int(tensor.shape[1]))).astype(np.float32)
        for tensor in DRAWING.inputs
    }


def reading_feeds(batch: int, tokens: int) -> dict[str, Array]:
    random = np.random.default_rng(batch + tokens)
    return {"tokens": random.integers(0, 9, (batch, tokens)), "lengths": random.integers(1, tokens + 1, batch)}


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def engine(cuda: FakeCuda) -> FakeEngine:
    return FakeEngine(cuda, DRAWING, draw)


@pytest.fixture
def runner(cuda: FakeCuda, engine: FakeEngine) -> TensorRtRunner:
    return TensorRtRunner(engine, DRAWING, PROFILE, cuda)


def check(runner: TensorRtRunner, batch: int, seed: int = 0) -> None:
    feeds = drawing_feeds(batch, seed)
    found = runner.run(feeds, ["image", "pixels"])
    for name, expected in draw(feeds).items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


@settings(deadline=None, max_examples=40)
@given(batches=st.lists(st.integers(1, 16), max_size=24), captures=st.booleans())
def test_every_batch_after_any_other_is_right_and_all_is_given_back(batches: list[int], captures: bool) -> None:
    cuda = FakeCuda()
    runner = TensorRtRunner(FakeEngine(cuda, DRAWING, draw, captures), DRAWING, PROFILE, cuda)
    for seed, batch in enumerate(batches):
        check(runner, batch, seed)
    runner.close()
    assert cuda.held == 0


@settings(deadline=None, max_examples=40)
@given(shapes=st.lists(st.tuples(st.integers(1, 16), st.integers(1, 32)), min_size=1, max_size=12))
def test_captions_of_any_length_after_any_other_are_right(shapes: list[tuple[int, int]]) -> None:
    cuda = FakeCuda()
    engine = FakeEngine(cuda, READING, read, captures=False)
    runner = TensorRtRunner(engine, READING, PROFILE, cuda)
    for batch, tokens in shapes:
        feeds = reading_feeds(batch, tokens)
        np.testing.assert_array_equal(runner.run(feeds, ["sentence"])["sentence"], read(feeds)["sentence"])
    assert len(engine.contexts) == 1
    assert not cuda.graphs


def test_buffers_are_allocated_once_and_grow(runner: TensorRtRunner, cuda: FakeCuda) -> None:
    tensors = len(DRAWING.inputs) + len(DRAWING.outputs)
    for _ in range(3):
        check(runner, 2)
    assert cuda.allocations == tensors
    check(runner, 1)
    assert cuda.allocations == tensors
    check(runner, 5)
    assert cuda.allocations == 2 * tensors
    assert len(cuda.memory) == tensors


def test_only_what_was_asked_for_is_copied_back(runner: TensorRtRunner, cuda: FakeCuda) -> None:
    assert runner.run(drawing_feeds(2), ["pixels"]).keys() == {"pixels"}
    assert cuda.downloaded == 2 * SIDE * SIDE * 3


def test_the_second_run_of_a_size_is_captured_and_the_third_only_launched(
    runner: TensorRtRunner, cuda: FakeCuda, engine: FakeEngine
) -> None:
    check(runner, 3)
    assert (len(cuda.graphs), cuda.launches) == (0, 0)  # the warm-up
    check(runner, 3, seed=1)
    assert (len(cuda.graphs), cuda.launches) == (1, 1)
    check(runner, 3, seed=2)
    assert (len(cuda.graphs), cuda.launches) == (1, 2)
    assert len(engine.contexts) == 1


def test_each_size_has_a_context_of_its_own_and_old_ones_go(
    runner: TensorRtRunner, cuda: FakeCuda, engine: FakeEngine
) -> None:
    check(runner, 16)
    for batch in range(1, MAX_CONTEXTS + 3):
        for seed in range(3):
            check(runner, batch, seed)
    assert len(engine.contexts) == MAX_CONTEXTS + 3
    assert len(cuda.graphs) == MAX_CONTEXTS


def test_graphs_do_not_outlive_the_buffers_they_write_to(runner: TensorRtRunner, cuda: FakeCuda) -> None:
    for seed in range(3):
        check(runner, 1, seed)
    check(runner, 8)
    for seed in range(3):
        check(runner, 1, seed)  # the fake fails where a graph uses memory that was given back


@pytest.mark.parametrize("captures", [True, False])
def test_what_is_compiled_at_run_time_is_saved_once_per_size_and_when_closing(cuda: FakeCuda, captures: bool) -> None:
    engine = FakeEngine(cuda, DRAWING, draw, captures)
    runner = TensorRtRunner(engine, DRAWING, PROFILE, cuda)
    for batch in (1, 4, 1, 4, 1, 4, 1, 4):
        check(runner, batch)
    assert engine.saved == 2
    runner.close()
    assert engine.saved == 3  # kernels are also compiled in the background


class Rtx:
    """TensorRT for RTX at run time: a cache of kernels, and what is on disk of it."""

    def __init__(self, folder: Path) -> None:
        self.kernels, self.accepts = b"kernels", True
        self.file = folder / "engine.compiled"
        config = SimpleNamespace(create_runtime_cache=lambda: self, set_runtime_cache=lambda _: None)
        engine = SimpleNamespace(create_runtime_config=lambda: config, create_execution_context=lambda _: object())
        runtime = SimpleNamespace(deserialize_cuda_engine=lambda _: engine)
        api = fake_api(ComputeCapability=None, CudaGraphStrategy=SimpleNamespace(), Runtime=lambda _: runtime)
        self.variant = Variant(TENSORRT_RTX, "1.7", api)

    def open(self) -> LoadedEngine:
        engine = LoadedEngine(self.variant, b"engine", False, self.file)
        engine.create_context()
        return engine

    def serialize(self) -> bytes:
        return self.kernels

    def deserialize(self, content: bytes) -> bool:
        if self.accepts:
            self.kernels = content
        return self.accepts


def test_compiled_kernels_are_written_only_when_there_are_new_ones(tmp_path: Path) -> None:
    rtx = Rtx(tmp_path)
    engine = rtx.open()
    engine.save_compiled()
    assert rtx.file.read_bytes() == b"kernels"
    rtx.file.unlink()
    engine.save_compiled()
    assert not rtx.file.exists()
    rtx.kernels += b" and more"
    engine.save_compiled()
    assert rtx.file.read_bytes() == b"kernels and more"
    rtx.kernels = b""
    again = rtx.open()
    rtx.file.unlink()
    again.save_compiled()
    assert not rtx.file.exists()  # they came from there


def test_compiled_kernels_of_another_gpu_or_version_are_replaced(tmp_path: Path) -> None:
    rtx = Rtx(tmp_path)
    rtx.file.write_bytes(b"kernels for something else")
    rtx.accepts = False
    rtx.open().save_compiled()
    assert rtx.file.read_bytes() == b"kernels"


def test_compiled_kernels_that_cannot_be_written_do_not_stop_drawing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("t2i_engine"), "propagate", True)
    (tmp_path / "a-file").write_text("")
    Rtx(tmp_path / "a-file").open().save_compiled()
    assert "compiled kernels are not cached: cannot write" in caplog.text


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize("captures", [True, False])
def test_eight_threads_get_their_own_pictures(cuda: FakeCuda, captures: bool) -> None:
    runner = TensorRtRunner(FakeEngine(cuda, DRAWING, draw, captures), DRAWING, PROFILE, cuda)
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(check, runner, 1 + seed % 6, seed) for seed in range(200)]:
            done.result()
    runner.close()
    assert cuda.held == 0


def test_closing_twice_is_closing_once_and_a_closed_runner_says_so(cuda: FakeCuda) -> None:
    held = FakeEngine(cuda, DRAWING, draw)
    runner, engine = TensorRtRunner(held, DRAWING, PROFILE, cuda), weakref.ref(held)
    del held
    check(runner, 1)
    for _ in range(2):
        runner.close()
    assert cuda.held == 0
    assert engine() is None
    with pytest.raises(BackendError, match="closed; open the engine again"):
        runner.run(drawing_feeds(1), ["pixels"])


def test_the_engine_that_copies_works_on_the_fake(cuda: FakeCuda) -> None:
    """The same runs on a GPU in tests/gpu."""
    exercise(cuda, cuda.copy)
    assert cuda.held == 0


def test_a_failure_is_reported_even_if_the_gpu_cannot_be_waited_for_afterwards(
    cuda: FakeCuda, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronise = cuda.synchronise

    def fail(stream: int) -> None:
        synchronise(stream)
        raise CudaError("cudaStreamSynchronize failed")

    engine.fails = True
    runner = TensorRtRunner(engine, DRAWING, PROFILE, cuda)
    monkeypatch.setattr(cuda, "synchronise", fail)
    with pytest.raises(BackendError, match="refused to start: the fake was told to fail"):
        runner.run(drawing_feeds(1), ["pixels"])


def test_a_runtime_that_failed_is_not_used(tmp_path: Path) -> None:
    variant = Variant(TENSORRT, "10.16", fake_api(Runtime=failing))
    with pytest.raises(BackendError, match=r"TensorRT 10\.16 cannot start: CUDA initialization failure"):
        LoadedEngine(variant, b"engine", True, tmp_path / "engine.compiled")


@pytest.mark.parametrize("batch", [17, 1000])
def test_a_batch_outside_of_the_profile_is_an_error_that_says_what_fits(
    runner: TensorRtRunner, cuda: FakeCuda, batch: int
) -> None:
    with pytest.raises(BackendError, match=rf"a batch of {batch} .* 1 to 16; .*--batch-size 16"):
        runner.run(drawing_feeds(batch), ["pixels"])
    assert cuda.allocations == 0


def test_a_caption_outside_of_the_profile_is_an_error_that_says_what_fits(cuda: FakeCuda) -> None:
    runner = TensorRtRunner(FakeEngine(cuda, READING, read), READING, PROFILE, cuda)
    with pytest.raises(BackendError, match=r"a caption of 33 words .* 1 to 32"):
        runner.run(reading_feeds(1, 33), ["sentence"])


def test_feeds_that_do_not_fit_are_shape_errors(runner: TensorRtRunner) -> None:
    feeds = drawing_feeds(2)
    with pytest.raises(ShapeError, match="float64"):
        runner.run({**feeds, "noise": feeds["noise"].astype(np.float64)}, ["pixels"])
    with pytest.raises(ShapeError, match="colours"):
        runner.run(feeds, ["colours"])


def test_feeds_that_are_views_are_copied_first(runner: TensorRtRunner) -> None:
    feeds = {name: array.repeat(2, axis=1)[:, ::2] for name, array in drawing_feeds(4).items()}
    np.testing.assert_array_equal(runner.run(feeds, ["pixels"])["pixels"], draw(feeds)["pixels"])


def test_an_engine_that_fails_is_an_error(cuda: FakeCuda, engine: FakeEngine) -> None:
    engine.fails = True
    with pytest.raises(BackendError, match="refused to start"):
        TensorRtRunner(engine, DRAWING, PROFILE, cuda).run(drawing_feeds(1), ["pixels"])


def test_a_runner_that_is_no_longer_used_gives_everything_back(cuda: FakeCuda, engine: FakeEngine) -> None:
    runner = TensorRtRunner(engine, DRAWING, PROFILE, cuda)
    for seed in range(3):
        check(runner, 2, seed)
    assert cuda.held > 0
    del runner
    gc.collect()
    assert cuda.held == 0
