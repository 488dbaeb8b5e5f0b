"""FP16: both graphs in half between float32 inputs and outputs, and the proof that half can hold what they compute.

ONNX Runtime computes FP16 graphs on the CPU in fp32, which hides overflow. So the gate runs the same generator in
PyTorch besides, with every result rounded to what half stores, and an error where half would overflow.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from export.built import BuiltFile
from export.folded import FoldedAdaptiveBlock, fold
from export.onnx_graphs import OPSET, TextEncoderGraph, checked, traced
from t2i_engine.backends.base import Array, Runner
from t2i_engine.bundle import graphs_of
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Form, Format
from training.models.conditioning import Augmented, ConditioningAugmentation
from training.models.generator import Generator
from training.models.pixels import to_pixels
from training.models.text_encoder import TextEncoder
from training.models.text_to_image import TextToImage

LARGEST = 65504.0


class HalfTextEncoder(nn.Module):
    """The text encoder in half; its sentence vectors are float32."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = TextEncoderGraph(encoder).half()

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Maps `tokens` int64 (B, T) and `lengths` int64 (B) to sentence vectors, float32 (B, S)."""
        sentence: Tensor = self.encoder(tokens, lengths)
        return sentence.float()


class HalfGenerator(nn.Module):
    """The generator in half between float32 inputs and outputs; mean, variance and adaptive blocks' sums stay float32.

    In the dtype float32 it computes with the same rounded weights, for `HalfStorage` to round the rest.
    """

    def __init__(self, generator: Generator, form: Form, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        self.dtype = dtype
        self.generator = copy.deepcopy(fold(generator, form)).half().to(dtype)
        if generator.augmentation is not None:
            self.generator.augmentation = _Float32Augmentation(generator.augmentation, dtype)
        for module in self.generator.modules():
            if isinstance(module, FoldedAdaptiveBlock):
                module.kernel.data, module.bias.data = module.kernel.data.float(), module.bias.data.float()

    def forward(self, noise: Tensor, sentence: Tensor, condition_noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gives `image` float32 (B, 3, R, R) in [−1, 1] and `pixels` uint8 (B, R, R, 3), rounded half to even."""
        if self.generator.augmentation is None:
            sentence = sentence.to(self.dtype)
        image = self.generator(noise.to(self.dtype), sentence, condition_noise).image.float()
        return image, to_pixels(image)


class HalfStorage(TorchDispatchMode):
    """While it is on, every float32 result is rounded to half; what half cannot hold raises `OverflowError`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's own has no types

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Runs an operator and rounds what it gives."""
        return tree_map_only(Tensor, lambda tensor: self._stored(tensor, func), func(*args, **(kwargs or {})))

    def _stored(self, tensor: Tensor, func: Callable[..., object]) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        largest = tensor.abs().max().item() if tensor.numel() else 0.0
        if largest > LARGEST:
            raise OverflowError(f"{func} gives {largest:g}, half holds {LARGEST:g} at most")
        return tensor.half().float()


@dataclass(frozen=True)
class EmulatedGenerator:
    """A runner for the generator as FP16 hardware stores it, sums in fp32; two and a half times fp32's work."""

    generator: HalfGenerator

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs. Raises `OverflowError` where half cannot hold a result."""
        tensors = {name: torch.from_numpy(feed) for name, feed in feeds.items()}
        with torch.no_grad(), HalfStorage():
            image, pixels = self.generator(**tensors)
        found = {"image": image.numpy(), "pixels": pixels.numpy()}
        return {name: found[name] for name in outputs}


def build(model: TextToImage, row: Format) -> Iterator[BuiltFile]:
    """Exports both graphs, checked as those in fp32 are."""
    graphs = graphs_of(model.sizes)
    encoder, generator = HalfTextEncoder(model.text_encoder), HalfGenerator(model.generator, row.form)
    yield BuiltFile(row.files[TEXT_ENCODER], checked(traced(encoder, graphs[TEXT_ENCODER])), row, TEXT_ENCODER, OPSET)
    content, notes = checked(traced(generator, graphs[GENERATOR])), {"form": row.form}
    yield BuiltFile(row.files[GENERATOR], content, row, GENERATOR, OPSET, notes)


def emulate(model: TextToImage, row: Format) -> dict[str, Runner]:
    """The generator's arithmetic; a text encoder's states are in (−1, 1), so that nothing there overflows."""
    return {GENERATOR: EmulatedGenerator(HalfGenerator(model.generator, row.form, torch.float32).eval())}


class _Float32Augmentation(ConditioningAugmentation):
    """Computes in float32, and gives its condition in `dtype`."""

    def __init__(self, augmentation: ConditioningAugmentation, dtype: torch.dtype) -> None:
        super().__init__(augmentation.statistics.in_features)
        self.statistics, self.dtype = augmentation.statistics, dtype

    def forward(self, sentence: Tensor, noise: Tensor) -> Augmented:
        """As the augmentation it is made from."""
        augmented = super().forward(sentence, noise)
        return augmented._replace(condition=augmented.condition.to(self.dtype))
