"""Which engine is used, and when it is built again: the cache, the bundle's own engines, the proof on first use."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner

from t2i_engine.backend_selection import selectable
from t2i_engine.backends.base import Array, Status
from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.cli import main
from t2i_engine.errors import BackendError, BundleError, ParityError
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Differences, Format, find
from t2i_engine.manifest import FileEntry, Graph, Manifest
from t2i_engine.picture_reference import PICTURES, make_picture_reference
from t2i_engine.reference import REFERENCE, Reference
from t2i_engine.tensorrt import engines
from t2i_engine.tensorrt.builder import BuiltEngine, Profile, Range
from t2i_engine.tensorrt.cuda import Gpu
from t2i_engine.tensorrt.engines import (
    EngineRequest,
    bundled_records,
    cached_records,
    engine_file,
    engine_key,
    open_runner,
)
from t2i_engine.tensorrt.record import EngineRecord, Layer
from t2i_engine.tensorrt.variant import TENSORRT, TENSORRT_RTX, Variant
from tests.t2i_engine.painters import paint
from tests.tiny_model import SIZES, WORDS

GPU = Gpu("NVIDIA GeForce RTX 4090", "sm89", "13.0")
B = 2


def row(backend: str) -> Format:
    files = {TEXT_ENCODER: "text_encoder.tensorrt-fp16.onnx", GENERATOR: "generator.tensorrt-fp16.onnx"}
    tolerance = Differences(sentence=1e-2, psnr=55)
    return Format(f"{backend}-fp16", files, "fp16", backend, {"cuda": backend}, "", tolerance, "half")


def variant(backend: str = TENSORRT, version: str = "10.16") -> Variant:
    api = SimpleNamespace(ComputeCapability=None) if backend == TENSORRT_RTX else SimpleNamespace()
    return Variant(backend, version, api)


def reference() -> Reference:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return random.normal(0, 0.3, shape).astype(np.float32)

    side, width = SIZES.resolution, SIZES.sentence_width
    return Reference(
        captions=np.array(["a", "b"]),
        seeds=np.arange(B),
        tokens=np.ones((B, 3), np.int64),
        lengths=np.full(B, 3),
        noise=normal(B, SIZES.noise_width),
        condition_noise=normal(B, width),
        sentence=normal(B, width),
        image=normal(B, 3, side, side),
        pixels=np.zeros((B, side, side, 3), np.uint8),
    )


def made(content: bytes, key: Mapping[str, str]) -> BuiltEngine:
    layers = (Layer("conv", "CONVOLUTION", ("Half",), ("Half",)),)
    sha256 = hashlib.sha256(content).hexdigest()
    return BuiltEngine(content, EngineRecord(dict(key), sha256, 0.1, (), (), layers, layers, {}))


@dataclass
class Machine:
    """A machine with a cache, on which building an engine is noted."""

    folder: Path
    log: pytest.LogCaptureFixture
    built: list[dict[str, str]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def bundle(self) -> Bundle:
        names = row(TENSORRT).files
        graphs = {names[graph]: graph for graph in names}
        contents: dict[str, bytes | Path] = {name: f"graph of the {graph}".encode() for name, graph in graphs.items()}
        contents |= {"vocabulary.json": str(list(WORDS)).replace("'", '"').encode(), REFERENCE: reference().to_npz()}
        contents[PICTURES] = make_picture_reference(paint(), paint(), SIZES, 8).to_npz()
        contents |= self.files
        records = {name: FileEntry.of(content, graphs.get(name)) for name, content in contents.items()}
        manifest = Manifest("b", SIZES, records, reference=REFERENCE, unverified={"tensorrt-fp16": "no GPU"})
        return Bundle.open(write_bundle(self.folder / "bundle", manifest, contents))

    def request(self, backend: str = TENSORRT, version: str = "10.16", gpu: Gpu = GPU) -> EngineRequest:
        return EngineRequest(self.bundle(), row(backend), GENERATOR, variant(backend, version), gpu)

    def ships(self, targets: str, version: str = "1.7") -> bytes:
        """Puts an engine that was built ahead into the bundle."""
        request = self.request(TENSORRT_RTX, version)
        key = engine_key(request.key["graph"], request.row, request.variant) | {"targets": targets}
        name, engine = engine_file(request.row, GENERATOR), made(b"built ahead", key)
        self.files = {name: engine.content, f"{name}.json": engine.record.to_json()}
        return engine.content

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.log.records]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Machine]:
    machine = Machine(tmp_path, caplog)

    def build(  # as build_engine, without what does not matter here
        _: Variant, onnx: bytes, *arguments: object, timing_cache: Path
    ) -> BuiltEngine:
        key = cast("dict[str, str]", arguments[-1])
        assert timing_cache.suffix == ".timings"
        machine.built.append(key)
        return made(f"engine {len(machine.built)} of {onnx.decode()}".encode(), key)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "build_engine", build)
    logger = logging.getLogger("t2i_engine")
    propagates, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.INFO, "t2i_engine"):
        yield machine
    logger.propagate = propagates


def test_an_engine_is_built_once_and_kept_with_its_record(machine: Machine) -> None:
    first = machine.request().get()
    assert first == b"engine 1 of graph of the generator"
    assert machine.request().get() == first
    assert len(machine.built) == 1
    assert "no engine has been built here yet" in machine.lines[0]
    ((file, record),) = cached_records(machine.bundle())
    assert Path(file).is_relative_to(machine.folder / "cache")
    assert Path(file).read_bytes() == first
    assert record.key["gpu"] == "NVIDIA GeForce RTX 4090 sm89"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "11.4"}, "version 10.16 instead of 11.4"),
        ({"gpu": replace(GPU, driver="13.1")}, "driver 13.0 instead of 13.1"),
    ],
)
def test_a_stale_engine_is_built_again_with_the_reason(machine: Machine, change: dict[str, Any], reason: str) -> None:
    machine.request().get()
    machine.log.clear()
    assert machine.request(**change).get() == b"engine 2 of graph of the generator"
    assert f"the cached engine is stale: {reason}" in machine.lines[0]


def test_another_range_of_sizes_is_built_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.request().get()
    monkeypatch.setattr(engines, "PROFILE", Profile(batch=Range(1, 1, 2)))
    machine.log.clear()
    machine.request().get()
    assert "the cached engine is stale: profile" in machine.lines[0]


def test_engines_of_several_gpus_stay_beside_each_other(machine: Machine) -> None:
    other = replace(GPU, name="NVIDIA H100", architecture="sm90")
    first, second = machine.request().get(), machine.request(gpu=other).get()
    assert first != second
    assert (machine.request().get(), machine.request(gpu=other).get()) == (first, second)


@pytest.mark.parametrize("suffix", ["", ".json"])
@pytest.mark.parametrize("damage", [b"", b"damaged"])
def test_a_damaged_engine_or_record_is_built_again(machine: Machine, suffix: str, damage: bytes) -> None:
    machine.request().get()
    file = machine.request().file
    file.with_name(file.name + suffix).write_bytes(damage)
    machine.log.clear()
    assert machine.request().get() == b"engine 2 of graph of the generator"
    assert "the cached engine is damaged" in machine.lines[0]


def test_a_cache_that_cannot_be_written_is_named_with_the_cure(machine: Machine) -> None:
    (machine.folder / "cache").write_text("a file")
    with pytest.raises(Exception, match="set XDG_CACHE_HOME"):
        machine.request().get()


def test_an_engine_built_ahead_for_this_architecture_is_used(machine: Machine) -> None:
    engine = machine.ships("sm86 sm89")
    assert machine.request(TENSORRT_RTX, "1.7").get() == engine
    assert not machine.built
    ((name, record),) = bundled_records(machine.bundle())
    assert name == "generator.tensorrt-rtx-fp16.engine"
    assert "1 heavy layers of 1 in Half" in record.summary()


@pytest.mark.parametrize(
    ("targets", "version", "reason"),
    [("sm86", "1.7", "built for sm86 instead of sm89"), ("sm89", "1.8", "version 1.8 instead of 1.7")],
)
def test_a_foreign_engine_is_not_used(machine: Machine, targets: str, version: str, reason: str) -> None:
    machine.ships(targets, version)
    assert machine.request(TENSORRT_RTX, "1.7").get() == b"engine 1 of graph of the generator"
    assert f"the bundle's engine does not match: {reason}" in machine.lines[0]


class Drawer:
    """A runner whose image is off by a little."""

    def __init__(self, error: float) -> None:
        self.error, self.runs = error, 0

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        self.runs += 1
        expected = reference()
        return {"image": expected.image + np.float32(self.error), "pixels": expected.pixels}


def test_an_engine_is_compared_with_the_reference_the_first_time_only(machine: Machine) -> None:
    drawer: Any = Drawer(1e-3)
    content = machine.request().get()
    for _ in range(2):
        machine.request().verify_once(content, drawer)
    assert drawer.runs == 1
    machine.request(gpu=replace(GPU, driver="13.1")).verify_once(content, drawer)
    machine.request().verify_once(b"another engine", drawer)
    assert drawer.runs == 3


@pytest.mark.parametrize("error", [0.1, np.nan])
def test_an_engine_that_misses_the_reference_is_an_error_each_time(machine: Machine, error: float) -> None:
    drawer: Any = Drawer(error)
    content = machine.request().get()
    for _ in range(2):
        with pytest.raises(ParityError, match="engine is rejected: format tensorrt-fp16, graph generator"):
            machine.request().verify_once(content, drawer)


@pytest.mark.parametrize("swap", [False, True])
def test_an_engine_is_judged_by_its_pictures(machine: Machine, swap: bool) -> None:
    class Engine(Drawer):
        def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
            if outputs != ["pixels"]:
                return super().run(feeds, outputs)
            pixels = paint()[GENERATOR].run(feeds, outputs)["pixels"]
            return {"pixels": pixels[..., ::-1] if swap else pixels}

    request: Any = replace(machine.request(), row=find("tensorrt-fp16"))
    engine: Any = Engine(0.0)
    content = request.get()
    if swap:
        with pytest.raises(ParityError, match="engine is rejected: format tensorrt-fp16, graph generator, output f"):
            request.verify_once(content, engine)
    else:
        request.verify_once(content, engine)


def test_an_engine_that_cannot_be_judged_is_not_even_built(machine: Machine) -> None:
    bundle = machine.bundle()
    files = {name: entry for name, entry in bundle.manifest.files.items() if name != PICTURES}
    bundle = replace(bundle, manifest=replace(bundle.manifest, files=files))
    unjudged: Any = replace(machine.request(), row=find("tensorrt-fp16"), bundle=bundle)
    for use in (unjudged.get, lambda: unjudged.verify_once(b"an engine of before", Drawer(0.0))):
        with pytest.raises(BundleError, match=r"has no pictures\.npz to judge reduced precision by; export it again"):
            use()
    assert not machine.built
    replace(machine.request(), bundle=bundle).get()  # judged by the reference alone
    assert len(machine.built) == 1


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT is installed, and there is a GPU."""
    monkeypatch.setattr(engines, "load_variant", variant)
    monkeypatch.setattr(engines, "CudaBindings", lambda _: SimpleNamespace(gpu=lambda: GPU))
    monkeypatch.setattr("t2i_engine.backends.tensorrt.status", lambda: Status("10.16", devices={"cuda": None}))


@pytest.mark.usefixtures("with_gpu")
def test_auto_passes_over_engines_that_are_not_built_and_names_the_command(machine: Machine) -> None:
    bundle = machine.bundle()
    assert [one.name for one in bundle.formats] == ["tensorrt-fp16"]
    with pytest.raises(BackendError, match=r"needs a build first: .*t2i-engine build"):
        selectable(bundle)
    assert selectable(bundle, "bf16") == []
    assert f"t2i-engine build {machine.folder / 'bundle'} --formats tensorrt-fp16" in machine.lines[0]
    assert not machine.built
    for graph in (TEXT_ENCODER, GENERATOR):
        EngineRequest(bundle, row(TENSORRT), graph, variant(), GPU).get()
    assert [one.name for one in selectable(bundle)] == ["tensorrt-fp16"]


@pytest.mark.usefixtures("with_gpu")
def test_the_command_builds_and_proves_both_engines(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Runner:
        """Takes the place of the engine's runner, which a GPU is needed for."""

        def __init__(self, _: object, graph: Graph, *__: object) -> None:
            self.outputs = [tensor.name for tensor in graph.outputs]
            self.close: Any = lambda: opened.append(self.outputs[0])

        def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
            if outputs == ["pixels"]:
                return paint()[GENERATOR].run(feeds, outputs)
            return {name: getattr(reference(), name) for name in outputs}

    monkeypatch.setattr(engines, "LoadedEngine", lambda *_: None)
    monkeypatch.setattr(engines, "TensorRtRunner", Runner)
    result = CliRunner().invoke(main, ["build", str(machine.bundle().folder)])
    assert result.exit_code == 0, result.output
    assert opened == ["sentence", "image"]
    assert len(machine.built) == 2
    assert len(list((machine.folder / "cache").rglob("*.verified"))) == 2


@pytest.mark.usefixtures("with_gpu")
def test_a_format_that_the_bundle_lacks_is_an_error(machine: Machine) -> None:
    folder = str(machine.bundle().folder)
    result = CliRunner().invoke(main, ["build", folder, "--formats", "tensorrt-fp16,tensorrt-fp32"])
    assert result.exit_code == 2
    assert "has no format 'tensorrt-fp32' to build; those it has: tensorrt-fp16" in result.stderr
    assert not machine.built


def test_a_bundle_without_tensorrts_graphs_says_what_adds_them(tmp_path: Path) -> None:
    files = {"vocabulary.json": b"[]"}
    manifest = Manifest("b", SIZES, {name: FileEntry.of(content) for name, content in files.items()})
    folder = write_bundle(tmp_path / "bundle", manifest, dict(files))
    result = CliRunner().invoke(main, ["build", str(folder)])
    assert result.exit_code == 2
    assert "t2i-engine export BUNDLE --formats tensorrt-fp16" in result.stderr


def test_without_a_gpu_nothing_is_built(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "load_variant", variant)
    monkeypatch.setattr("t2i_engine.tensorrt.cuda.cuda_device_count", lambda: 0)
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    with pytest.raises(BackendError, match="no NVIDIA GPU with a driver was found"):
        open_runner(machine.bundle(), row(TENSORRT), GENERATOR, "cuda", None)
    with pytest.raises(BackendError, match="runs on cuda only"):
        open_runner(machine.bundle(), row(TENSORRT), GENERATOR, "cpu", None)
    assert not machine.built
