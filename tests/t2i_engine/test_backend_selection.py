import importlib

import pytest

from t2i_engine.backend_selection import select_backend
from t2i_engine.backends.base import Status
from t2i_engine.errors import BackendError, BundleError, OptionError
from t2i_engine.formats import FORMATS, find

ONNX, PYTORCH, BF16 = find("onnx"), find("pytorch"), find("openvino-bf16")
RUNS = Status("1.0", devices={"cuda": "no GPU", "cpu": None})
RUNS_ON_CUDA = Status("1.0", devices={"cuda": None, "cpu": None})
WITHOUT_BF16 = Status("1.0", devices={"cpu": None}, precisions={"bf16": "no bf16: use fp32"})
MISSING = Status(lacks="install it")
BROKEN = Status("1.0 and 1.1", lacks="uninstall one")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> "Machine":
    monkeypatch.setattr("t2i_engine.backend_selection.cuda_device_count", lambda: 1)
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
    choice = select_backend([ONNX, PYTORCH])
    assert (choice.format, choice.device) == (ONNX, "cpu")


def test_auto_prefers_bf16_in_openvino_on_a_cpu_that_has_it(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS, openvino=Status("1.0", devices={"cpu": None}))
    assert select_backend([row for row in FORMATS if row in (ONNX, BF16)]).format == BF16


def test_auto_passes_over_a_precision_that_the_cpu_lacks(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS, openvino=WITHOUT_BF16)
    assert select_backend([BF16, ONNX]).format == ONNX


def test_precision_that_the_cpu_lacks_is_an_error_with_the_cure(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS, openvino=WITHOUT_BF16)
    with pytest.raises(BackendError, match=r"openvino \(no bf16: use fp32\)"):
        select_backend([BF16, ONNX], precision="bf16")


def test_auto_tries_every_row_on_a_gpu_before_any_on_the_cpu(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS_ON_CUDA, openvino=Status("1.0", devices={"cpu": None}))
    choice = select_backend([BF16, ONNX])
    assert (choice.format, choice.device) == (ONNX, "cuda")


def test_auto_prefers_a_gpu_that_is_there(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS_ON_CUDA)
    assert select_backend([ONNX]).device == "cuda"


def test_auto_passes_over_what_is_not_installed(machine: Machine) -> None:
    machine.has(onnxruntime=MISSING, pytorch=RUNS)
    assert select_backend([ONNX, PYTORCH]).format == PYTORCH


def test_auto_does_not_pass_over_what_is_broken(machine: Machine) -> None:
    machine.has(onnxruntime=BROKEN, pytorch=RUNS)
    with pytest.raises(BackendError, match="uninstall one"):
        select_backend([ONNX, PYTORCH])


def test_backend_that_was_asked_for_is_never_replaced(machine: Machine) -> None:
    machine.has(onnxruntime=MISSING, pytorch=RUNS)
    with pytest.raises(BackendError, match="install it"):
        select_backend([ONNX, PYTORCH], backend="onnxruntime")


def test_without_a_device_for_any_format_each_says_what_it_lacks(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2i_engine.backend_selection.cuda_device_count", lambda: 0)
    machine.has(tensorrt=Status("1.0", devices={"cuda": "needs an NVIDIA GPU"}))
    with pytest.raises(BackendError, match=r"no backend can be used here: tensorrt \(needs an NVIDIA GPU\)"):
        select_backend([find("tensorrt-fp16")])


def test_device_that_was_asked_for_is_never_replaced(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS, pytorch=RUNS)
    with pytest.raises(
        BackendError, match=r"device 'cuda' cannot be used here: onnxruntime \(no GPU\), pytorch \(no GPU\)"
    ):
        select_backend([ONNX, PYTORCH], device="cuda")


def test_device_that_was_asked_for_decides_the_backend(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS, pytorch=RUNS_ON_CUDA)
    choice = select_backend([ONNX, PYTORCH], device="cuda")
    assert (choice.format, choice.device) == (PYTORCH, "cuda")


def test_format_that_the_bundle_does_not_have_is_an_error_with_the_command_that_adds_it(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS, pytorch=RUNS)
    with pytest.raises(
        BundleError, match=r"no format for backend 'openvino'.*it has: onnx \(onnxruntime, fp32\)"
    ) as error:
        select_backend([ONNX], backend="openvino", precision="int8", bundle="birds")
    assert "t2i-engine export birds --formats openvino-int8" in error.value.message


def test_the_format_to_add_is_one_that_runs_here(machine: Machine) -> None:
    machine.has(onnxruntime=RUNS, tensorrt=MISSING, tensorrt_rtx=MISSING)
    with pytest.raises(BundleError, match=r"--formats onnx-fp16$"):
        select_backend([ONNX], precision="fp16", bundle="birds")


@pytest.mark.parametrize(
    ("option", "name", "suggestion"),
    [
        ("backend", "onnxruntim", "onnxruntime"),
        ("precision", "fp23", "fp32"),
        ("device", "cud", "cuda"),
        ("device", "gpu", "cuda"),
    ],
)
def test_unknown_name_is_an_error_with_a_suggestion(option: str, name: str, suggestion: str) -> None:
    with pytest.raises(
        OptionError, match=rf"unknown {option} '{name}' \(did you mean '{suggestion}'\?\); available: auto"
    ):
        select_backend(FORMATS, **{option: name})  # type: ignore[arg-type]  # of other parameters
