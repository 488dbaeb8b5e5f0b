"""TensorRT: engines built on the machine that runs them, for NVIDIA's data-centre and other GPUs."""

from t2i_engine.backends.base import Status
from t2i_engine.tensorrt.flavour import TENSORRT, flavour_status
from t2i_engine.tensorrt.opening import open_runner

__all__ = ["open_runner", "status"]


def status() -> Status:
    """Whether it is installed, and whether there is a GPU to run it."""
    return flavour_status(TENSORRT)
