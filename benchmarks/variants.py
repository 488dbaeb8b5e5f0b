"""Runners for the rows that are no formats: PyTorch in bf16, PyTorch compiled, and a plain export."""

from collections.abc import Mapping, Sequence

import numpy as np

from t2i_engine.backends import onnxruntime, pytorch
from t2i_engine.backends.base import Array, Runner, available_threads
from t2i_engine.bundle import Bundle
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Format


def open_compiled(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> Runner:
    """PyTorch with the generator compiled at its first call; packed sequences do not compile, so the encoder is not."""
    runner = pytorch.open_runner(bundle, row, graph, device, threads)
    if graph == GENERATOR:
        runner.module.compile()
    return runner


def open_bf16(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> Runner:
    """PyTorch with the generator in bf16 and channels-last, between float32 inputs and image."""
    import torch
    from torch import Tensor, nn

    from training.models.generator import GeneratedImage

    class Bf16(nn.Module):
        def __init__(self, generator: nn.Module) -> None:
            super().__init__()
            generator = generator.to(torch.bfloat16)
            self.generator = generator.to(memory_format=torch.channels_last)

        def forward(self, *feeds: Tensor | None) -> GeneratedImage:
            image = self.generator(*(None if feed is None else feed.to(torch.bfloat16) for feed in feeds)).image
            return GeneratedImage(image.float(), None, None)

    runner = pytorch.open_runner(bundle, row, graph, device, threads)
    if graph == GENERATOR:
        runner.module = Bf16(runner.module)
    return runner


class PlainRunner:
    """A generator as `torch.onnx.export` gives it, in a session with ONNX Runtime's own settings but for threads."""

    def __init__(self, bundle: Bundle, row: Format, device: str, threads: int | None) -> None:
        import onnxruntime as runtime

        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or available_threads()
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        self._session = runtime.InferenceSession(bundle.path(row.files[GENERATOR]), options, providers=[provider])

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs; pixels in NumPy."""
        image = self._session.run(["image"], dict(feeds))[0]
        found = {"image": image}
        if "pixels" in outputs:
            levels = np.rint((np.clip(image, -1, 1) + 1) * np.float32(127.5)).astype(np.uint8)
            found["pixels"] = np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
        return {name: found[name] for name in outputs}


def open_plain(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> Runner:
    """A plain export of the generator; the text encoder, which does not export plainly, is the bundle's."""
    if graph == TEXT_ENCODER:
        return onnxruntime.open_runner(bundle, row, graph, device, threads)
    return PlainRunner(bundle, row, device, threads)
