"""TensorRT: engines built on the machine that runs them, for any NVIDIA GPU."""

from functools import partial

from t2i_engine.tensorrt import variant
from t2i_engine.tensorrt.engines import PROFILE, build, needs_build, open_runner

__all__ = ["build", "needs_build", "open_runner", "status"]

TITLE = variant.TITLES[variant.TENSORRT]
PACKAGES = (*variant.PACKAGES[variant.TENSORRT], "cuda-bindings")
IMPORTS = ("tensorrt", "cuda.bindings.runtime")
MAX_BATCH = PROFILE.batch.maximum

status = partial(variant.variant_status, variant.TENSORRT)
