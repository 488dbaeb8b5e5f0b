"""TensorRT for RTX: engines built ahead, on any machine, for NVIDIA's RTX GPUs."""

from t2i_engine.backends.base import Status
from t2i_engine.tensorrt.flavour import TENSORRT_RTX, flavour_status
from t2i_engine.tensorrt.opening import open_runner

__all__ = ["open_runner", "status"]


def status() -> Status:
    """Whether it is installed, and whether there is a GPU to run it."""
    return flavour_status(TENSORRT_RTX)
