"""TensorRT for RTX: engines built ahead of time, on any machine, for NVIDIA's RTX GPUs."""

from t2i_engine.backends.base import Status
from t2i_engine.tensorrt import variant
from t2i_engine.tensorrt.engines import PROFILE, needs_build, open_runner

__all__ = ["needs_build", "open_runner", "status"]

TITLE = variant.TITLES[variant.TENSORRT_RTX]
PACKAGES = (*variant.PACKAGES[variant.TENSORRT_RTX], "cuda-bindings")
IMPORTS = ("tensorrt_rtx", "cuda.bindings.runtime")
MAX_BATCH = PROFILE.batch.maximum


def status() -> Status:
    """Whether it is installed and has a GPU to run on."""
    return variant.variant_status(variant.TENSORRT_RTX)
