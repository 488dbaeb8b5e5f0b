"""TensorRT for RTX: engines built ahead of time, on any machine, for NVIDIA's RTX GPUs."""

from functools import partial

from t2i_engine.tensorrt import variant
from t2i_engine.tensorrt.engines import PROFILE, build, needs_build, open_runner

__all__ = ["build", "needs_build", "open_runner", "status"]

TITLE = variant.TITLES[variant.TENSORRT_RTX]
PACKAGES = (*variant.PACKAGES[variant.TENSORRT_RTX], "cuda-bindings")
IMPORTS = ("tensorrt_rtx", "cuda.bindings.runtime")
MAX_BATCH = PROFILE.batch.maximum

status = partial(variant.variant_status, variant.TENSORRT_RTX)
