"""A convolution for gradient penalties: the gradient of its input can be differentiated again at the usual speed.

PyTorch differentiates a convolution's backward pass by convolutions with kernels as large as the feature maps. The same
derivatives are an ordinary convolution and an ordinary weight gradient (Karras et al., StyleGAN2, "conv2d_gradfix").
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Context = Any
"""An autograd function's, which takes any attribute."""

_input_gradients_alone = False
"""Not thread-local: on a GPU, gradients are computed in a thread of their own."""


@contextmanager
def input_gradients_alone() -> Iterator[None]:
    """Within this context, gradients of inputs are needed, not of weights, and will themselves be differentiated."""
    global _input_gradients_alone
    _input_gradients_alone = True
    try:
        yield
    finally:
        _input_gradients_alone = False


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with square kernels and strides, without groups and dilation."""

    def __init__(
        self, in_channels: int, out_channels: int, side: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, side, stride, padding, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Convolves (B, in, H, W)."""
        device = features.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        stride, padding = self.stride[0], int(self.padding[0])
        convolved: Tensor = _Convolution.apply(features.to(dtype), self.weight.to(dtype), bias, stride, padding)
        return convolved


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if _input_gradients_alone:
            of_input: Tensor = _InputGradient.apply(gradient, x, weight, *ctx.geometry)
            return of_input, None, None, None, None
        return *_gradients(gradient, x, weight, ctx.geometry, ctx.needs_input_grad[:3]), None, None


class _InputGradient(torch.autograd.Function):
    """Linear in `gradient` and in `weight`; `x` provides only its shape."""

    @staticmethod
    def forward(ctx: Context, gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(gradient, weight)
        ctx.geometry = stride, padding
        of_input = _gradients(gradient, x, weight, ctx.geometry, (True, False, False))[0]
        assert of_input is not None
        return of_input

    @staticmethod
    def backward(ctx: Context, second: Tensor) -> tuple[Tensor | None, ...]:
        gradient, weight = ctx.saved_tensors
        of_gradient = F.conv2d(second, weight, None, *ctx.geometry) if ctx.needs_input_grad[0] else None
        of_weight = _gradients(gradient, second, weight, ctx.geometry, (False, ctx.needs_input_grad[2], False))[1]
        return of_gradient, None, of_weight, None, None


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: tuple[int, int], wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    """The `wanted` ones of the gradients of input, weight and bias; `geometry` is stride and padding."""
    stride, padding = geometry
    found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, wanted
    )
    return found
