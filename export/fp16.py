"""FP16: both graphs in half precision between float32 inputs and outputs, and an emulator that shows overflow.

ONNX Runtime computes FP16 graphs on the CPU in fp32, which hides overflow. So the gate also runs the generator in
PyTorch with every result rounded to FP16, which fails if one does not fit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from export.artifact import Artifact
from export.onnx_graphs import GeneratorGraph, TextEncoderGraph, to_artifact, traced
from export.optimized_generator import OptimizedAdaptiveBlock
from t2i_engine.backends.base import Array, Runner
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Form, Format
from t2i_engine.manifest import graphs_of
from training.models.conditioning import Augmented, ConditioningAugmentation
from training.models.generator import Generator
from training.models.text_encoder import TextEncoder
from training.models.text_to_image import TextToImage

FP16_MAX = 65504.0


class Fp16TextEncoder(nn.Module):
    """The text encoder in FP16; its sentence vectors are float32."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = TextEncoderGraph(encoder).half()

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Maps `tokens` int64 (B, T) and `lengths` int64 (B) to sentence vectors, float32 (B, S)."""
        sentence: Tensor = self.encoder(tokens, lengths)
        return sentence.float()


class Fp16Generator(GeneratorGraph):
    """The generator in FP16, but for conditioning augmentation and the sums of adaptive blocks, which stay in float32.

    With `dtype` float32 only its weights are rounded to FP16, and `Fp16Rounding` rounds the rest.
    """

    def __init__(self, generator: Generator, form: Form, dtype: torch.dtype = torch.float16) -> None:
        super().__init__(generator, form, torch.float16)
        self.generator.to(dtype)
        self.dtype = self.condition_dtype = dtype
        if generator.augmentation is not None:
            self.generator.augmentation = _Float32Augmentation(generator.augmentation, dtype)
            self.condition_dtype = torch.float32
        for module in self.generator.modules():
            if isinstance(module, OptimizedAdaptiveBlock):
                module.kernel.data, module.bias.data = module.kernel.data.float(), module.bias.data.float()


class Fp16Rounding(TorchDispatchMode):
    """While active, rounds every float32 result to FP16; raises `OverflowError` for one that does not fit."""

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Runs an operator and rounds its results."""
        return tree_map_only(Tensor, lambda tensor: self._rounded(tensor, func), func(*args, **(kwargs or {})))

    def _rounded(self, tensor: Tensor, func: Callable[..., object]) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        largest = tensor.abs().max().item() if tensor.numel() else 0.0
        if largest > FP16_MAX:
            raise OverflowError(f"{func} gives {largest:g}; FP16 holds at most {FP16_MAX:g}")
        return tensor.half().float()


@dataclass(frozen=True)
class EmulatedGenerator:
    """Runs the generator as FP16 hardware would, with sums in fp32; takes two and a half times as long as fp32."""

    generator: Fp16Generator

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs. Raises `OverflowError` if a result does not fit FP16."""
        tensors = {name: torch.from_numpy(feed) for name, feed in feeds.items()}
        with torch.no_grad(), Fp16Rounding():  # type: ignore[no-untyped-call]  # untyped in PyTorch
            image, pixels = self.generator(**tensors)
        found = {"image": image.numpy(), "pixels": pixels.numpy()}
        return {name: found[name] for name in outputs}


def build(model: TextToImage, row: Format) -> Iterator[Artifact]:
    """Exports both graphs."""
    graphs = graphs_of(model.sizes)
    encoder, generator = Fp16TextEncoder(model.text_encoder), Fp16Generator(model.generator, row.form)
    yield to_artifact(traced(encoder, graphs[TEXT_ENCODER]), row, TEXT_ENCODER)
    yield to_artifact(traced(generator, graphs[GENERATOR]), row, GENERATOR, {"form": row.form})


def emulate(model: TextToImage, row: Format) -> dict[str, Runner]:
    """A runner for the generator only: a text encoder's states are in (−1, 1) and cannot overflow."""
    return {GENERATOR: EmulatedGenerator(Fp16Generator(model.generator, row.form, torch.float32).eval())}


class _Float32Augmentation(ConditioningAugmentation):
    """Computes in float32 and returns its condition in `dtype`."""

    def __init__(self, augmentation: ConditioningAugmentation, dtype: torch.dtype) -> None:
        super().__init__(augmentation.statistics.in_features)
        self.statistics, self.dtype = augmentation.statistics, dtype

    def forward(self, sentence: Tensor, noise: Tensor) -> Augmented:
        """As the augmentation it wraps."""
        augmented = super().forward(sentence, noise)
        return augmented._replace(condition=augmented.condition.to(self.dtype))
