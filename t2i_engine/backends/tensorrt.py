"""TensorRT: engines built on the machine that runs them, for NVIDIA's data-centre and other GPUs."""

from t2i_engine.backends.base import Status
from t2i_engine.tensorrt.flavour import TENSORRT, flavour_status
from t2i_engine.tensorrt.opening import needs_build, open_runner
from t2i_engine.tensorrt.profile import Profile

__all__ = ["needs_build", "open_runner", "status"]

TITLE = "TensorRT"
PACKAGES = ("tensorrt", "cuda-bindings")
IMPORTS = ("t2i_engine.tensorrt",)
MAX_BATCH = Profile().batch.most


def status() -> Status:
    """Whether it is installed, and whether there is a GPU to run it."""
    return flavour_status(TENSORRT)
