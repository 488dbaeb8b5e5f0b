import importlib

import pytest

from t2i_engine.backends.base import Status
from t2i_engine.choice import choose
from t2i_engine.errors import BackendError, BundleError, OptionError
from t2i_engine.formats import FORMATS, find

ONNX, PYTORCH = find("onnx"), find("pytorch")
RUNS = Status("1.0", devices={"cuda": "no GPU", "cpu": None})
RUNS_ON_CUDA = Status("1.0", devices={"cuda": None, "cpu": None})
MISSING = Status(lacks="install it")
BROKEN = Status("1.0 and 1.1", lacks="uninstall one")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> "Machine":
    return Machine(monkeypatch)


class Machine:
    """A machine on which each backend has the status that a test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def has(self, **statuses: Status) -> None:
        for name, status in statuses.items():
            module = importlib.import_module(f"t2i_engine.backends.{name}")
            self._monkeypatch.setattr(module, "status", lambda status=status: status)


def test_auto_takes_the_first_row_that_runs_here(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS, pytorch=RUNS)
    choice = choose(FORMATS)
    assert (choice.format, choice.device) == (ONNX, "cpu")


def test_auto_prefers_a_gpu_that_is_there(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS_ON_CUDA)
    assert choose([ONNX]).device == "cuda"


def test_auto_passes_over_what_is_not_installed(machine: Machine) -> None:
    machine.has(onnxruntime=MISSING, pytorch=RUNS)
    assert choose(FORMATS).format == PYTORCH


def test_auto_does_not_pass_over_what_is_broken(machine: Machine) -> None:
    machine.has(onnxruntime=BROKEN, pytorch=RUNS)
    with pytest.raises(BackendError, match="uninstall one"):
        choose(FORMATS)


def test_backend_that_was_asked_for_is_never_replaced(machine: Machine) -> None:
    machine.has(onnxruntime=MISSING, pytorch=RUNS)
    with pytest.raises(BackendError, match="install it"):
        choose(FORMATS, backend="onnxruntime")


def test_device_that_was_asked_for_is_never_replaced(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS, pytorch=RUNS)
    with pytest.raises(
        BackendError, match=r"device 'cuda' cannot be used here: onnxruntime \(no GPU\), pytorch \(no GPU\)"
    ):
        choose(FORMATS, device="cuda")


def test_device_that_was_asked_for_decides_the_backend(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS, pytorch=RUNS_ON_CUDA)
    choice = choose(FORMATS, device="cuda")
    assert (choice.format, choice.device) == (PYTORCH, "cuda")


def test_format_that_the_bundle_does_not_have_is_an_error_that_lists_those_it_has(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS, pytorch=RUNS)
    with pytest.raises(BundleError, match=r"no format for backend 'pytorch'.*it has: onnx \(onnxruntime, fp32\)"):
        choose([ONNX], backend="pytorch")


@pytest.mark.parametrize(
    ("option", "name", "suggestion"),
    [("backend", "onnxruntim", "onnxruntime"), ("precision", "fp23", "fp32"), ("device", "cud", "cuda")],
)
def test_unknown_name_is_an_error_with_a_suggestion(option: str, name: str, suggestion: str) -> None:
    with pytest.raises(
        OptionError, match=rf"unknown {option} '{name}' \(did you mean '{suggestion}'\?\); there are: auto"
    ):
        choose(FORMATS, **{option: name})
