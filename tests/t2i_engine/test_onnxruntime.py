"""ONNX Runtime: graphs optimized once per machine, and what is bound to a device; no GPU is needed, and none used."""

import gc
import sys
import threading
import types
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from t2i_engine.backends.base import Array
from t2i_engine.backends.onnxruntime import (
    CUDA_GRAPHS,
    MAX_CACHED,
    MAX_CAPTURED,
    BoundSession,
    OnnxRuntimeRunner,
    open_runner,
)
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, find
from t2i_engine.latents import draw
from tests.tiny_model import SIZES


def feeds(batch: int = 3, first_seed: int = 0) -> dict[str, Array]:
    drawn = draw(range(first_seed, first_seed + batch), SIZES.noise_width, SIZES.sentence_width)
    sentence = np.tanh(drawn.condition_noise)
    return {"noise": drawn.noise, "sentence": sentence, "condition_noise": drawn.condition_noise}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "t2i-engine" / "ort"


def opened(folder: Path, name: str = "onnx", graph: str = GENERATOR, device: str = "cpu") -> OnnxRuntimeRunner:
    return open_runner(Bundle.open(folder), find(name), graph, device, 1)


@pytest.mark.parametrize("name", ["onnx", "onnx-fp16"])
def test_an_optimized_graph_is_kept_and_gives_the_same_picture(tiny_bundle: Path, cache: Path, name: str) -> None:
    file = tiny_bundle / find(name).files[GENERATOR]
    plain = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(["image"], feeds())[0]
    for _ in range(2):
        np.testing.assert_array_equal(opened(tiny_bundle, name).run(feeds(), ["image"])["image"], plain)
        assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_damaged_file_is_made_again(tiny_bundle: Path, cache: Path, kept: float) -> None:
    first = opened(tiny_bundle).run(feeds(), ["pixels"])["pixels"]
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept)] + b"damaged")
    np.testing.assert_array_equal(opened(tiny_bundle).run(feeds(), ["pixels"])["pixels"], first)
    assert abs(file.stat().st_size - len(whole)) < 1000  # its bytes are not the same twice


def test_a_cache_that_cannot_be_written_is_not_an_error(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a-file"))
    assert opened(tiny_bundle).run(feeds(), ["pixels"])["pixels"].std() > 5


def test_what_is_bound_gives_what_a_session_gives_in_any_order_of_sizes(tiny_bundle: Path) -> None:
    session = onnxruntime.InferenceSession(tiny_bundle / "generator.onnx", providers=["CPUExecutionProvider"])
    bound = BoundSession(session, Bundle.open(tiny_bundle).graphs[GENERATOR], "cpu", captures=False)
    found = []
    for number, batch in enumerate([1, 3, 1, 2, 3, 1]):
        given = feeds(batch, first_seed=number)
        before = {name: feed.copy() for name, feed in given.items()}
        outputs = ["pixels"] if number % 2 else ["image", "pixels"]
        found.append((bound.run(given, outputs), session.run(outputs, given), outputs))
        for name, feed in given.items():
            np.testing.assert_array_equal(feed, before[name])
    for ours, theirs, outputs in found:  # at the end: a later run must not have written into an earlier one's results
        assert list(ours) == outputs
        for name, array in zip(outputs, theirs, strict=True):
            np.testing.assert_array_equal(ours[name], array)


def test_eight_threads_get_their_own_pictures_from_what_is_bound(tiny_bundle: Path) -> None:
    session = onnxruntime.InferenceSession(tiny_bundle / "generator.onnx", providers=["CPUExecutionProvider"])
    bound = BoundSession(session, Bundle.open(tiny_bundle).graphs[GENERATOR], "cpu", captures=False)
    expected = [session.run(["pixels"], feeds(2, seed))[0] for seed in range(64)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda seed: bound.run(feeds(2, seed), ["pixels"])["pixels"], range(64)))
    finally:
        sys.setswitchinterval(before)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("captures", [False, True])
def test_closing_twice_is_closing_once_and_what_is_closed_says_so(tiny_bundle: Path, captures: bool) -> None:
    session = onnxruntime.InferenceSession(tiny_bundle / "generator.onnx", providers=["CPUExecutionProvider"])
    bound = BoundSession(session, Bundle.open(tiny_bundle).graphs[GENERATOR], "cpu", captures)
    bound.run(feeds(), ["pixels"])
    for _ in range(2):
        bound.close()
    with pytest.raises(BackendError, match="closed; open the engine again"):
        bound.run(feeds(), ["pixels"])


class FakeSession:
    """As ONNX Runtime's session on CUDA, but nothing is computed: it notes what it was made and run with."""

    def __init__(self, session: onnxruntime.InferenceSession, providers: list[Any], takes: str | None = None) -> None:
        self.session, self.asked, self.got = session, providers[0], takes or providers[0][0]
        self.graph_ids: list[str] = []
        self.threads: set[int] = set()

    def get_inputs(self) -> list[Any]:
        return list(self.session.get_inputs())

    def get_outputs(self) -> list[Any]:
        return list(self.session.get_outputs())

    def get_providers(self) -> list[str]:
        return [self.got, "CPUExecutionProvider"]

    def io_binding(self) -> Any:  # noqa: ANN401
        bound: dict[str, FakeValue] = {}
        return types.SimpleNamespace(
            bound=bound, bind_ortvalue_input=bound.__setitem__, bind_ortvalue_output=bound.__setitem__
        )

    def run_with_iobinding(self, binding: Any, options: Any) -> None:  # noqa: ANN401
        assert {value.device for value in binding.bound.values()} == {"cuda"}
        self.graph_ids.append(options.entries.get("gpu_graph_id", ""))
        self.threads.add(threading.get_ident())


class FakeValue:
    """Memory on a GPU, of which only size and place are real."""

    made = 0

    def __init__(self, shape: list[int], dtype: np.dtype[Any], device: str, number: int) -> None:
        del number
        self.array, self.device = np.zeros(shape, dtype), device
        FakeValue.made += 1

    def update_inplace(self, data: Array) -> None:
        assert (data.shape, data.dtype, data.flags.c_contiguous) == (self.array.shape, self.array.dtype, True)

    def numpy(self) -> Array:
        return self.array


class FakeOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[FakeSession]:
    """Sessions on a GPU that is not there."""
    real, made = onnxruntime.InferenceSession, list[FakeSession]()

    def make(file: Path, options: object, providers: list[Any], enable_fallback: int) -> FakeSession:
        assert not enable_fallback
        made.append(FakeSession(real(file, options, providers=["CPUExecutionProvider"]), providers))
        return made[-1]

    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "RunOptions", FakeOptions)
    monkeypatch.setattr(onnxruntime, "OrtValue", types.SimpleNamespace(ortvalue_from_shape_and_type=FakeValue))
    monkeypatch.delenv(CUDA_GRAPHS, raising=False)
    monkeypatch.setattr(FakeValue, "made", 0)
    return made


def provider_options(session: FakeSession) -> Mapping[str, str]:
    assert session.asked[0] == "CUDAExecutionProvider"
    options: Mapping[str, str] = session.asked[1]
    return options


def test_on_cuda_buffers_are_allocated_once_per_size(tiny_bundle: Path, cuda: list[FakeSession], cache: Path) -> None:
    runner = opened(tiny_bundle, device="cuda")
    for _ in range(3):
        found = runner.run(feeds(2), ["pixels"])["pixels"]
        assert (found.shape, found.dtype.name) == ((2, 32, 32, 3), "uint8")
    assert FakeValue.made == 4  # three inputs and the pixels; the image stays where it is
    runner.run(feeds(3), ["pixels"])
    assert FakeValue.made == 8
    assert provider_options(cuda[0]) == {"use_tf32": "0", "enable_cuda_graph": "0"}
    assert set(cuda[0].graph_ids) == {""}
    assert not cache.exists()  # what is optimized for a CPU is no use on a GPU


def test_buffers_of_sizes_long_not_used_are_given_back(tiny_bundle: Path, cuda: list[FakeSession]) -> None:
    runner = opened(tiny_bundle, device="cuda")
    for batch in range(1, MAX_CACHED + 2):
        runner.run(feeds(batch), ["pixels"])
    made = FakeValue.made
    runner.run(feeds(MAX_CACHED), ["pixels"])
    assert FakeValue.made == made
    runner.run(feeds(1), ["pixels"])
    assert FakeValue.made == made + 4


def test_cuda_graphs_are_captured_for_the_generator_when_asked_for(
    tiny_bundle: Path, cuda: list[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CUDA_GRAPHS, "1")
    runner = opened(tiny_bundle, device="cuda")
    assert provider_options(cuda[0])["enable_cuda_graph"] == "1"
    for batch in (1, 2, 1, 2):
        runner.run(feeds(batch), ["pixels"])
    assert cuda[0].graph_ids == ["1", "2", "1", "2"]  # a graph belongs to its buffers
    opened(tiny_bundle, graph=TEXT_ENCODER, device="cuda")
    assert provider_options(cuda[1])["enable_cuda_graph"] == "0"


def test_past_the_bound_no_size_is_captured_and_none_is_captured_again(
    tiny_bundle: Path, cuda: list[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CUDA_GRAPHS, "1")
    runner = opened(tiny_bundle, device="cuda")
    sizes = range(1, MAX_CAPTURED + MAX_CACHED + 3)
    for _ in range(3):
        for batch in sizes:
            runner.run(feeds(batch), ["pixels"])
    captured = [str(number) for number in range(1, MAX_CAPTURED + 1)]
    assert cuda[0].graph_ids == 3 * [*captured, *["-1"] * (len(sizes) - MAX_CAPTURED)]


def test_captured_sizes_run_on_one_thread_whoever_asks(
    tiny_bundle: Path, cuda: list[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CUDA_GRAPHS, "1")
    runner = opened(tiny_bundle, device="cuda")
    for _ in range(3):
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda batch: runner.run(feeds(batch), ["pixels"]), [1, 2, 1, 2]))
    assert len(cuda[0].threads) == 1


def test_closing_a_runner_frees_its_session_on_a_gpu(tiny_bundle: Path, cuda: list[FakeSession]) -> None:
    runner = opened(tiny_bundle, device="cuda")
    runner.run(feeds(), ["pixels"])
    session = weakref.ref(cuda.pop())
    for _ in range(2):
        runner.close()
    gc.collect()
    assert session() is None
    with pytest.raises(BackendError, match="closed; open the engine again"):
        runner.run(feeds(), ["pixels"])


NO_ROOM = "Failed to allocate memory for requested buffer of size 1"


@pytest.mark.parametrize(
    ("device", "reason", "message"),
    [
        ("cuda", NO_ROOM, "out of GPU memory: use a smaller --batch-size"),
        ("cuda", "CUDA failure 700: an illegal access\nwas met", "failed on cuda: CUDA failure 700: .* access was met"),
        ("cpu", NO_ROOM, "^out of memory: use a smaller --batch-size"),
        ("cpu", "std::bad_alloc", "^out of memory: use a smaller --batch-size"),
        ("cpu", "Non-zero status code returned\nwhile running Conv", "failed on cpu: Non-zero .* while running Conv"),
    ],
)
def test_what_fails_on_a_device_is_a_users_error(
    tiny_bundle: Path, cuda: list[FakeSession], monkeypatch: pytest.MonkeyPatch, device: str, reason: str, message: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(reason)

    runner = opened(tiny_bundle, device=device)
    monkeypatch.setattr(cuda[-1], "run_with_iobinding" if device == "cuda" else "run", fail, raising=False)
    with pytest.raises(BackendError, match=message):
        runner.run(feeds(), ["pixels"])


def test_a_session_that_fell_back_to_the_cpu_is_an_error(
    tiny_bundle: Path, cuda: list[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSession, "get_providers", lambda _: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match="'cuda' was requested, but ONNX Runtime offers only CPUExecutionProvider"):
        opened(tiny_bundle, device="cuda")
