"""The fold: a nearest ×2 upsample followed by a 3×3 convolution, as one transposed convolution, exactly.

Along one axis a 3-tap kernel [a, b, c] on a doubled signal reads every input twice or once: even outputs see
a·x[i-1] + (b+c)·x[i], odd ones (a+b)·x[i] + c·x[i+1]. That is a transposed convolution of stride 2 and padding 1 with
the taps [c, b+c, a+b, a]. In two dimensions the same holds along each axis: 36 multiplications become 16.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def folded_kernel(kernel: Tensor) -> Tensor:
    """Maps a 3×3 kernel (out, in, 3, 3) to the kernel (in, out, 4, 4) of the equal transposed convolution."""
    for axis in (2, 3):
        a, b, c = kernel.unbind(axis)
        kernel = torch.stack([c, b + c, a + b, a], dim=axis)
    return kernel.transpose(0, 1)


def upsampled_convolution(features: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Convolves (B, in, H, W), upsampled ×2, with `kernel` (out, in, 3, 3): (B, out, 2H, 2W), never upsampling."""
    return F.conv_transpose2d(features, folded_kernel(kernel), bias, stride=2, padding=1)
