"""`auto` for whoever expects many pictures: the fastest format on this CPU, measured once."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from t2i_engine import speed
from t2i_engine.bundle import Bundle
from t2i_engine.engine import Engine
from t2i_engine.errors import BackendError, OptionError
from t2i_engine.formats import Format
from t2i_engine.info import system_info
from t2i_engine.speed import Speed

Measured = list[str]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Measured:
    """A cache of its own, and which formats were drawn with to measure them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    names: Measured = []
    measure: Callable[[Bundle, Format, int | None], Speed | None] = speed._measure

    def noted(bundle: Bundle, row: Format, threads: int | None) -> Speed | None:
        names.append(row.name)
        return measure(bundle, row, threads)

    monkeypatch.setattr(speed, "_measure", noted)
    return names


def chosen(bundle: Path, expect: str, precision: str = "auto", threads: int | None = 1) -> str:
    with Engine.open(bundle, precision=precision, device="cpu", threads=threads, expect=expect) as engine:
        assert engine.generate("a red bird").pixels.any()
        return engine.selection.format.name


def test_one_picture_waits_for_no_measurement(plain_bundle: Path, measured: Measured) -> None:
    assert chosen(plain_bundle, "one") == "onnx"
    assert measured == []


def test_formats_are_measured_once_for_many_pictures(plain_bundle: Path, measured: Measured) -> None:
    first = chosen(plain_bundle, "many")
    assert measured == ["onnx", "pytorch"]
    assert chosen(plain_bundle, "many") == first
    assert measured == ["onnx", "pytorch"]
    chosen(plain_bundle, "many", threads=2)
    assert len(measured) == 4


@pytest.mark.parametrize("fastest", ["onnx", "pytorch"])
def test_the_fastest_draws_many_pictures(plain_bundle: Path, monkeypatch: pytest.MonkeyPatch, fastest: str) -> None:
    monkeypatch.setattr(speed, "speed", lambda _, row, *__: Speed(1.0 if row.name == fastest else 2.0))
    assert chosen(plain_bundle, "many") == fastest


def test_a_precision_that_was_asked_for_limits_what_is_measured(tiny_bundle: Path, measured: Measured) -> None:
    assert chosen(tiny_bundle, "many", precision="int8").endswith("int8")
    assert {name.rpartition("-")[2] for name in measured} <= {"int8"}


def test_a_format_that_cannot_be_opened_is_passed_over(
    plain_bundle: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise BackendError("it is broken: mend it")

    monkeypatch.setattr(logging.getLogger("t2i_engine"), "propagate", True)
    monkeypatch.setattr("t2i_engine.backends.onnxruntime.open_runner", fail)
    assert chosen(plain_bundle, "many") == "pytorch"
    assert "format onnx cannot be measured: it is broken" in caplog.text


def test_what_was_measured_is_shown(plain_bundle: Path, measured: Measured) -> None:
    bundle = Bundle.open(plain_bundle)
    assert speed.speed(bundle, bundle.formats[0]) is None
    chosen(plain_bundle, "many", threads=None)
    found = speed.speed(bundle, bundle.formats[0])
    assert found
    line = next(line for line in system_info(bundle).as_text().splitlines() if line.split()[:1] == ["onnx"])
    assert line.split()[-1] == f"{found.milliseconds:.1f}"


def test_anything_else_that_is_expected_is_an_error(plain_bundle: Path) -> None:
    with pytest.raises(OptionError, match="expect is 'some'; 'one' or 'many' expected"):
        Engine.open(plain_bundle, expect="some")
