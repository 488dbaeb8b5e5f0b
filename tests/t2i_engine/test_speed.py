"""`auto` on a CPU: the format that draws what is asked for soonest, by figures measured once."""

import json
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2i_engine import speed
from t2i_engine.bundle import Bundle
from t2i_engine.engine import MANY, Engine
from t2i_engine.errors import OptionError
from t2i_engine.files import cache_folder
from t2i_engine.formats import find
from t2i_engine.info import system_info
from t2i_engine.speed import Speed, fastest_first

MEASURE = speed._measure
START = subprocess.run
OPENS_FAST, DRAWS_FAST = Speed(100, 10), Speed(400, 4)


class Machine:
    """What a new process would find about each format, and which formats were measured."""

    def __init__(self) -> None:
        self.speeds = {"onnx": OPENS_FAST, "openvino": DRAWS_FAST}
        self.measured: list[str] = []

    def start(self, command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        name = command[-2]
        self.measured.append(name)
        if name not in self.speeds:
            raise subprocess.CalledProcessError(1, command, stderr=b"Traceback\nit is broken: mend it\n")
        found = self.speeds[name]
        return subprocess.CompletedProcess(command, 0, b"a banner\n" + json.dumps(vars(found)).encode())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(speed, "_measure", MEASURE)
    monkeypatch.setattr(speed, "RUNS", 1)
    machine = Machine()
    monkeypatch.setattr(subprocess, "run", machine.start)
    monkeypatch.setattr(logging.getLogger("t2i_engine"), "propagate", True)
    return machine


def chosen(folder: Path, expect: int, precision: str = "fp32", threads: int | None = 1) -> str:
    return Engine.select(folder, "auto", precision, "cpu", threads, expect)[1].format.name


@pytest.mark.parametrize(("expect", "name"), [(1, "onnx"), (30, "onnx"), (70, "openvino"), (MANY, "openvino")])
def test_what_is_expected_decides(tiny_bundle: Path, machine: Machine, expect: int, name: str) -> None:
    assert chosen(tiny_bundle, expect) == name


def test_a_later_format_must_be_a_tenth_faster(tiny_bundle: Path, machine: Machine) -> None:
    machine.speeds["openvino"] = Speed(95, 9.5)
    assert chosen(tiny_bundle, 1) == chosen(tiny_bundle, MANY) == "onnx"


def test_an_engine_is_opened_with_what_was_chosen(tiny_bundle: Path, machine: Machine) -> None:
    with Engine.open(tiny_bundle, precision="fp32", device="cpu", expect=1000) as engine:
        assert engine.selection.format.name == "openvino"
        assert engine.generate("a red bird").pixels.any()


def test_a_single_runtime_is_not_measured(plain_bundle: Path, machine: Machine) -> None:
    assert chosen(plain_bundle, 1, precision="auto") == chosen(plain_bundle, MANY, precision="auto") == "onnx"
    assert machine.measured == []


def test_formats_are_measured_once(tiny_bundle: Path, machine: Machine) -> None:
    for expect in (1, 1, MANY):
        chosen(tiny_bundle, expect)
    assert machine.measured == ["onnx", "openvino"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("version", lambda _: "9.9"),
        ("processor", lambda: "another one"),
        ("installed_versions", lambda _: {"all": "2"}),
        ("available_threads", lambda: 77),
    ],
)
def test_what_is_stale_is_measured_again(
    tiny_bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[..., object]
) -> None:
    chosen(tiny_bundle, 1, threads=None)
    monkeypatch.setattr(speed, name, change)
    chosen(tiny_bundle, 1, threads=None)
    assert machine.measured == ["onnx", "openvino"] * 2


def test_another_models_figures_are_its_own(tiny_bundle: Path, machine: Machine) -> None:
    chosen(tiny_bundle, 1)
    other = Bundle.open(tiny_bundle)
    entry = other.manifest.files["generator.onnx"]
    object.__setattr__(entry, "sha256", "0" * 64)
    assert speed.speed(other, find("onnx"), 1) is None
    assert speed.speed(Bundle.open(tiny_bundle), find("onnx"), 1) == OPENS_FAST


def test_a_damaged_figure_is_measured_again(tiny_bundle: Path, machine: Machine) -> None:
    chosen(tiny_bundle, 1)
    for file in (cache_folder() / "speed").iterdir():
        file.write_bytes(b'{"first": 3}')
    assert chosen(tiny_bundle, MANY) == "openvino"
    assert len(machine.measured) == 4


def test_a_format_that_cannot_be_measured_is_passed_over(
    tiny_bundle: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    del machine.speeds["onnx"]
    assert chosen(tiny_bundle, 1) == "openvino"
    assert "format onnx cannot be measured: it is broken: mend it; to try again: t2i-engine cache clear" in caplog.text
    assert chosen(tiny_bundle, 1) == "openvino"
    assert machine.measured == ["onnx", "openvino"]


def test_a_precision_that_the_processor_lacks_is_asked_for_once(
    tiny_bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def lacks(row: Any, device: str) -> str | None:  # noqa: ANN401
        asked.append(row.name)
        return "no bf16 here" if row.precision == "bf16" else None

    monkeypatch.setattr(speed, "row_lacks", lacks)
    bundle, rows = Bundle.open(tiny_bundle), [find(name) for name in ("openvino-bf16", "onnx", "openvino")]
    for _ in range(2):
        assert [row.name for row in fastest_first(bundle, rows, 1)] == ["onnx", "openvino", "openvino-bf16"]
    assert asked == ["openvino-bf16", "onnx", "openvino"]


@pytest.mark.parametrize(("expect", "measured"), [(1, 0), (1000, 4)])
def test_without_a_cache_only_what_pays_is_measured(
    tiny_bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, expect: int, measured: int
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    names = {chosen(tiny_bundle, expect) for _ in range(2)}
    assert names == {"openvino" if measured else "onnx"}
    assert len(machine.measured) == measured


def test_what_was_measured_is_shown_and_nothing_else_is_measured(tiny_bundle: Path, machine: Machine) -> None:
    bundle = Bundle.open(tiny_bundle)
    lines = system_info(bundle).as_text().splitlines()
    assert next(line for line in lines if line.split()[:1] == ["onnx"]).split()[-2:] == ["-", "-"]
    assert machine.measured == []
    machine.speeds |= {row.name: Speed(2000, 20) for row in bundle.formats if row.name not in machine.speeds}
    chosen(tiny_bundle, 1, precision="auto", threads=None)
    found = system_info(bundle)
    shown = {line.split()[0]: line.split()[-2:] for line in found.as_text().splitlines() if line.strip()}
    assert (shown["onnx"], shown["openvino"], shown["pytorch"]) == (["100", "10.0"], ["400", "4.0"], ["-", "-"])
    assert found.auto.startswith("format onnx (fp32)")
    assert found.auto_many.startswith("format openvino (fp32)")
    assert found.as_json()["speed"]["onnx"] == {"first": 100.0, "each": 10.0}  # type: ignore[index]


def test_a_new_process_measures(tiny_bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", START)
    bundle, rows = Bundle.open(tiny_bundle), [find("onnx"), find("onnx-fp16")]
    fastest_first(bundle, rows, 1)
    for row in rows:
        found = speed.speed(bundle, row)
        assert found
        assert 0 < found.each < found.first < 60_000


@pytest.mark.parametrize("expect", [0, -5])
def test_no_pictures_cannot_be_expected(plain_bundle: Path, expect: int) -> None:
    with pytest.raises(OptionError, match="pictures are too few to expect; 1 or more expected"):
        Engine.open(plain_bundle, expect=expect)
