"""What the variants of TensorRT share: whether they are installed, whether they start, and what they log."""

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from t2i_engine.errors import BackendError
from t2i_engine.formats import GENERATOR
from t2i_engine.manifest import graphs_of
from t2i_engine.tensorrt import variant as module
from t2i_engine.tensorrt.builder import Profile, build_engine
from t2i_engine.tensorrt.variant import PACKAGES, TENSORRT, TENSORRT_RTX, Log, Variant, load_variant, variant_status
from tests.t2i_engine.tensorrt.fakes import Severity, failing, fake_api
from tests.tiny_model import SIZES

EACH_PACKAGE = [(name, package) for name, packages in PACKAGES.items() for package in packages]


@pytest.mark.parametrize(("name", "package"), EACH_PACKAGE)
def test_each_package_of_a_variant_counts_as_installed(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    def version(asked: str) -> str:
        if asked != package:
            raise PackageNotFoundError
        return "10.16"

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr(module, "find_spec", lambda _: SimpleNamespace())
    status = variant_status(name)
    assert status.lacks is None
    assert status.version is not None
    assert "10.16" in status.version


def test_a_variant_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", {TENSORRT: ("no-such-package",)})
    lacks = variant_status(TENSORRT).lacks
    assert lacks
    assert 'pip install "t2i-engine[tensorrt]"' in lacks


def test_a_builder_that_failed_is_not_used() -> None:
    variant = Variant(TENSORRT, "10.16", fake_api(Builder=failing))
    with pytest.raises(BackendError, match=r"TensorRT 10\.16 cannot start: CUDA initialization failure"):
        build_engine(variant, b"", graphs_of(SIZES)[GENERATOR], "fp16", Profile(), {})


def test_an_old_error_does_not_stop_a_builder() -> None:
    variant = Variant(TENSORRT, "10.16", fake_api(Builder=lambda _: "a builder"))
    variant.log.logger.log(Severity.ERROR, "an earlier failure")
    assert variant.start("Builder") == "a builder"


def test_a_running_process_keeps_few_lines() -> None:
    log = Log(fake_api())
    for number in range(1000):
        log.logger.log(Severity.VERBOSE, "verbose")
        log.logger.log(Severity.ERROR, f"error {number}")
    assert len(log.errors) <= 3
    assert log.reason() == "error 0; error 1; error 2"
    log.logger.log(Severity.ERROR, "another failure")
    assert log.reason() == "another failure"
    assert log.reason() == "no reason given"


def test_a_build_gets_every_line_while_it_lasts() -> None:
    log = Log(fake_api())
    log.logger.log(Severity.VERBOSE, "before")
    with log.recording() as lines:
        log.logger.log(Severity.VERBOSE, "during")
        log.logger.log(Severity.ERROR, "a failure")
    log.logger.log(Severity.VERBOSE, "after")
    assert lines == ["during", "a failure"]


def test_several_runtimes_log_to_the_same_place() -> None:
    """TensorRT ignores the logger of a second runtime, and with it the reasons for that one's failures."""
    pytest.importorskip("tensorrt_rtx", reason='pip install "t2i-engine[tensorrt-rtx]"')
    with load_variant(TENSORRT_RTX).log.recording() as lines:
        runtimes = [load_variant(TENSORRT_RTX).start("Runtime") for _ in range(2)]
    assert len(runtimes) == 2
    assert not [line for line in lines if "differs from one already registered" in line]
